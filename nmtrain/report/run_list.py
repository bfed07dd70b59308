"""The list of all runs at the end of a report: what each number of the tables links to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from nmtrain.report.grouping import column_order, pattern_order
from nmtrain.report.table import NOTHING, Cell, Table, percent, quantity, seconds


@dataclass(frozen=True)
class RunList:
    """``cells`` holds the anchor of each row's cell, None where the run does not count."""

    table: Table
    cells: list[str | None]


def run_list(runs: pd.DataFrame) -> RunList:
    """Every run folder that was found, runs of one cell together, those that do not count last."""
    ordered = sorted(runs.to_dict("records"), key=_order)
    head = (
        *("run folder", "data", "pattern", "recipe", "seed", "status", "accuracy / %", "updates", "training FLOPs"),
        *("measured total", "code", "device", "records"),
    )
    cells = [run["cell"] if run["counted"] else None for run in ordered]
    return RunList(Table("runs", "Runs", head, [_row(run) for run in ordered], stub=6), cells)


def _order(run: dict[str, Any]) -> tuple[Any, ...]:
    if not run["counted"]:
        return (True, run["folder"])
    pattern = (-2.0, 0) if pd.isna(run["sparsity"]) else pattern_order(run["sparsity"])  # dense before every pattern
    column = column_order((run["variant"], run["label"]))
    return (False, run["model"], run["data"], pattern, column, run["group"], run["seed"], run["folder"])


def _row(run: dict[str, Any]) -> list[Cell]:
    def text(key: str) -> Cell:
        return NOTHING if pd.isna(run[key]) else Cell(str(run[key]), value=str(run[key]))

    def number(key: str, shown: str) -> Cell:
        return NOTHING if pd.isna(run[key]) else Cell(shown, value=float(run[key]))

    no_accuracy = run["counted"] and pd.isna(run["accuracy"])
    status = run["status"] if pd.isna(run["reason"]) else f"{run['status']}: {run['reason']}"
    return [
        text("folder"),
        text("data"),
        NOTHING if pd.isna(run["sparsity"]) else Cell(run["sparsity"], value=run["target_density"]),
        text("label") if run["counted"] else text("recipe"),
        number("seed", f"{run['seed']:.0f}"),
        Cell(status, value=status),
        Cell("NaN", marks="!") if no_accuracy else number("accuracy", percent(run["accuracy"])),
        number("updates", f"{run['updates']:.0f}"),
        number("training_flops", quantity(run["training_flops"], "FLOPs")),
        number("seconds", seconds(run["seconds"])),
        text("code"),
        text("device"),
        _records(run),
    ]


def _records(run: dict[str, Any]) -> Cell:
    """What is odd about the run's record files."""
    odd = []
    if run["dropped_lines"]:
        odd.append(f"{run['dropped_lines']:.0f} dropped")
    if run["not_finite_lines"]:
        odd.append(f"{run['not_finite_lines']:.0f} with NaN")
    lines = "" if pd.isna(run["metric_lines"]) else f"{run['metric_lines']:.0f} lines"
    return Cell(lines or "–", ", ".join(odd), float(run["dropped_lines"] + run["not_finite_lines"]))
