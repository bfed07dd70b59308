"""Which recipe for which density, said only as far as the tests carry it."""

from __future__ import annotations

from dataclasses import dataclass

from nmtrain.report.compare.quality import row_of, row_results
from nmtrain.report.compare.scores import Row
from nmtrain.report.compare.sections import DENSE, Group, Result
from nmtrain.report.read.grouping import density_of
from nmtrain.report.read.headline import Headline


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
    results, tests, headline = row_results(group, pattern), row_of(group, pattern), group.headline
    sparse = [result for result in results if result.variant != DENSE]
    ranked = [result for result in sparse if result.scores.rankable]
    lost = [f"{result.label} ({result.scores.lost_text})" for result in results if result.scores.lost]
    left_out = f" Left out: {', '.join(lost)}." if lost else ""
    wrong = [result.label for result in sparse if (result.finished["penalty_times"] > 1).any()]
    left_out += f" Trained with too much of its penalty, see the notices: {', '.join(wrong)}." if wrong else ""
    if not ranked:
        return f"no recipe can be ranked by its final {headline.label}." + left_out
    best = next(result for result in ranked if result.label == tests.best)
    if len(ranked) == 1:
        how = "was trained" if len(sparse) == 1 else "lost no seed"
        return f"only {best.label} {how} (n = {best.quality.n}); there is nothing to compare it with.{left_out}"
    dense = next((result for result in results if result.variant == DENSE), None)
    return f"{_comparison(best, ranked, tests)} {_against_dense(best, dense, tests)}".rstrip() + left_out


def _comparison(best: Result, results: list[Result], tests: Row) -> str:
    headline = tests.headline
    others = [result for result in results if result is not best]
    level = [result for result in others if tests.mark(result.label)]
    below = [result for result in others if result not in level]
    if not level:
        second = max(below, key=lambda result: headline.gain(result.quality.mean))
        return f"{_said(best, headline)} is best; next is {_said(second, headline)}."
    extreme, beyond = ("Lowest", "below") if headline.lower_is_better else ("Highest", "above")
    highest = f"{extreme} mean: {_said(best, headline)}"
    # The others are compared with the best, and not with each other.
    between = f" between {best.label} and {'each of ' if len(level) > 1 else ''}{_listed(level)}"
    if not below:
        return f"no difference shown{between if len(level) > 1 else ''} ({_counts(results)}). {highest}."
    return f"no difference shown{between} ({_counts([best, *level])}). {highest}; it is {beyond} {_listed(below)}."


def _against_dense(best: Result, dense: Result | None, tests: Row) -> str:
    headline = tests.headline
    if dense is None or not dense.scores.rankable:
        return ""
    found = tests.difference(best.label, dense.label)
    if found is None or not found.shown:
        return f"No difference to dense shown ({_counts([best, dense])})."
    distance = f"{headline.text(abs(found.mean))}{' points' if headline.percent else ''}"
    return f"{best.label} is {distance} {'above' if found.mean > 0 else 'below'} {_said(dense, headline)}."


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
