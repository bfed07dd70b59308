"""The list of all runs at the end of a report: what each number of the tables links to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from nmtrain.report.compare.table import NOTHING, Cell, Table, percent, quantity, seconds
from nmtrain.report.read.grouping import column_order, pattern_order, variant_label
from nmtrain.report.read.headline import DEFAULT, headline_of
from nmtrain.report.read.split import WORDS


@dataclass(frozen=True)
class RunList:
    """``cells`` holds the anchor of each row's cell, None where the run does not count."""

    table: Table
    cells: list[str | None]


def run_list(runs: pd.DataFrame) -> RunList:
    """Every run folder that was found, runs of one cell together, lost ones too; those of no cell last.

    A run that was evaluated on test afterwards stands there too, once more.
    """
    runs = runs[~runs["afterwards"] | runs["cell"].notna()]
    ordered = sorted(runs.to_dict("records"), key=_order)
    shown = (
        runs[runs["counted"] | runs["quality"].notna()][["headline", "split"]]
        .drop_duplicates()
        .itertuples(index=False, name=None)
    )
    headlines = [headline_of(name, WORDS[split]) for name, split in shown]
    one = next(iter(headlines), headline_of(DEFAULT)) if len(headlines) < 2 else None
    padded = ["padding / %"] if runs["padding"].notna().any() else []
    head = (
        *("run folder", "data", "pattern", "recipe", "seed", "status", one.axis if one else "final value", "updates"),
        *("training FLOPs", "measured total", *padded, "code", "device", "records"),
    )
    cells = [None if pd.isna(run["cell"]) else run["cell"] for run in ordered]
    with_roles = runs["roles"].nunique() > 1
    rows = [_row(run, named=one is None, padded=bool(padded), with_roles=with_roles) for run in ordered]
    return RunList(Table("runs", "Runs", head, rows, stub=6), cells)


def _order(run: dict[str, Any]) -> tuple[Any, ...]:
    if pd.isna(run["cell"]):
        return (True, run["folder"])
    pattern = (-2.0, 0) if pd.isna(run["sparsity"]) else pattern_order(run["sparsity"])  # dense before every pattern
    column = column_order((run["variant"], run["label"]))
    return (False, run["model"], run["data"], pattern, column, run["group"], run["seed"], run["folder"])


def _row(run: dict[str, Any], named: bool, padded: bool, with_roles: bool) -> list[Cell]:
    """``named``: each final value says what it is, for a column that mixes metrics; so do patterns with their roles."""

    def text(key: str) -> Cell:
        return NOTHING if pd.isna(run[key]) else Cell(str(run[key]), value=str(run[key]))

    def number(key: str, shown: str, detail: str = "") -> Cell:
        return NOTHING if pd.isna(run[key]) else Cell(shown, detail, value=float(run[key]))

    found = "" if pd.isna(run["switched_at"]) else f"dense up to {run['switched_at']:.0f}"
    recipe = run["label"]
    if pd.isna(recipe) and not pd.isna(run["variant"]):  # it is in no table, and can be read
        recipe = variant_label(run["variant"])
    status = run["status"] if pd.isna(run["reason"]) else f"{run['status']}: {run['reason']}"
    return [
        text("folder"),
        text("data"),
        NOTHING
        if pd.isna(run["sparsity"])
        else Cell(run["sparsity"], run["roles"] if with_roles else "", run["target_density"]),
        NOTHING if pd.isna(recipe) else Cell(recipe, value=recipe),
        number("seed", f"{run['seed']:.0f}"),
        Cell(status, value=status),
        _final(run, named),
        number("updates", f"{run['updates']:.0f}", found),
        number("training_flops", quantity(run["training_flops"], "FLOPs")),
        number("seconds", seconds(run["seconds"])),
        *([number("padding", percent(run["padding"], 1))] if padded else []),
        text("code"),
        text("device"),
        _records(run),
    ]


def _final(run: dict[str, Any], named: bool) -> Cell:
    if not run["counted"] and pd.isna(run["quality"]):
        return Cell("–", marks="" if pd.isna(run["lost"]) else "!")
    headline = headline_of(run["headline"], WORDS[run["split"]])
    detail = headline.axis if named else ""
    if pd.isna(run["quality"]):
        return Cell("NaN", detail, marks="!")
    return Cell(headline.text(run["quality"]), detail, float(run["quality"]))


def _records(run: dict[str, Any]) -> Cell:
    """What is odd about the run's record files."""
    odd = []
    if run["dropped_lines"]:
        odd.append(f"{run['dropped_lines']:.0f} dropped")
    if run["not_finite_lines"]:
        odd.append(f"{run['not_finite_lines']:.0f} with NaN")
    lines = "" if pd.isna(run["metric_lines"]) else f"{run['metric_lines']:.0f} lines"
    return Cell(lines or "–", ", ".join(odd), float(run["dropped_lines"] + run["not_finite_lines"]))
