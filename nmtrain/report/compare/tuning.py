"""The tables of a tuning: every point of the grid for every recipe and pattern, and what was chosen."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from nmtrain.report.compare.sections import DENSE, name_of
from nmtrain.report.compare.table import Cell, Table
from nmtrain.report.read.flat import describe
from nmtrain.report.read.frame import Frames
from nmtrain.report.read.grouping import column_order, pattern_order, variant_label
from nmtrain.report.read.headline import headline_of
from nmtrain.runs.tuning import Trial, TunedCell, Tuning


def tuning_tables(frames: Frames) -> list[Table]:
    """One for each grid, and for each model, data and roles that it was tried on."""
    parts = [
        (name, replace(tuning, cells=cells))
        for tuning in frames.tunings
        for name, cells in _by_name(tuning, frames).items()
    ]
    parts.sort(key=lambda part: part[0])
    return [tuning_table(tuning, f"tuning-{i}", name) for i, (name, tuning) in enumerate(parts, 1)]


def _by_name(tuning: Tuning, frames: Frames) -> dict[str, list[TunedCell]]:
    """The cells by `name_of` their runs; dense ones stand beside the sparse ones of their model and data."""
    placed = [(cell, *_place(cell, frames)) for cell in tuning.cells]
    sparse: dict[str, set[str]] = defaultdict(set)
    for cell, task, name in placed:
        if cell.pattern is not None:
            sparse[task].add(name)
    parts: dict[str, list[TunedCell]] = defaultdict(list)
    for cell, task, name in placed:
        for part in sparse.get(task, [name]) if cell.pattern is None else [name]:
            parts[part].append(cell)
    return parts


def _place(cell: TunedCell, frames: Frames) -> tuple[str, str]:
    """The task of a cell's runs, and their name; empty where their folders are gone."""
    names = [*cell.finals, *(name for trial in cell.trials for name in trial.runs)]
    own = frames.runs[frames.runs["run"].isin(names) & frames.runs["model"].notna()]
    if not len(own):
        return "", ""
    return f"{own['model'].iloc[0]} on {own['data'].iloc[0]}", name_of(own, frames.settings)


def tuning_table(tuning: Tuning, slug: str = "tuning", name: str = "") -> Table:
    """Rows are recipes and patterns, columns the points of the grid; the chosen one is bold."""
    points = [describe(trial.values, trial.values) for trial in tuning.cells[0].trials]
    labels = dict.fromkeys(headline_of(cell.headline).axis for cell in tuning.cells)
    seeds = ", ".join(map(str, tuning.seeds))
    notes = [
        f"Final {' or '.join(labels)} on the validation split of tuning runs with seed {seeds}, which no other table "
        "counts. Bold: the best, with which the final runs train; none where all diverged or a run is not finished.",
    ]
    rows = [_row(tuning, cell) for cell in sorted(tuning.cells, key=_order)]
    title = f"Tuning of {', '.join(tuning.grid)}" + (f": {name}" if name else "")
    return Table(slug, title, ["pattern", "recipe", *points], rows, stub=2, notes=notes)


def _order(cell: TunedCell) -> tuple[Any, ...]:
    pattern = (-2.0, 0) if cell.pattern is None else pattern_order(cell.pattern)  # dense before every pattern
    return (cell.varied, pattern, column_order((cell.variant, variant_label(cell.variant))))


def _row(tuning: Tuning, cell: TunedCell) -> list[Cell]:
    name = Cell(variant_label(cell.variant), ", ".join(cell.varied), value=variant_label(cell.variant))
    edges = cell.edges(tuning.grid)
    cells = [_trial(cell, trial, trial is cell.best, edges) for trial in cell.trials]
    return [Cell(cell.pattern or DENSE, value=cell.pattern or DENSE), name, *cells]


def _trial(cell: TunedCell, trial: Trial, is_best: bool, edges: list[str]) -> Cell:
    if trial.score is None:
        return Cell("–", marks="!")
    detail = f"n = {len(trial.scores)}" if len(trial.scores) > 1 else ""
    text = headline_of(cell.headline).text(trial.score)
    return Cell(text, detail, trial.score, is_best, "⊣" if is_best and edges else "")
