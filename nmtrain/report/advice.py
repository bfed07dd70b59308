"""Which recipe for which density, said only as far as the intervals carry it."""

from __future__ import annotations

from dataclasses import dataclass

from nmtrain.report.grouping import density_of
from nmtrain.report.headline import Headline
from nmtrain.report.quality import best_of, rankable, row_results
from nmtrain.report.sections import DENSE, Group, Result
from nmtrain.report.statistics import separate


@dataclass(frozen=True)
class Advice:
    """What is said of one pattern; ``links``: phrases of ``text`` that hold a number, and the anchor of its runs."""

    text: str
    links: dict[str, str]


def advice(group: Group) -> list[Advice]:
    """One per pattern, densest first."""
    found = []
    for pattern in group.patterns:
        text = f"{pattern} (density {100 * density_of(pattern):.4g} %): {_row_advice(group, pattern)}"
        links = {_said(result, group.headline): result.anchor for result in row_results(group, pattern)}
        found.append(Advice(text, {phrase: anchor for phrase, anchor in links.items() if phrase in text}))
    return found


def _row_advice(group: Group, pattern: str) -> str:
    results = row_results(group, pattern)
    sparse = [result for result in results if result.variant != DENSE and rankable(result.quality)]
    best = best_of((result.quality for result in sparse), group.headline)
    lost = [result.label for result in results if result.quality.lost]
    left_out = f" Left out, with a NaN: {', '.join(lost)}." if lost else ""
    if best is None:
        return f"no recipe has a final {group.headline.label}." + left_out
    first = next(result for result in sparse if result.quality is best)
    if len(sparse) == 1:
        return f"only {first.label} was trained (n = {best.n}); there is nothing to compare it with.{left_out}"
    dense = next((result for result in results if result.variant == DENSE), None)
    compared = _comparison(first, sparse, group.headline)
    return f"{compared} {_against_dense(first, dense, group.headline)}".rstrip() + left_out


def _comparison(best: Result, results: list[Result], headline: Headline) -> str:
    others = [result for result in results if result is not best]
    level = [result for result in others if not separate(result.quality, best.quality)]
    below = [result for result in others if result not in level]
    if not level:
        second = max(below, key=lambda result: headline.gain(result.quality.mean))
        return f"{_said(best, headline)} is best; next is {_said(second, headline)}."
    extreme, beyond = ("Lowest", "below") if headline.lower_is_better else ("Highest", "above")
    highest = f"{extreme} mean: {_said(best, headline)}"
    if not below:
        return f"no difference shown ({_counts(results)}). {highest}."
    return (
        f"no difference shown between {_listed([best, *level])} ({_counts([best, *level])}). "
        f"{highest}; it is {beyond} {_listed(below)}."
    )


def _against_dense(best: Result, dense: Result | None, headline: Headline) -> str:
    if dense is None or not rankable(dense.quality):
        return ""
    if not separate(best.quality, dense.quality):
        return f"No difference to dense shown ({_counts([best, dense])})."
    points = best.quality.mean - dense.quality.mean
    distance = f"{headline.text(abs(points))}{' points' if headline.percent else ''}"
    return f"{best.label} is {distance} {'above' if points > 0 else 'below'} {_said(dense, headline)}."


def _said(result: Result, headline: Headline) -> str:
    quality = result.quality
    interval = f" ± {headline.text(quality.half_width)}" if quality.n > 1 else ""
    return f"{result.label} with {headline.text(quality.mean)}{interval}{headline.unit} (n = {quality.n})"


def _counts(results: list[Result]) -> str:
    counts = sorted({result.quality.n for result in results})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _listed(results: list[Result]) -> str:
    *first, last = [result.label for result in results]
    return f"{', '.join(first)} and {last}" if first else last
