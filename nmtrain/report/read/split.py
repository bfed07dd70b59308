"""Which split of the data figures are on. Those of two splits never stand together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nmtrain.report.read.folders import RunFolder
from nmtrain.report.read.grouping import keys_of
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
    evaluated is there without a summary.
    """
    tested = [_tested(folder) for folder in folders if folder.test is not None]
    starts = Starts(folders)
    families = {_family(run, starts) for run in tested}
    for folder in folders:
        if folder.test is None and folder.status in ("failed", "finished") and split_of(folder.config) == "val":
            config = folder.config | {"data": folder.config["data"] | {"evaluate": "test"}}
            run = replace(folder, config=config, summary=None, metrics=None, noise=None, afterwards=True)
            if families and _family(run, starts) in families:
                tested.append(run)
    return [*folders, *tested]


def _tested(folder: RunFolder) -> RunFolder:
    assert folder.summary is not None
    assert folder.test is not None
    scored = {key: folder.test.get(key) for key in ("headline", "metrics", "signatures")}
    config = folder.config | {"data": folder.test["data"]}
    return replace(folder, config=config, summary=folder.summary | scored, metrics=None, noise=None, afterwards=True)


def _family(run: RunFolder, starts: Starts) -> str:
    return keys_of(starts.setting(run.config), False).dense_family
