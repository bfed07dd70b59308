"""The headline metric of each recipe at the same training FLOPs."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nmtrain.report.compare.quality import pattern_cell, row_results, run_marks, signature_note
from nmtrain.report.compare.scores import NOT_A_NUMBER, WITH_THE_BEST, Row, Scores, compare
from nmtrain.report.compare.sections import DENSE, Result, Section, median_of, patterns_of
from nmtrain.report.compare.statistics import distinct_levels, interpolate
from nmtrain.report.compare.table import NOTHING, TRAINING_FLOPS, Cell, Table, quantity, seconds
from nmtrain.report.read.grouping import column_order
from nmtrain.report.read.headline import Headline

# What spent at least 95 % of a budget, and at most all of it, spent the budget.
BUDGET_TOLERANCE = 0.05
FINISHED, CHEAPER = "finished", "finished for less"
INTERPOLATED, TOO_DENSE = "interpolated", "interpolated, too dense"
_SOURCE_MARKS = {FINISHED: "", CHEAPER: "↓", INTERPOLATED: "†", TOO_DENSE: "‡"}

# FLOPs, headline metric and update of each evaluation along a run, by the run's folder.
Points = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class AtBudget:
    """What one length of one recipe answers for a training budget; ``source`` is a key of `_SOURCE_MARKS`."""

    result: Result
    scores: Scores
    source: str
    flops: float

    @property
    def competes(self) -> bool:
        return self.result.variant != DENSE and self.source != TOO_DENSE and self.scores.rankable


def equal_flops_table(section: Section, curves: pd.DataFrame) -> Table | None:
    """Each recipe's headline metric at the same training FLOPs; None if no budget has two recipes to compare.

    Budgets are what sparse results of the section spent in full, as means over the seeds of one length.
    """
    points = _points(curves)
    rows: list[list[Cell]] = []
    without: list[str] = []
    for pattern in patterns_of(section.runs):
        results = [result for group in section.groups for result in row_results(group, pattern)]
        results.sort(key=lambda result: column_order((result.variant, result.label)))
        without += [
            f"{result.label} at {pattern} ({result.scores.lost_text})" for result in results if not len(result.finished)
        ]
        spent = [(result, result.mean("training_flops")) for result in results if len(result.finished)]
        # Inside a longer run the learning rate has not come down: where there are several lengths, those are compared.
        inside = points if len({result.runs["dense_group"].iloc[0] for result, _ in spent}) == 1 else {}
        for budget in _budgets(spent):
            rows += _budget_rows(pattern, budget, spent, inside, section.headline)
    if not rows:
        return None
    headline = section.headline
    notes = [
        TRAINING_FLOPS,
        "A budget is what some sparse recipe spent in full: the mean over the seeds of one length, and what lies "
        f"within 5 % below. {headline.title} at it: of the length of a recipe that finished nearest below it; a "
        "shorter one that did better has a row of its own. Where all runs of a pattern have one length, a recipe that "
        "spent more is interpolated in FLOPs between its evaluations; where there are several lengths, only finished "
        "runs are compared. Bold: the best of the sparse recipes, if there are two to rank.",
        WITH_THE_BEST,
        *signature_note(section.runs),
        *([f"In no row, since no seed finished: {', '.join(dict.fromkeys(without))}."] if without else []),
    ]
    head = ("pattern", "budget", "recipe", headline.axis, "from", "FLOPs spent", "measured training", "bytes")
    title = f"{headline.title} at equal training FLOPs: {section.name}"
    return Table(f"{section.slug}-equal-flops", title, head, rows, 3, notes)


def _budgets(spent: list[tuple[Result, float]]) -> list[float]:
    """Rising budgets: those that a sparse recipe spent in full, where there is another to compare it with."""
    if len({result.label for result, _ in spent}) < 2:
        return []
    return distinct_levels([flops for result, flops in spent if result.variant != DENSE], BUDGET_TOLERANCE)[::-1]


def _budget_rows(
    pattern: str, budget: float, spent: list[tuple[Result, float]], points: Points, headline: Headline
) -> list[list[Cell]]:
    columns: dict[str, list[tuple[Result, float]]] = defaultdict(list)
    for result, flops in spent:
        columns[result.label].append((result, flops))
    found = [at for lengths in columns.values() for at in answers(budget, lengths, points, headline)]
    competing = {at.result.anchor: at for at in found if at.competes}
    several = len({at.result.label for at in competing.values()}) > 1  # of one recipe alone, none is the best
    tests = compare({anchor: at.scores for anchor, at in competing.items()} if several else {}, headline)
    stub = [pattern_cell(pattern), Cell(quantity(budget, "FLOPs"), value=budget)]
    return [_budget_row(stub, at, tests) for at in found]


def _budget_row(stub: list[Cell], at: AtBudget, tests: Row) -> list[Cell]:
    text, detail = at.scores.text(tests.headline)
    result, quality = at.result, at.scores.quality
    marks = tests.mark(result.anchor) if result.anchor in tests.scores else ""
    marks += run_marks(at.scores, result.runs) + _SOURCE_MARKS[at.source]
    is_best = result.anchor == tests.best
    size = result.mean("bytes")
    return [
        *stub,
        Cell(result.label, value=result.label),
        Cell(text, detail, quality.mean if quality.n else None, is_best, marks, result.anchor),
        Cell(at.source, value=at.source),
        Cell(quantity(at.flops, "FLOPs"), value=at.flops, anchor=result.anchor),
        _measured(result) if at.source in (FINISHED, CHEAPER) else NOTHING,
        Cell(quantity(size, "B"), value=size, anchor=result.anchor),
    ]


def _measured(result: Result) -> Cell:
    if result.finished["device"].nunique(dropna=False) > 1:
        return Cell("–", "several devices: see the cost table", anchor=result.anchor)
    value = median_of(result.finished, "seconds_train")
    return Cell(seconds(value), value=value, anchor=result.anchor)


def answers(budget: float, lengths: list[tuple[Result, float]], points: Points, headline: Headline) -> list[AtBudget]:
    """What one recipe, of several ``lengths`` with their mean training FLOPs, answers for ``budget``; [] if nothing.

    One length for all seeds: that which finished nearest below. The best of what did better for less comes before. If
    none finished below: a point inside the shortest, as far as ``points`` has its runs.
    """
    rising = sorted(lengths, key=lambda length: length[1])
    below = [_finished(budget, result, flops) for result, flops in rising if flops <= budget]
    if not below:
        inside = _inside(budget, rising[0][0], points)
        return [] if inside is None else [inside]
    *others, nearest = below

    def gain(at: AtBudget) -> float:
        return headline.gain(at.scores.quality.mean) if at.scores.rankable else -math.inf

    best = max(others, key=gain, default=nearest)
    return [best, nearest] if gain(best) > gain(nearest) else [nearest]


def _finished(budget: float, result: Result, flops: float) -> AtBudget:
    source = FINISHED if flops >= budget * (1 - BUDGET_TOLERANCE) else CHEAPER
    return AtBudget(result, result.scores, source, flops)


def _inside(budget: float, result: Result, points: Points) -> AtBudget | None:
    """What the runs of a longer result had reached at ``budget``; None where one was not yet evaluated by then."""
    found: dict[int, list[float]] = defaultdict(list)
    strict = True
    runs = result.finished
    for seed, folder, strict_from in zip(runs["seed"], runs["folder"], runs["strict_from"], strict=True):
        if folder in points and (at := _value_at(budget, *points[folder], strict_from)) is not None:
            found[int(seed)].append(at[0])
            strict &= at[1]
    if not found or len(found) < runs["seed"].nunique():  # what some seeds had reached by then is no mean over seeds
        return None
    by_seed = {seed: sum(values) / len(values) for seed, values in found.items()}
    lost = {seed: NOT_A_NUMBER for seed, value in by_seed.items() if math.isnan(value)}
    lost |= {seed: how for seed, how in result.scores.lost.items() if seed not in by_seed}
    scores = Scores(by_seed | dict.fromkeys(lost, math.nan), lost)
    return AtBudget(result, scores, INTERPOLATED if strict else TOO_DENSE, budget)


def _value_at(
    budget: float, flops: np.ndarray, quality: np.ndarray, updates: np.ndarray, strict_from: float
) -> tuple[float, bool] | None:
    """The value at ``budget`` between two evaluations, and whether the model was at its pattern at the earlier one."""
    if budget >= flops[-1]:  # a seed that spent a little less than the mean of its length
        return float(quality[-1]), True
    value = interpolate(flops, quality, budget)
    if value is None:
        return None
    earlier = updates[flops.searchsorted(budget, side="right") - 1]
    return value, bool(earlier >= strict_from)  # NaN where the run never got there


def evaluations(curves: pd.DataFrame) -> pd.DataFrame:
    """The points along each run, by update: where a run ends, the projected model's (written last) is the point."""
    return curves.drop_duplicates(["folder", "update"], keep="last").sort_values(["folder", "update"])


def _points(curves: pd.DataFrame) -> Points:
    points = evaluations(curves)
    if points.empty:
        return {}
    columns = [points[name].to_numpy() for name in ("flops", "quality", "update")]
    starts = np.flatnonzero((points["folder"] != points["folder"].shift()).to_numpy())
    parts = zip(*(np.split(column, starts[1:]) for column in columns), strict=True)
    return dict(zip(points["folder"].iloc[starts], parts, strict=True))
