"""Tables of the final headline metric, patterns by recipes; the differences to the best and to SR-STE."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from nmtrain.report.compare.scores import TEST, Row, Scores, compare
from nmtrain.report.compare.sections import DENSE, Group, Result, finished
from nmtrain.report.compare.statistics import Difference
from nmtrain.report.compare.table import NOTHING, TRAINING_FLOPS, Cell, Table
from nmtrain.report.read.frame import slug
from nmtrain.report.read.grouping import density_of
from nmtrain.report.read.headline import Headline

REFERENCE = "sr_ste"
TOP5 = "top5"  # the metric that image runs of more than five classes record beside accuracy


def quality_table(group: Group, section: str) -> Table:
    """Mean and spread of the final headline metric; rows are patterns, densest first, columns recipes.

    The best sparse recipe of a row is bold; each other that it is not shown to beat is marked. Dense runs are the
    same in every row and do not compete.
    """
    headline = group.headline
    rows = [_quality_row(group, pattern) for pattern in group.patterns or [DENSE]]
    notes = [
        f"{headline.title}{' in %' if headline.percent else ''} of the final, projected model on the {headline.split} "
        "split: mean over seeds ± half of its 95 % t-interval; sd: standard deviation over n seeds. n = 1 has no "
        f"interval.{_direction(headline)}",
        comparisons_note(group),
        *signature_note(group.runs),
        gradient_note(group),
        TRAINING_FLOPS + " See the cost table beside this one for them, measured seconds and bytes.",
    ]
    head = ["pattern", *(label for _, label in group.columns)]
    name = f"{group.slug}-{slug(headline.name)}"
    return Table(name, table_title(headline.title, section, group), head, rows, notes=notes)


def top5_table(group: Group, section: str, metrics: pd.DataFrame) -> Table | None:
    """The same of the accuracy of top 5, beside that of top 1; None unless all finished runs recorded it.

    Args:
        metrics: as `Frames.metrics`.
    """
    if group.headline.name != "accuracy" or TOP5 not in metrics:
        return None
    runs = group.runs.assign(headline=TOP5, quality=metrics[TOP5].reindex(group.runs.index))
    if not len(finished(runs)) or finished(runs)["quality"].isna().any():
        return None
    return quality_table(replace(group, runs=runs), section)


def _direction(headline: Headline) -> str:
    return " Lower is better." if headline.lower_is_better else ""


def signature_note(runs: pd.DataFrame) -> list[str]:
    """How sacreBLEU scored the runs, as far as they recorded it."""
    signatures = sorted(runs["signature"].dropna().unique())
    return [f"sacreBLEU: {'; '.join(signatures)}."] if signatures else []


def row_results(group: Group, pattern: str) -> list[Result]:
    """The results that stand in one row, in the order of the columns."""
    found = [group.result(pattern, variant, label) for variant, label in group.columns]
    return [result for result in found if result is not None]


def row_of(group: Group, pattern: str) -> Row:
    """The tests of one row, each recipe under its label: the sparse ones compete, dense training stands beside them."""
    results = row_results(group, pattern)
    return compare(
        {result.label: result.scores for result in results if result.variant != DENSE},
        group.headline,
        {result.label: result.scores for result in results if result.variant == DENSE},
        _reference(group),
    )


def _reference(group: Group) -> str | None:
    """The label of SR-STE; of several columns of it, the first."""
    return next((label for variant, label in group.columns if variant == REFERENCE), None)


def comparisons_note(group: Group) -> str:
    """What is tested, and which comparisons are corrected together."""
    dense = any(variant == DENSE for variant, _ in group.columns)
    reference = _reference(group)
    with_reference = f", and each sparse one with {reference}" if reference else ""
    each = "each recipe, dense too," if dense else "each recipe"
    return f"{TEST}the comparisons of a row: {each} with the best{with_reference}."


def pattern_cell(pattern: str) -> Cell:
    return Cell(pattern, value=density_of(None if pattern == DENSE else pattern))


def run_marks(scores: Scores, *parts: pd.DataFrame) -> str:
    """Marks for what is unusual about the runs themselves, whatever they reached; ``parts``: the runs of each cell."""
    counted = finished(pd.concat(parts) if len(parts) > 1 else parts[0])
    marks = scores.marks
    marks += "◊" if max(counted["code"].nunique(), counted["libraries"].nunique(dropna=False)) > 1 else ""
    marks += "△" if counted["device"].nunique(dropna=False) > 1 else ""
    marks += "¶" if (counted["penalty_times"] > 1).any() else ""
    return marks + ("§" if any(finished(part)["seed"].duplicated().any() for part in parts) else "")


def _quality_row(group: Group, pattern: str) -> list[Cell]:
    tests = row_of(group, pattern)
    row = [pattern_cell(pattern)]
    for variant, label in group.columns:
        result = group.result(pattern, variant, label)
        if result is None:
            row.append(NOTHING)
            continue
        text, detail = result.scores.text(group.headline)
        marks = ("" if variant == DENSE else tests.mark(label)) + run_marks(result.scores, result.runs)
        value = result.quality.mean if result.quality.n else None
        row.append(Cell(text, detail, value, label == tests.best, marks, result.anchor))
    return row


def gradient_note(group: Group) -> str:
    """Which gradient rule each sparse column trained with: a table always says so."""
    rules: dict[str, list[str]] = {}
    for _, label in group.columns:
        for result in group.results.values():
            if result.label == label and result.variant != DENSE:
                rule = result.runs["gradient"].iloc[0].replace("_", "-")
                if label not in rules.setdefault(rule, []):
                    rules[rule].append(label)
    said = "; ".join(f"{rule} for {', '.join(labels)}" for rule, labels in sorted(rules.items()))
    return f"Gradient rule: {said or 'no sparse run'}."


def difference_table(group: Group, section: str) -> Table | None:
    """Mean difference to SR-STE; None without SR-STE or anything beside it."""
    reference = _reference(group)
    others = [label for variant, label in group.columns if variant != DENSE and label != reference]
    if reference is None or not others:
        return None
    rows = [[pattern_cell(pattern), *_differences(group, pattern, others, reference)] for pattern in group.patterns]
    table = Table(f"{group.slug}-difference", reference, ["pattern", *others], rows)
    return _told(table, group, section)


def best_difference_table(group: Group, section: str) -> Table | None:
    """Mean difference to the best sparse recipe of each row; None where the table of SR-STE holds all of it."""
    labels = [label for _, label in group.columns]
    tests = {pattern: row_of(group, pattern) for pattern in group.patterns}
    dense = {label for variant, label in group.columns if variant == DENSE}
    pairs = {pair for row in tests.values() for pair in row.tests}
    if all(_reference(group) in pair and not dense.intersection(pair) for pair in pairs):
        return None
    rows = [
        [pattern_cell(pattern), Cell(row.best or "–", value=row.best), *_differences(group, pattern, labels, row.best)]
        for pattern, row in tests.items()
    ]
    table = Table(f"{group.slug}-difference-to-best", "the best", ["pattern", "best", *labels], rows, stub=2)
    return _told(table, group, section)


def _told(table: Table, group: Group, section: str) -> Table:
    """A table of differences to its title, with a whole title and notes."""
    base, headline = table.title, group.headline
    measure = "Percentage points" if headline.percent else headline.title
    better = ", so that less than zero is better" if headline.lower_is_better else ""
    notes = [
        f"{measure} above {base} on the {headline.split} split{better}: mean over pairs of runs with the same seed "
        "(else of two means, marked Welch) ± half of its 95 % t-interval. p: of this one comparison; Holm: corrected "
        "for those beside it. Bold: shown, by the corrected p. One pair allows no test.",
        comparisons_note(group),
        *signature_note(group.runs),
        TRAINING_FLOPS + " Recipes of a row need not have spent the same; see the cost table.",
    ]
    what = f"Difference to {base}" if headline.percent else f"Difference in {headline.label} to {base}"
    return replace(table, title=table_title(what, section, group), notes=notes)


def _differences(group: Group, pattern: str, labels: list[str], base: str | None) -> list[Cell]:
    """The cells of a row, under ``labels``, each compared with the result labelled ``base``."""
    tests = row_of(group, pattern)
    results = {result.label: result for result in row_results(group, pattern)}
    if base not in results:
        return [NOTHING] * len(labels)
    return [
        _difference_cell(results[label], results[base], tests) if label in results and label != base else NOTHING
        for label in labels
    ]


def _difference_cell(result: Result, base: Result, tests: Row) -> Cell:
    lost = [result.scores.lost_text, f"{base.label}: {base.scores.lost_text}" if base.scores.lost else ""]
    marks = run_marks(result.scores if result.scores.lost else base.scores, result.runs, base.runs)
    found, headline = tests.difference(result.label, base.label), tests.headline
    if found is None:
        return Cell("–", ", ".join(filter(None, lost)), marks=marks, anchor=result.anchor)
    interval = f" ± {headline.text(found.half_width)}" if found.tested else ""
    detail = ", ".join(filter(None, [p_values(found), compared(found), *lost]))
    is_shown = found.shown and result.scores.rankable and base.scores.rankable
    return Cell(headline.signed(found.mean) + interval, detail, found.mean, is_shown, marks, result.anchor)


def p_values(found: Difference) -> str:
    """``p = 0.012, Holm 0.024``, ``p < 0.001``; empty where no test was possible."""
    corrected = "" if found.holm is None else f", Holm {_p(found.holm).removeprefix('= ')}"
    return f"p {_p(found.p)}{corrected}" if math.isfinite(found.p) else ""


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def compared(found: Difference) -> str:
    """What a difference was computed from."""
    if found.pairs:
        return f"n = {found.pairs} pair{'s' if found.pairs > 1 else ''}"
    return f"Welch, n = {found.n[0]} and {found.n[1]}" if found.tested else "no seed in common, no test"


def table_title(what: str, section: str, group: Group) -> str:
    return f"{what}: {section}" + (f" ({group.title})" if group.title else "")
