"""Tables of the final headline metric: patterns by recipes, and the paired differences to SR-STE."""

from __future__ import annotations

from collections.abc import Iterable

from nmtrain.report.frame import slug
from nmtrain.report.grouping import density_of
from nmtrain.report.headline import Headline
from nmtrain.report.sections import DENSE, Group, Result
from nmtrain.report.statistics import Difference, Estimate, paired_difference, separate
from nmtrain.report.table import NOTHING, TRAINING_FLOPS, Cell, Table, p_value

REFERENCE = "sr_ste"


def quality_table(group: Group, section: str) -> Table:
    """Mean and spread of the final headline metric; rows are patterns, densest first, columns recipes.

    The best sparse recipe of a row is bold; each other whose interval meets the best's is marked. Dense runs are the
    same in every row and do not compete.
    """
    headline = group.headline
    rows = [_quality_row(group, pattern) for pattern in group.patterns or [DENSE]]
    notes = [
        f"{headline.title}{' in %' if headline.percent else ''} of the final, projected model: mean over seeds ± half "
        f"of its 95 % t-interval; sd: standard deviation over n seeds. n = 1 has no interval.{_direction(headline)}",
        gradient_note(group),
        TRAINING_FLOPS + " See the cost table beside this one for them, measured seconds and bytes.",
    ]
    head = ["pattern", *(label for _, label in group.columns)]
    name = f"{group.slug}-{slug(headline.name)}"
    return Table(name, table_title(headline.title, section, group), head, rows, notes=notes)


def _direction(headline: Headline) -> str:
    return " Lower is better." if headline.lower_is_better else ""


def best_of(estimates: Iterable[Estimate], headline: Headline) -> Estimate | None:
    """The best mean of those that lost no run to NaN."""
    return max(filter(rankable, estimates), key=lambda quality: headline.gain(quality.mean), default=None)


def rankable(quality: Estimate) -> bool:
    return quality.n > 0 and not quality.lost


def standing(quality: Estimate, best: Estimate | None) -> tuple[bool, str]:
    """Whether it is the best of its row, and the mark of those that are not shown to differ from the best."""
    if best is None or quality is best or not rankable(quality):
        return quality is best, ""
    if min(quality.n, best.n) < 2:
        return False, "?"
    return False, "" if separate(quality, best) else "≈"


def row_results(group: Group, pattern: str) -> list[Result]:
    """The results that stand in one row, in the order of the columns."""
    found = [group.result(pattern, variant, label) for variant, label in group.columns]
    return [result for result in found if result is not None]


def pattern_cell(pattern: str) -> Cell:
    return Cell(pattern, value=density_of(None if pattern == DENSE else pattern))


def quality_text(quality: Estimate, headline: Headline) -> tuple[str, str]:
    """The two lines of a cell: mean ± half width; sd and n."""
    lost = f", {quality.lost} NaN" if quality.lost else ""
    if quality.n < 2:
        return headline.text(quality.mean) if quality.n else "NaN", f"n = {quality.n}{lost}"
    text = f"{headline.text(quality.mean)} ± {headline.text(quality.half_width)}"
    return text, f"sd {headline.text(quality.sd)}, n = {quality.n}{lost}"


def run_marks(result: Result) -> str:
    """Marks for what is unusual about the runs themselves, whatever they reached."""
    marks = "!" if result.quality.lost else ""
    marks += "◊" if result.runs["code"].nunique() > 1 else ""
    return marks + ("§" if len(result.runs) > len(result.by_seed) else "")


def _quality_row(group: Group, pattern: str) -> list[Cell]:
    competing = (result.quality for result in row_results(group, pattern) if result.variant != DENSE)
    best = best_of(competing, group.headline)
    row = [pattern_cell(pattern)]
    for variant, label in group.columns:
        result = group.result(pattern, variant, label)
        if result is None:
            row.append(NOTHING)
            continue
        text, detail = quality_text(result.quality, group.headline)
        is_best, mark = (False, "") if variant == DENSE else standing(result.quality, best)
        value = result.quality.mean if result.quality.n else None
        row.append(Cell(text, detail, value, is_best, mark + run_marks(result), result.anchor))
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
    """Mean difference to SR-STE over the seeds that both have; None without SR-STE or anything beside it."""
    references = [label for variant, label in group.columns if variant == REFERENCE]
    others = [column for column in group.columns if column[0] != DENSE and column[1] not in references[:1]]
    if not references or not others:
        return None
    reference, headline = references[0], group.headline
    rows = [_difference_row(group, pattern, others, reference) for pattern in group.patterns]
    measure = "Percentage points" if headline.percent else headline.title
    better = ", so that less than zero is better" if headline.lower_is_better else ""
    notes = [
        f"{measure} above {reference}{better}: mean over pairs of runs with the same seed ± half of its 95 % "
        "t-interval; p: two-sided paired t-test, not corrected for the number of comparisons. "
        "Bold: the interval excludes zero. One pair allows no test.",
        TRAINING_FLOPS + " Recipes of a row need not have spent the same; see the cost table.",
    ]
    head = ["pattern", *(label for _, label in others)]
    what = f"Difference to {reference}" if headline.percent else f"Difference in {headline.label} to {reference}"
    return Table(f"{group.slug}-difference", table_title(what, section, group), head, rows, notes=notes)


def _difference_row(group: Group, pattern: str, columns: list[tuple[str, str]], reference: str) -> list[Cell]:
    row = [pattern_cell(pattern)]
    base = group.result(pattern, REFERENCE, reference)
    for variant, label in columns:
        result = group.result(pattern, variant, label)
        if result is None or base is None:
            row.append(NOTHING)
            continue
        difference = paired_difference(result.by_seed, base.by_seed)
        lost = bool(result.quality.lost or base.quality.lost)
        if difference is None:
            row.append(_unpaired_cell(result, base, group.headline, lost))
        else:
            row.append(_difference_cell(difference, group.headline, result.anchor, lost))
    return row


def _unpaired_cell(result: Result, base: Result, headline: Headline, lost: bool) -> Cell:
    if not (result.quality.n and base.quality.n):
        return NOTHING
    difference = result.quality.mean - base.quality.mean
    detail = "no seed in common, no test"
    return Cell(headline.signed(difference), detail, difference, marks="!" if lost else "", anchor=result.anchor)


def _difference_cell(difference: Difference, headline: Headline, anchor: str, lost: bool) -> Cell:
    marks = "!" if lost else ""
    if difference.n == 1:
        return Cell(headline.signed(difference.mean), "n = 1 pair", difference.mean, marks=marks, anchor=anchor)
    text = f"{headline.signed(difference.mean)} ± {headline.text(difference.half_width)}"
    detail = ", ".join(part for part in (p_value(difference.p), f"n = {difference.n} pairs") if part)
    return Cell(text, detail, difference.mean, difference.shown and not lost, marks, anchor)


def table_title(what: str, section: str, group: Group) -> str:
    return f"{what}: {section}" + (f" ({group.title})" if group.title else "")
