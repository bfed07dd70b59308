"""Which split of the data figures are on. Those of two splits never stand together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nmtrain.report.read.defaults import shipped_options
from nmtrain.report.read.flat import flatten
from nmtrain.report.read.folders import RunFolder
from nmtrain.report.read.grouping import keys_of, pattern_text, setting_of
from nmtrain.report.read.starts import Starts

WORDS = {"val": "validation", "test": "test"}


def split_of(config: Mapping[str, Any]) -> str:
    """What a run was evaluated on while it trained: "val", as all data were before there was the key, or "test"."""
    return str((config.get("data") or {}).get("evaluate", "val"))


def metrics_on(split: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a summary under their own names, such as "accuracy".

    Runs that were evaluated on test called theirs ``val/accuracy`` too, before they were called by their split.
    """
    prefix = f"{split}/" if any(name.startswith(f"{split}/") for name in metrics) else "val/"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def by_split(folders: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs as they trained; then each that was evaluated on test afterwards once more, as a run on test.

    Where others like it were evaluated so, a run that was lost is lost on test too; and one that finished and was not
    evaluated is there without a summary. Neither is, where the same was trained with ``data.evaluate=test``.
    """
    tested = [_tested(folder) for folder in folders if folder.test is not None]
    starts = Starts(folders)
    families = {_family(run, starts) for run in tested}
    on_test = [run for run in folders if run.status == "finished" and split_of(run.config) == "test"]
    known = {_identity(run) for run in on_test}
    for folder in folders:
        if folder.test is None and folder.status in ("failed", "finished") and split_of(folder.config) == "val":
            config = folder.config | {"data": folder.config["data"] | {"evaluate": "test"}}
            run = replace(folder, config=config, summary=None, metrics=None, noise=None, afterwards=True)
            if families and _family(run, starts) in families and _identity(run) not in known:
                tested.append(run)
    return [*folders, *tested]


def _tested(folder: RunFolder) -> RunFolder:
    assert folder.summary is not None
    assert folder.test is not None
    scored = {key: folder.test.get(key) for key in ("headline", "metrics", "signatures")}
    config = folder.config | {"data": folder.test["data"]}
    return replace(folder, config=config, summary=folder.summary | scored, metrics=None, noise=None, afterwards=True)


def _identity(run: RunFolder) -> str:
    """All that a run is, and not how it went or what it leaves out of its name."""
    recipe, is_dense = run.config["recipe"], run.config["recipe"]["name"] == "dense"
    options = shipped_options(recipe["name"]) | flatten(recipe)
    pattern = None if is_dense else pattern_text(run.config["sparsity"])
    group = keys_of(setting_of(run.config), is_dense).group
    return json.dumps([group, options, pattern, run.config["seed"]], sort_keys=True, default=str)


def _family(run: RunFolder, starts: Starts) -> str:
    return keys_of(starts.setting(run.config), False).dense_family
