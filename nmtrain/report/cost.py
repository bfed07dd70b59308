"""What a result costs: FLOPs, bytes and measured seconds, with the Pareto fronts, and results at equal FLOPs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nmtrain.report.headline import Headline
from nmtrain.report.quality import (
    best_of,
    pattern_cell,
    quality_text,
    rankable,
    run_marks,
    standing,
    table_title,
)
from nmtrain.report.sections import (
    DENSE,
    Group,
    Result,
    Section,
    columns_of,
    patterns_of,
    quality_by_seed,
)
from nmtrain.report.statistics import Estimate, distinct_levels, estimate, interpolate, pareto_front
from nmtrain.report.table import NOTHING, TRAINING_FLOPS, Cell, Table, percent, quantity, rate, seconds

# A finished run answers for a budget if it spent at most that, and at least 95 % of it.
BUDGET_TOLERANCE = 0.05
FINISHED, INTERPOLATED, TOO_DENSE = "finished", "interpolated", "interpolated, too dense"
_SOURCE_MARKS = {FINISHED: "", INTERPOLATED: "†", TOO_DENSE: "‡"}


_BUDGET_COLUMNS = [
    *("folder", "sparsity", "recipe", "variant", "label", "seed", "quality"),
    *("training_flops", "strict_from", "seconds_train", "bytes", "cell"),
]

# FLOPs, headline metric and update of each evaluation along a run, by the run's folder.
Points = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class AtBudget:
    """One recipe at one training budget: ``source`` is one of `FINISHED`, `INTERPOLATED`, `TOO_DENSE`."""

    quality: Estimate
    source: str
    runs: pd.DataFrame
    flops: float


def ordered_results(group: Group) -> list[Result]:
    """Every result once: the dense ones, then by pattern and column."""
    places = [(DENSE, column) for column in group.columns] + [
        (p, column) for p in group.patterns for column in group.columns
    ]
    found = [group.results.get((pattern, label)) for pattern, (_, label) in places]
    return [result for result in found if result is not None]


def on_front(group: Group, cost: str) -> set[str]:
    """Anchors of the results whose mean no other reaches at the same or a lower mean ``cost``."""
    results = ordered_results(group)
    means = [result.quality.mean if rankable(result.quality) else math.nan for result in results]
    gains = [group.headline.gain(mean) for mean in means]
    return {results[i].anchor for i in pareto_front([result.mean(cost) for result in results], gains)}


def cost_table(group: Group, section: str) -> Table:
    """One row per result: the headline metric beside FLOPs, bytes, measured seconds and memory; the Pareto fronts."""
    results = ordered_results(group)
    fronts = {cost: on_front(group, cost) for cost in ("inference_flops", "bytes")}
    rows = [_cost_row(result, group.headline, fronts) for result in results]
    devices = sorted(group.runs["device"].dropna().astype(str).unique())
    notes = [
        TRAINING_FLOPS + " In brackets: part of what dense training of the same length takes.",
        "Inference FLOPs are per sample. Bytes: of the model with its sparse tensors as kept values and indices; on "
        "disk: of model.safetensors, zeros included. Density: kept part of those tensors. "
        f"Seconds and peak memory were measured on: {', '.join(devices) or 'an unrecorded device'}.",
        "Bold: on the Pareto front, no other row is as good at that cost or below (by means, whatever n).",
    ]
    head = (
        *("pattern", "recipe", group.headline.axis, "training FLOPs", "measured training", "throughput"),
        *("inference FLOPs", "bytes", "density / %", "peak memory"),
    )
    return Table(f"{group.slug}-cost", table_title("Cost", section, group), head, rows, stub=2, notes=notes)


def _cost_row(result: Result, headline: Headline, fronts: dict[str, set[str]]) -> list[Cell]:
    text, detail = quality_text(result.quality, headline)
    mean = result.quality.mean if result.quality.n else None

    def number(shown: str, column: str, detail: str = "") -> Cell:
        best = result.anchor in fronts.get(column, ())
        return Cell(shown, detail, result.mean(column), best, anchor=result.anchor)

    flops, dense = result.mean("training_flops"), result.mean("training_flops_dense")
    per_update = f"{seconds(result.mean('seconds_per_update'))} per update"
    throughput = rate(result.mean("throughput"), result.runs["throughput_unit"].iloc[0])
    exported = result.mean("bytes_exported")
    on_disk = "" if math.isnan(exported) else f"{quantity(exported, 'B')} on disk"
    return [
        pattern_cell(result.pattern),
        Cell(result.label, value=result.label),
        Cell(text, detail, mean, marks=run_marks(result), anchor=result.anchor),
        number(quantity(flops, "FLOPs"), "training_flops", f"({percent(flops / dense, 0)} %)" if dense else ""),
        number(seconds(result.mean("seconds_train")), "seconds_train", per_update),
        NOTHING if math.isnan(result.mean("throughput")) else number(throughput, "throughput"),
        number(quantity(result.mean("inference_flops"), "FLOPs"), "inference_flops"),
        number(quantity(result.mean("bytes"), "B"), "bytes", on_disk),
        number(percent(result.mean("density")), "density"),
        number(quantity(result.mean("peak_memory_bytes"), "B"), "peak_memory_bytes"),
    ]


def evaluations(curves: pd.DataFrame) -> pd.DataFrame:
    """The points along each run, by update: where a run ends, the projected model's (written last) is the point."""
    return curves.drop_duplicates(["folder", "update"], keep="last").sort_values(["folder", "update"])


def _points(curves: pd.DataFrame) -> Points:
    points = evaluations(curves)
    columns = [points[name].to_numpy() for name in ("flops", "quality", "update")]
    starts = np.flatnonzero((points["folder"] != points["folder"].shift()).to_numpy())
    parts = zip(*(np.split(column, starts[1:]) for column in columns), strict=True)
    return dict(zip(points["folder"].iloc[starts], parts, strict=True))


def equal_flops_table(section: Section, curves: pd.DataFrame) -> Table | None:
    """Each recipe's headline metric at the same training FLOPs; None if no budget is reached by two recipes.

    Budgets are what runs of the section spent in full. Runs that finished within 5 % below a budget answer for it;
    else each seed's shortest run that reaches it is interpolated between evaluations.
    """
    points = _points(curves)
    rows: list[list[Cell]] = []
    everything = section.runs[_BUDGET_COLUMNS]  # a selection of rows takes as long as there are columns
    for pattern in patterns_of(everything):
        runs = everything[(everything["sparsity"] == pattern) | (everything["recipe"] == DENSE)]
        columns = {column: runs[runs["label"] == column[1]] for column in columns_of(runs)}
        for budget in _budgets(runs):
            rows += _budget_rows(pattern, budget, columns, points, section.headline)
    if not rows:
        return None
    headline = section.headline
    notes = [
        TRAINING_FLOPS,
        "A budget is what some recipe spent in full and at least one other reaches. "
        f"{headline.title} at it: of the runs that finished within 5 % below it, else interpolated "
        "in FLOPs between the evaluations inside each seed's shortest run that reaches it. "
        "Bold: best sparse recipe at that budget.",
    ]
    head = ("pattern", "budget", "recipe", headline.axis, "from", "FLOPs spent", "measured training", "bytes")
    title = f"{headline.title} at equal training FLOPs: {section.title}"
    return Table(f"{section.slug}-equal-flops", title, head, rows, 3, notes)


def _budgets(runs: pd.DataFrame) -> list[float]:
    """Rising budgets that at least two columns reach."""
    reach = runs.groupby("label")["training_flops"].max()
    levels = distinct_levels(list(runs["training_flops"].astype(float)), BUDGET_TOLERANCE)
    return [level for level in reversed(levels) if (reach >= level * (1 - BUDGET_TOLERANCE)).sum() >= 2]


def _budget_rows(
    pattern: str, budget: float, columns: dict[tuple[str, str], pd.DataFrame], points: Points, headline: Headline
) -> list[list[Cell]]:
    found = []
    for (variant, label), runs in columns.items():
        reached = quality_at(budget, runs, points)
        if reached is not None:
            found.append((label, reached, variant != DENSE and reached.source != TOO_DENSE))
    best = best_of((reached.quality for _, reached, competes in found if competes), headline)
    return [
        _budget_row(
            [pattern_cell(pattern), Cell(quantity(budget, "FLOPs"), value=budget), Cell(label, value=label)],
            reached,
            standing(reached.quality, best) if competes else (False, ""),
            headline,
        )
        for label, reached, competes in found
    ]


def _budget_row(stub: list[Cell], at: AtBudget, standing: tuple[bool, str], headline: Headline) -> list[Cell]:
    text, detail = quality_text(at.quality, headline)
    is_best, mark = standing
    marks = mark + ("!" if at.quality.lost else "") + _SOURCE_MARKS[at.source]
    anchor = at.runs["cell"].iloc[0]
    measured = float(at.runs["seconds_train"].astype(float).mean())
    size = float(at.runs["bytes"].astype(float).mean())
    return [
        *stub,
        Cell(text, detail, at.quality.mean if at.quality.n else None, is_best, marks, anchor),
        Cell(at.source, value=at.source),
        Cell(quantity(at.flops, "FLOPs"), value=at.flops, anchor=anchor),
        Cell(seconds(measured), value=measured, anchor=anchor) if at.source == FINISHED else NOTHING,
        Cell(quantity(size, "B"), value=size, anchor=anchor),
    ]


def quality_at(budget: float, runs: pd.DataFrame, points: Points) -> AtBudget | None:
    """The headline metric of one recipe's ``runs`` at ``budget`` training FLOPs; None where no run reaches it.

    ``points``: the evaluations of each run.
    """
    spent = runs["training_flops"].astype(float)
    finished = runs[(spent <= budget) & (spent >= budget * (1 - BUDGET_TOLERANCE))]
    if len(finished):
        values = list(quality_by_seed(finished).values())
        return AtBudget(estimate(values), FINISHED, finished, float(spent[finished.index].mean()))
    longer = runs[spent > budget].sort_values(["training_flops", "folder"]).drop_duplicates("seed")
    inside = [
        (index, *found)
        for index, folder, strict_from in zip(longer.index, longer["folder"], longer["strict_from"], strict=True)
        if folder in points and (found := _inside(budget, points[folder], strict_from)) is not None
    ]
    if not inside:
        return None
    strict = all(strict for _, _, strict in inside)
    values = [value for _, value, _ in inside]
    used = longer.loc[[index for index, _, _ in inside]]
    return AtBudget(estimate(values), INTERPOLATED if strict else TOO_DENSE, used, budget)


def _inside(
    budget: float, evaluated: tuple[np.ndarray, np.ndarray, np.ndarray], strict_from: float
) -> tuple[float, bool] | None:
    """The value at ``budget`` between two evaluations, and whether the model was at its pattern at the earlier one."""
    flops, quality, updates = evaluated
    value = interpolate(flops, quality, budget)
    if value is None:
        return None
    earlier = updates[flops.searchsorted(budget, side="right") - 1]
    return value, bool(earlier >= strict_from)  # NaN where the run never got there
