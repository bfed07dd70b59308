"""What trained a run, from its environment.json: code, libraries, device, and faults of the code of that time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

Environment = Mapping[str, Any]

# Libraries whose version can change a result.
_LIBRARIES = (
    *("torch", "torchvision", "timm", "transformers", "tokenizers", "accelerate"),
    *("datasets", "numpy", "sacrebleu"),
)
# In "fixes" of what code wrote that counts no gradient which nothing needs, and scores answers that are no label as T5.
_RULES = {"older FLOPs": "needed-gradients", "older scoring": "junk-answers"}
_PENALTY_ONCE = "penalty-once"  # in "fixes" of what code wrote that adds SR-STE's penalty once per update


def code(environment: Environment) -> str:
    """Version and commit that trained the run; all of them, in order, where it was resumed with other code."""
    return _over_time(environment, _one_code) or "unknown"


def plugins(config: Mapping[str, Any], environment: Environment) -> str | None:
    """What of the run's recipe, data and model was from outside: ``my_folder/mine.py 846b0cce``, ``my-sparse 0.3``."""
    used = {f"{kind} {(config.get(kind) or {}).get('name')}" for kind in ("recipe", "data", "model")}
    return _over_time(environment, lambda one: _plugins_at_once(one, used))


def _plugins_at_once(environment: Environment, used: set[str]) -> str:
    found = [one for one in environment.get("plugins") or () if used & set(one.get("provides", ()))]
    return ", ".join(f"{one['name']} {one.get('version') or one['hash'][:8]}" for one in found)


def libraries(environment: Environment) -> str | None:
    """``torch 2.15.0, timm 1.0.31``, and variables that may change a result; None where nothing was recorded."""
    return _over_time(environment, _one_set_of_libraries)


def device(environment: Environment) -> str | None:
    """The device by name, as recorded."""
    return _over_time(environment, lambda one: one.get("device") or one.get("device_type") or "")


def _over_time(environment: Environment, told: Callable[[Environment], str]) -> str | None:
    texts = [told(one) for one in (*(environment.get("before") or ()), environment)]
    return ", then ".join(text for text, _ in groupby(texts) if text) or None


def _one_code(environment: Environment) -> str:
    version = (environment.get("versions") or {}).get("nmtrain")
    commit = environment.get("git_commit")
    return ", ".join(part for part in (version, commit and f"commit {commit}") if part)


def _one_set_of_libraries(environment: Environment) -> str:
    versions = environment.get("versions") or {}
    variables = environment.get("variables") or {}
    parts = [f"{name} {versions[name]}" for name in _LIBRARIES if versions.get(name)]
    return ", ".join(parts + [f"{name}={variables[name]}" for name in sorted(variables)])


def older_rules(
    config: Mapping[str, Any], environment: Environment, scored_by: Mapping[str, Any] | None = None
) -> dict[str, bool]:
    """What of a run's numbers was counted or scored by rules of that time; such runs share no table with later ones.

    Args:
        scored_by: what says the "fixes" of the code that scored the run, where that is not what trained it.
    """
    concerned = {
        "older FLOPs": config.get("model", {}).get("kind", "image_classifier") == "image_classifier",
        "older scoring": config.get("data", {}).get("name") == "glue",
    }
    trained = (*(environment.get("before") or ()), environment)
    by = {"older FLOPs": trained, "older scoring": trained if scored_by is None else (scored_by,)}
    return {
        what: True
        for what, fix in _RULES.items()
        if concerned[what] and not all(fix in (one.get("fixes") or ()) for one in by[what])
    }


def penalty_times(config: Mapping[str, Any], summary: Mapping[str, Any], environment: Environment) -> int:
    """How often an update added SR-STE's penalty: once per micro-batch, in code that did not know better."""
    recipe = config["recipe"]
    times = config.get("train", {}).get("micro_batches", 1)
    if recipe["name"] != "sr_ste" or not recipe.get("penalty", True) or times == 1:
        return 1
    trained = (summary, *(environment.get("before") or ()))  # what trained last wrote the summary
    return 1 if all(_PENALTY_ONCE in (one.get("fixes") or ()) for one in trained) else times
