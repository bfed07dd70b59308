"""The table of a tuning: every point of the grid for every recipe and pattern, and what was chosen."""

from __future__ import annotations

from typing import Any

from nmtrain.report.compare.table import Cell, Table
from nmtrain.report.read.flat import describe
from nmtrain.report.read.grouping import column_order, pattern_order, variant_label
from nmtrain.report.read.headline import headline_of
from nmtrain.runs.tuning import Trial, TunedCell, Tuning

DENSE = "dense"


def tuning_table(tuning: Tuning, slug: str = "tuning") -> Table:
    """Rows are recipes and patterns, columns the points of the grid; the chosen one is bold."""
    points = [describe(trial.values, trial.values) for trial in tuning.cells[0].trials]
    labels = dict.fromkeys(headline_of(cell.headline).axis for cell in tuning.cells)
    seeds = ", ".join(map(str, tuning.seeds))
    notes = [
        f"Final {' or '.join(labels)} on the validation split of tuning runs with seed {seeds}, which no other table "
        "counts. Bold: the best, with which the final runs train.",
    ]
    rows = [_row(tuning, cell) for cell in sorted(tuning.cells, key=_order)]
    return Table(slug, "Tuning: " + ", ".join(tuning.grid), ["pattern", "recipe", *points], rows, stub=2, notes=notes)


def _order(cell: TunedCell) -> tuple[Any, ...]:
    pattern = (-2.0, 0) if cell.pattern is None else pattern_order(cell.pattern)  # dense before every pattern
    return (cell.varied, pattern, column_order((cell.variant, variant_label(cell.variant))))


def _row(tuning: Tuning, cell: TunedCell) -> list[Cell]:
    name = Cell(variant_label(cell.variant), ", ".join(cell.varied), value=variant_label(cell.variant))
    edges = cell.edges(tuning.grid)
    cells = [_trial(cell, trial, trial is cell.trials[cell.chosen], edges) for trial in cell.trials]
    return [Cell(cell.pattern or DENSE, value=cell.pattern or DENSE), name, *cells]


def _trial(cell: TunedCell, trial: Trial, is_best: bool, edges: list[str]) -> Cell:
    if trial.score is None:
        return Cell("diverged", marks="!")
    detail = f"n = {len(trial.scores)}" if len(trial.scores) > 1 else ""
    text = headline_of(cell.headline).text(trial.score)
    return Cell(text, detail, trial.score, is_best, "⊣" if is_best and edges else "")
