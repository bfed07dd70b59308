"""What each run is, and with which others it is compared."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from nmtrain import data
from nmtrain.recipes import build_recipe
from nmtrain.report.read.flat import Flat
from nmtrain.report.read.folders import RunFolder
from nmtrain.report.read.grouping import (
    DEFAULT_GRADIENT,
    data_label,
    density_of,
    keys_of,
    pattern_text,
    roles_text,
)
from nmtrain.report.read.headline import DEFAULT
from nmtrain.report.read.provenance import older_rules
from nmtrain.report.read.split import split_of
from nmtrain.report.read.starts import Starts
from nmtrain.report.read.tunings import Tunings
from nmtrain.runs.folder import NOT_FINITE

# How a run was lost: its loss or weights were no longer finite, or it failed otherwise.
DIVERGED, FAILED = "diverged", "failed"
_VERSION = re.compile(r"\|?version:[^|]*")  # of sacreBLEU, in its signature


def identify(folders: Sequence[RunFolder], tunings: Tunings) -> tuple[list[dict[str, Any]], dict[str, Flat]]:
    """What each run is; and ``settings``: what the config of each group says, by the group's key.

    ``as_given`` is the group that a run with tuned values would have if they had been given; None for other runs.
    """
    starts = Starts(folders)
    own = [starts.setting(folder.config) if folder.config else None for folder in folders]
    alike = [
        None if setting is None else tunings.setting(folder.path, setting)
        for folder, setting in zip(folders, own, strict=True)
    ]
    metrics = _metrics(folders, alike)
    settings: dict[str, Flat] = {}
    identities: list[dict[str, Any]] = []
    for folder, given, setting, metric in zip(folders, own, alike, metrics, strict=True):
        if setting is None or given is None:
            identities.append({})
            continue
        is_dense = folder.config["recipe"]["name"] == "dense"
        keys = keys_of(setting | metric, is_dense)
        settings.setdefault(keys.group, setting | metric)
        headline = metric.get("headline", DEFAULT)
        as_given = None if given == setting else keys_of(given | metric, is_dense).group
        identities.append(_identity(folder, is_dense) | {"headline": headline, "as_given": as_given, **vars(keys)})
    return identities, settings


def _metrics(folders: Sequence[RunFolder], settings: Sequence[Flat | None]) -> list[Flat]:
    """What each run is compared by, as far as it is not accuracy: its ``headline``, and the metric's ``signature``.

    A run that never recorded a metric has that of the others like it. A signature, without sacreBLEU's version, is
    named where runs that would be compared have several.
    """
    keys = ["" if setting is None else keys_of(setting, False).dense_family for setting in settings]
    headlines: dict[str, set[str]] = defaultdict(set)
    signatures: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key, folder in zip(keys, folders, strict=True):
        if folder.summary is not None:
            headline = folder.summary.get("headline", DEFAULT)
            headlines[key].add(headline)
            if signature := signature_of(folder.summary):
                signatures[key, headline].add(method_of(signature))
    found: list[Flat] = []
    for key, folder in zip(keys, folders, strict=True):
        if folder.summary is None:
            known = headlines.get(key)
            headline = min(known) if known else _headline_of(folder.config.get("data", {}))
            signature = None
        else:
            headline = folder.summary.get("headline", DEFAULT)
            signature = signature_of(folder.summary) if len(signatures[key, headline]) > 1 else None
        found.append({} if headline == DEFAULT else {"headline": headline})
        found[-1] |= {"signature": method_of(signature)} if signature else {}
        found[-1] |= older_rules(folder.config, folder.environment, folder.test if folder.afterwards else None)
    return found


def _headline_of(options: Mapping[str, Any]) -> str:
    try:
        return data.headline(**options)
    except (ValueError, TypeError):  # other data, or data of another version
        return DEFAULT


def signature_of(summary: Mapping[str, Any]) -> str | None:
    """sacreBLEU's signature of the headline metric."""
    headline = summary.get("headline", DEFAULT)
    signatures = summary.get("signatures") or {}
    return signatures.get(headline) or signatures.get(f"val/{headline}")


def method_of(signature: str) -> str:
    """How sacreBLEU scored, whatever its version."""
    return _VERSION.sub("", signature)


def _identity(folder: RunFolder, is_dense: bool) -> dict[str, Any]:
    config, summary = folder.config, folder.summary
    target = pattern_text(config["sparsity"]) if not is_dense else config["sparsity"]
    sparsity = None if is_dense else target
    recipe = _recipe(folder) if summary is None else summary["recipe"]
    return {
        "model": config["model"]["name"],
        "data": data_label(config["data"]),
        "split": split_of(config),
        "roles": None if is_dense else roles_text((summary or {}).get("roles", config["mask"]["roles"])),
        "sparsity": sparsity,
        "target_density": density_of(sparsity),
        "noise_pattern": ", ".join(noise_patterns(config)),
        "recipe": recipe["name"],
        "variant": recipe["variant"],
        "gradient": recipe["gradient"],
        "seed": config["seed"],
        "lost": _lost(folder),
    }


def noise_patterns(config: Mapping[str, Any]) -> list[str]:
    """The patterns by whose masks a run's noise is measured: dense runs too have one, or several."""
    given = (config.get("measure") or {}).get("patterns") if config["recipe"]["name"] == "dense" else None
    return [pattern_text(pattern) for pattern in given or [config["sparsity"]]]


def _recipe(folder: RunFolder) -> dict[str, str]:
    """What the summary would say of the recipe of a run that has none."""
    config, recorded = folder.config, folder.environment.get("recipe") or {}
    if recorded.get("name") == config["recipe"]["name"] and {"variant", "gradient"} <= recorded.keys():
        return dict(recorded)
    try:
        recipe = build_recipe(target=config["sparsity"], **config["recipe"])
    except (ValueError, TypeError):  # of another version, or of a plug-in
        name = config["recipe"]["name"]
        gradient = config["recipe"].get("gradient")
        gradient = DEFAULT_GRADIENT.get(name, "straight_through") if gradient is None else str(gradient)
        return {"name": name, "variant": name, "gradient": gradient}
    return recipe.record()


def _lost(folder: RunFolder) -> str | None:
    """How a run that failed was lost; it will not be resumed by itself, and its seed is missing from its cell."""
    if folder.status != "failed":
        return None
    return DIVERGED if NOT_FINITE.search(folder.reason or "") else FAILED
