"""What ``nmtrain eval RUN data.evaluate=test`` left in a run folder: ``test/metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmtrain.data import options_not_held_out
from nmtrain.data.earlier import completed
from nmtrain.report.read.headline import DEFAULT

FILE = Path("test", "metrics.json")


def read_evaluation(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metrics of a finished run on the test split, with what they were computed on; None where there is no file.

    Raises:
        ValueError: where the file cannot be read, or is not what the evaluation of this run writes.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    trained = completed(config["data"], None)
    _check(content, {folder.name, summary["run"]}, trained["name"], summary.get("headline", DEFAULT))
    _require_held_out(content["data"], trained)
    return content


def _check(content: dict[str, Any], names: set[str], data: str, headline: str) -> None:
    run, split, metric = content.get("run"), content.get("split"), content.get("headline")
    on, metrics = content.get("data"), content.get("metrics")
    if run not in names:
        raise ValueError(f"is of another run, {run!r}")
    if split != "test":
        raise ValueError(f"is of another split, {split!r}")
    if not isinstance(on, dict) or on.get("name") != data or on.get("evaluate") != "test":
        raise ValueError(f"does not say that it is on the test split of data={data}")
    if metric != headline:
        raise ValueError(f"has the headline {metric!r}, the run has {headline!r}")
    if not isinstance(metrics, dict) or f"test/{headline}" not in metrics:
        raise ValueError(f"lacks metrics.test/{headline}")
    wrong = [name for name, value in metrics.items() if value is not None and not _is_number(value)]
    if wrong:
        raise ValueError(f"metrics.{wrong[0]} = {json.dumps(metrics[wrong[0]])}: must be a number")
    if not isinstance(content.get("signatures") or {}, dict) or not isinstance(content.get("fixes") or [], list):
        raise ValueError("has signatures or fixes of another form")


def _require_held_out(on: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    for option in options_not_held_out(trained, on):
        raise ValueError(
            f"is on data that the run may have trained on: data.{option}={json.dumps(on.get(option))}, and "
            f"{json.dumps(trained.get(option))} in training"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
