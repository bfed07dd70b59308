"""Tables of the final headline metric: patterns by recipes, and the differences to SR-STE."""

from __future__ import annotations

import pandas as pd

from nmtrain.report.compare.scores import TEST, Scores, best_of, standing
from nmtrain.report.compare.sections import DENSE, Group, Result, finished
from nmtrain.report.compare.statistics import Difference, difference
from nmtrain.report.compare.table import NOTHING, TRAINING_FLOPS, Cell, Table, p_value
from nmtrain.report.read.frame import slug
from nmtrain.report.read.grouping import density_of
from nmtrain.report.read.headline import Headline

REFERENCE = "sr_ste"


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
        TEST,
        *signature_note(group.runs),
        gradient_note(group),
        TRAINING_FLOPS + " See the cost table beside this one for them, measured seconds and bytes.",
    ]
    head = ["pattern", *(label for _, label in group.columns)]
    name = f"{group.slug}-{slug(headline.name)}"
    return Table(name, table_title(headline.title, section, group), head, rows, notes=notes)


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
    competing = (result.scores for result in row_results(group, pattern) if result.variant != DENSE)
    best = best_of(competing, group.headline)
    row = [pattern_cell(pattern)]
    for variant, label in group.columns:
        result = group.result(pattern, variant, label)
        if result is None:
            row.append(NOTHING)
            continue
        text, detail = result.scores.text(group.headline)
        is_best, mark = (False, "") if variant == DENSE else standing(result.scores, best, group.headline)
        value = result.quality.mean if result.quality.n else None
        row.append(Cell(text, detail, value, is_best, mark + run_marks(result.scores, result.runs), result.anchor))
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
    """Mean difference to SR-STE, over the seeds that both have; None without SR-STE or anything beside it."""
    references = [label for variant, label in group.columns if variant == REFERENCE]
    others = [column for column in group.columns if column[0] != DENSE and column[1] not in references[:1]]
    if not references or not others:
        return None
    reference, headline = references[0], group.headline
    rows = [_difference_row(group, pattern, others, reference) for pattern in group.patterns]
    measure = "Percentage points" if headline.percent else headline.title
    better = ", so that less than zero is better" if headline.lower_is_better else ""
    notes = [
        f"{measure} above {reference} on the {headline.split} split{better}: mean over pairs of runs with the same "
        "seed (else of two means, marked Welch) ± half of its 95 % t-interval. Bold: the interval excludes zero. One "
        "pair allows no test.",
        TEST,
        *signature_note(group.runs),
        TRAINING_FLOPS + " Recipes of a row need not have spent the same; see the cost table.",
    ]
    head = ["pattern", *(label for _, label in others)]
    what = f"Difference to {reference}" if headline.percent else f"Difference in {headline.label} to {reference}"
    return Table(f"{group.slug}-difference", table_title(what, section, group), head, rows, notes=notes)


def _difference_row(group: Group, pattern: str, columns: list[tuple[str, str]], reference: str) -> list[Cell]:
    base = group.result(pattern, REFERENCE, reference)
    results = [group.result(pattern, variant, label) for variant, label in columns]
    cells = [
        NOTHING if result is None or base is None else _difference_cell(result, base, group.headline)
        for result in results
    ]
    return [pattern_cell(pattern), *cells]


def _difference_cell(result: Result, base: Result, headline: Headline) -> Cell:
    lost = [result.scores.lost_text, f"{base.label}: {base.scores.lost_text}" if base.scores.lost else ""]
    marks = run_marks(result.scores if result.scores.lost else base.scores, result.runs, base.runs)
    found = difference(result.scores.by_seed, base.scores.by_seed)
    if found is None:
        return Cell("–", ", ".join(filter(None, lost)), marks=marks, anchor=result.anchor)
    interval = f" ± {headline.text(found.half_width)}" if found.tested else ""
    detail = ", ".join(filter(None, [p_value(found.p), _compared(found), *lost]))
    is_shown = found.shown and result.scores.rankable and base.scores.rankable
    return Cell(headline.signed(found.mean) + interval, detail, found.mean, is_shown, marks, result.anchor)


def _compared(found: Difference) -> str:
    """What a difference was computed from."""
    if found.pairs:
        return f"n = {found.pairs} pair{'s' if found.pairs > 1 else ''}"
    return f"Welch, n = {found.n[0]} and {found.n[1]}" if found.tested else "no seed in common, no test"


def table_title(what: str, section: str, group: Group) -> str:
    return f"{what}: {section}" + (f" ({group.title})" if group.title else "")
