"""What of a config a run's result depends on, and so its name. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePath
from typing import Any

from nmtrain.data import options_of_test_alone
from nmtrain.sparsity.pattern import NMPattern

# Keys that change nothing about a run's result, and so do not enter its name.
NOT_RESULT = {
    ("results_dir",),
    ("force",),
    ("dry_run",),
    ("retry",),
    ("allow_changed",),
    ("cluster",),
    ("tune",),
    ("model", "roles"),  # the default of mask.roles, no more
    ("tracking",),
    ("launch",),
    ("measure", "patterns"),
    ("data", "cache_dir"),
    ("data", "max_damaged"),  # beyond it there is no result
    ("data", "prefetch"),
    ("data", "workers"),
    ("data", "download"),
    ("train", "log_every"),
    ("train", "checkpoint_every"),
    ("train", "keep"),
    ("train", "keep_after"),
    ("train", "eval_batch_size"),
    ("train", "gradient_checkpointing"),
}
# Keys that came later: with these values a run is what it was without the key, and keeps its name.
AS_BEFORE: dict[tuple[str, ...], Any] = {
    ("train", "length_penalty"): 1.0,
    ("train", "flops"): None,
    ("train", "channels_last"): False,
    ("train", "ema"): None,
    ("train", "keep_best"): False,
    ("train", "loss"): "cross_entropy",
    ("train", "mixup"): 0.0,
    ("train", "cutmix"): 0.0,
    ("train", "mix_mode"): "batch",
    ("train", "mix_switch"): 0.5,
    ("train", "mix_prob"): 1.0,
    ("train", "sync_batchnorm"): False,
    ("train", "teacher"): None,
    ("train", "teacher_weight"): 0.5,
    ("train", "teacher_temperature"): 1.0,
    ("data", "test_split"): False,
    ("data", "test_fraction"): 0,
    ("init_from",): None,
    ("optim", "cooldown_fraction"): 0.2,
    ("optim", "lr_batch"): None,
    ("optim", "layer_decay"): None,
    ("recipe", "decay_power"): 1.0,
    ("recipe", "decay_end"): 0.0,
    ("recipe", "tighten"): False,
    ("recipe", "contenders"): None,
}
_RUN_NAME = re.compile(r"-s\d+-[0-9a-f]{8}$")
_ALWAYS_HAD_EVALUATE = ("listops", "wmt")  # so that it stands in the names of their runs whatever its value


def result_digest(values: dict[str, Any], is_dense: bool) -> str:
    """Eight hexadecimal digits: equal for configs of equal results.

    Args:
        values: the plain nested dict that config.yaml holds.
    """
    content = json.dumps(result_values(values, is_dense), sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=4).hexdigest()


def result_values(values: dict[str, Any], is_dense: bool) -> dict[str, Any]:
    """The values that a run's result depends on, however they were written."""
    kept: dict[str, Any] = {
        key: {k: v for k, v in value.items() if _changes_the_result((key, k), v)} if isinstance(value, dict) else value
        for key, value in values.items()
        if _changes_the_result((key,), value)
    }
    if "init_from" in kept:
        kept["init_from"] = Path(str(kept["init_from"])).name  # wherever it lies
    for part in ("data", "model"):
        for key in ("path", "pretrained", "tokenizer"):
            if isinstance(place := kept[part].get(key), str):
                kept[part] = kept[part] | {key: str(PurePath(place))}  # a folder with and without a slash at its end
    if "teacher" in kept["train"]:
        kept["train"]["teacher"] = teacher_name(str(kept["train"]["teacher"]))
    if kept["model"].get("kind") == "image_classifier" and kept["model"].get("pretrained") is None:
        kept["model"].pop("pretrained", None)  # a key that image models did not have
    if kept["data"]["evaluate"] == "val" and kept["data"]["name"] not in _ALWAYS_HAD_EVALUATE:
        unread = ("evaluate", *options_of_test_alone(kept["data"]["name"]))
        kept["data"] = {key: value for key, value in kept["data"].items() if key not in unread}
    if kept["train"]["updates"] is not None or kept["train"].get("flops") is not None:
        kept["train"] = {key: value for key, value in kept["train"].items() if key != "epochs"}  # overridden
    if is_dense:  # trained once for every pattern
        return _canonical({key: value for key, value in kept.items() if key not in ("sparsity", "mask")})
    mask: dict[str, Any] = kept["mask"]
    patterns = {role: str(NMPattern.parse(pattern)) for role, pattern in mask["patterns"].items()}
    stacks = sorted(set(mask.get("stacks") or ()))
    kept["mask"] = mask | {"stacks": stacks if len(stacks) == 1 else None}
    kept["mask"] |= {"roles": sorted(mask["roles"]), "names": sorted(mask["names"]), "patterns": patterns}
    kept["sparsity"] = str(NMPattern.parse(values["sparsity"]))
    return _canonical(kept)


def teacher_name(teacher: str) -> str:
    """What ``train.teacher`` comes to: a run by its name, wherever it lies; any other folder or file by its whole path,
    since many are called ``export``; a model of timm's hub without what may stand before its name."""
    path = PurePath(teacher)
    if path.is_absolute():
        return path.name if _RUN_NAME.search(path.name) else str(path)
    for before in ("hf-hub:", "hf_hub:", "timm/"):
        teacher = teacher.removeprefix(before)
    return teacher


def _changes_the_result(key: tuple[str, ...], value: Any) -> bool:
    return key not in NOT_RESULT and not (key in AS_BEFORE and value == AS_BEFORE[key])


def _canonical(value: Any) -> Any:
    """3 and 3.0 are one number."""
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
