"""The verdict on claims as tables, and as one CSV file."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import pandas as pd

from nmtrain.report.compare.quality import compared, p_values, pattern_cell, run_marks
from nmtrain.report.compare.scores import TEST
from nmtrain.report.compare.table import NOTHING, TRAINING_FLOPS, Cell, Table, quantity
from nmtrain.report.compare.verdict import CONTRADICTED, NOT_TESTED, SUPPORTED, Finding, Verdict
from nmtrain.report.read.claims import UPDATES

_NOTES = (
    "Supported: the first recipe is shown to be better than the second; contradicted: to be worse; not supported: "
    "nothing is shown; not tested: the runs allow no test. Bold: shown. By: the file that holds the claim.",
    TEST
    + "the comparisons of one claim in this table, its patterns and lengths. Claims are not corrected for each other.",
    "Difference: the first recipe's metric less the second's, ± half of its 95 % t-interval; in points where the "
    "metric is in %. Could show: the smallest true difference that a test with so many seeds and this spread shows in "
    "80 % of cases (noncentral t, two-sided at 5 %, one comparison). A smaller one may be there and not be seen. "
    "Claimed: how large the difference is said to be.",
    "Equal updates: runs of one length. Equal FLOPs: finished runs whose training FLOPs lie within 5 %. "
    + TRAINING_FLOPS,
)
_HEAD = ("claim", "by", "pattern", "at equal", "verdict", "metric", "difference", "n", "p", "could show", "claimed")


def verdict_tables(verdict: Verdict) -> list[Table]:
    """One for each section that has runs of a claim."""
    by_section = groupby(verdict.findings, key=lambda finding: finding.section.slug)
    return [_table(list(findings)) for _, findings in by_section]


def why_fewer(verdict: Verdict) -> list[str]:
    """A sentence where claims that we ship have no runs."""
    if not verdict.without:
        return []
    return [f"{verdict.without} of the {verdict.shipped} claims that nmtrain ships have no runs here to be tested by."]


def _table(findings: list[Finding]) -> Table:
    section = findings[0].section
    rows = [_row(finding) for finding in findings]
    return Table(f"{section.slug}-claims", f"Claims: {section.name}", _HEAD, rows, stub=6, notes=_NOTES)


def _row(finding: Finding) -> list[Cell]:
    claim, headline = finding.claim, finding.headline
    name = f"{finding.one.label} over {finding.other.label}"
    shown = finding.verdict in (SUPPORTED, CONTRADICTED)
    return [
        Cell(name, value=name),
        Cell(claim.source, value=claim.source),
        pattern_cell(finding.pattern),
        Cell("updates" if claim.at == UPDATES else "FLOPs", _spent(finding), value=claim.at),
        Cell(finding.verdict, finding.why_not_tested, finding.verdict, shown),
        Cell(headline.axis, value=headline.name),
        *_test(finding),
        Cell(claim.claimed, value=claim.claimed) if claim.claimed else NOTHING,
    ]


def _spent(finding: Finding) -> str:
    one, other = (
        "–" if math.isnan(spent) else f"{spent:.0f}" if finding.claim.at == UPDATES else quantity(spent, "FLOPs")
        for spent in finding.spent
    )
    return one if one == other else f"{one} and {other}"


def _test(finding: Finding) -> list[Cell]:
    """Difference, n, p and what so many seeds could have shown, as far as there is a test."""
    found, headline = finding.difference, finding.headline
    if found is None or not finding.equal:
        return [NOTHING] * 4
    lost = next((scores for scores in finding.scores if scores.lost), finding.scores[0])
    marks = run_marks(lost, finding.one.runs, finding.other.runs)
    interval = f" ± {headline.text(found.half_width)}" if found.tested else ""
    difference = Cell(headline.signed(found.mean) + interval, "", found.mean, marks=marks, anchor=finding.one.anchor)
    n = Cell(compared(found).removeprefix("n = "), value=float(min(found.n)), anchor=finding.other.anchor)
    if finding.verdict == NOT_TESTED:
        return [difference, n, NOTHING, NOTHING]
    p = p_values(found).removeprefix("p ").removeprefix("= ")
    return [
        difference,
        n,
        Cell(p, value=found.p) if p else NOTHING,
        Cell(headline.text(found.smallest), value=found.smallest),
    ]


def verdict_frame(verdict: Verdict) -> pd.DataFrame:
    """A row for each finding; metrics on the scale of the records, FLOPs and updates as means over seeds."""
    return pd.DataFrame([_record(finding) for finding in verdict.findings])


def _record(finding: Finding) -> dict[str, Any]:
    claim, found, runs = finding.claim, finding.difference, finding.section.runs
    spent = dict(zip(("spent", "spent_over"), finding.spent, strict=True))
    record = {
        "claim_in": claim.source,
        "recipe": finding.one.label,
        "over": finding.other.label,
        "model": runs["model"].iloc[-1],  # dense runs, which have no roles, stand first
        "data": runs["data"].iloc[-1],
        "roles": runs["roles"].iloc[-1],
        "split": runs["split"].iloc[-1],
        "section": finding.section.title,
        "pattern": finding.pattern,
        "metric": finding.headline.name,
        "at": claim.at,
        **spent,
        "verdict": finding.verdict,
        "why_not_tested": finding.why_not_tested,
        "claimed": claim.claimed,
    }
    if found is None or not finding.equal:
        return record
    is_tested = finding.verdict != NOT_TESTED
    return record | {
        "difference": found.mean,
        "low": found.mean - found.half_width,
        "high": found.mean + found.half_width,
        "pairs": found.pairs,
        "n": found.n[0],
        "n_over": found.n[1],
        "p": found.p if is_tested else None,
        "holm": (found.p if found.holm is None else found.holm) if is_tested else None,
        "smallest_shown": found.smallest if is_tested else None,
    }
