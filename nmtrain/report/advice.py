"""Which recipe for which density, said only as far as the intervals carry it."""

from __future__ import annotations

from nmtrain.report.accuracy import best_of, percent, rankable, row_results
from nmtrain.report.grouping import density_of
from nmtrain.report.sections import DENSE, Group, Result
from nmtrain.report.statistics import separate


def advice(group: Group) -> list[str]:
    """A sentence per pattern, densest first."""
    return [
        f"{pattern} (density {100 * density_of(pattern):.4g} %): {_row_advice(group, pattern)}"
        for pattern in group.patterns
    ]


def _row_advice(group: Group, pattern: str) -> str:
    results = row_results(group, pattern)
    sparse = [result for result in results if result.variant != DENSE and rankable(result.accuracy)]
    best = best_of(result.accuracy for result in sparse)
    lost = [result.label for result in results if result.accuracy.lost]
    left_out = f" Left out, with a NaN: {', '.join(lost)}." if lost else ""
    if best is None:
        return "no recipe has a final accuracy." + left_out
    first = next(result for result in sparse if result.accuracy is best)
    if len(sparse) == 1:
        return f"only {first.label} was trained (n = {best.n}); there is nothing to compare it with.{left_out}"
    dense = next((result for result in results if result.variant == DENSE), None)
    return f"{_comparison(first, sparse)} {_against_dense(first, dense)}".rstrip() + left_out


def _comparison(best: Result, results: list[Result]) -> str:
    others = [result for result in results if result is not best]
    level = [result for result in others if not separate(result.accuracy, best.accuracy)]
    below = [result for result in others if result not in level]
    if not level:
        second = max(below, key=lambda result: result.accuracy.mean)
        return f"{_said(best)} is best; next is {_said(second)}."
    if not below:
        return f"no difference shown ({_counts(results)}). Highest mean: {_said(best)}."
    return (
        f"no difference shown between {_listed([best, *level])} ({_counts([best, *level])}). "
        f"Highest mean: {_said(best)}; it is above {_listed(below)}."
    )


def _against_dense(best: Result, dense: Result | None) -> str:
    if dense is None or not rankable(dense.accuracy):
        return ""
    if not separate(best.accuracy, dense.accuracy):
        return f"No difference to dense shown ({_counts([best, dense])})."
    points = best.accuracy.mean - dense.accuracy.mean
    return f"Dense is {percent(abs(points))} points {'below' if points > 0 else 'above'} it."


def _said(result: Result) -> str:
    accuracy = result.accuracy
    interval = f" ± {percent(accuracy.half_width)}" if accuracy.n > 1 else ""
    return f"{result.label} with {percent(accuracy.mean)}{interval} % (n = {accuracy.n})"


def _counts(results: list[Result]) -> str:
    counts = sorted({result.accuracy.n for result in results})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _listed(results: list[Result]) -> str:
    *first, last = [result.label for result in results]
    return f"{', '.join(first)} and {last}" if first else last
