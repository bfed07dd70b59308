"""What the runs say of each claim: supported, contradicted or neither, and what so many seeds could have shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nmtrain.config.choices import near
from nmtrain.errors import ReportError
from nmtrain.report.compare.equal_flops import BUDGET_TOLERANCE
from nmtrain.report.compare.scores import Scores, scores_of
from nmtrain.report.compare.sections import Result, Section, columns_of, patterns_of
from nmtrain.report.compare.statistics import Difference, corrected, difference
from nmtrain.report.read.claims import UPDATES, Claim
from nmtrain.report.read.frame import Frames
from nmtrain.report.read.grouping import variant_label
from nmtrain.report.read.headline import Headline, headline_of, is_known

SUPPORTED, NOT_SUPPORTED, CONTRADICTED, NOT_TESTED = "supported", "not supported", "contradicted", "not tested"

_Column = tuple[str, str]  # variant and label


@dataclass(frozen=True)
class Finding:
    """One comparison that a claim asks for.

    Attributes:
        one, other: the results of the claim's recipe, and of the one that it is said to be better than.
        equal: whether they had the same updates or FLOPs, as the claim asks.
        scores: of either, by the claim's metric.
        difference: of the scores; None where one has no value.
    """

    claim: Claim
    section: Section
    headline: Headline
    pattern: str
    one: Result
    other: Result
    equal: bool
    scores: tuple[Scores, Scores]
    difference: Difference | None

    @property
    def spent(self) -> tuple[float, float]:
        """Mean updates or FLOPs of either, whatever the claim holds equal."""
        return _spent(self.claim, self.one), _spent(self.claim, self.other)

    @property
    def why_not_tested(self) -> str:
        """Empty where there is a test. A mean without the seeds that were lost would be that of the lucky ones."""
        if not self.equal:
            return f"not at equal {self.claim.at}"
        both = zip((self.one, self.other), self.scores, strict=True)
        lost = [f"{result.label}: {scores.lost_text}" for result, scores in both if scores.lost]
        if lost or self.difference is None:
            return ", ".join(lost)
        return "" if self.difference.tested else "too few seeds"

    @property
    def verdict(self) -> str:
        if self.why_not_tested or self.difference is None:
            return NOT_TESTED
        if not self.difference.shown:
            return NOT_SUPPORTED
        return SUPPORTED if self.headline.gain(self.difference.mean) > 0 else CONTRADICTED


@dataclass(frozen=True)
class Verdict:
    """All findings, by section; and of the ``shipped`` claims, how many have no runs to be tested by."""

    findings: list[Finding]
    shipped: int
    without: int


def judge(claims: Sequence[Claim], sections: Sequence[Section], frames: Frames) -> Verdict:
    """Compare what the ``claims`` name, wherever there are runs of it; the tests of a claim are corrected by section.

    Raises:
        ReportError: for claims, other than those that we ship, that name what no run has: a line for each.
    """
    sections = [section for section in sections if section.has_results]
    faults = [
        f"{claim.place}: {fault}" for claim in claims if claim.place for fault in _faults(claim, sections, frames)
    ]
    if faults:
        raise ReportError("\n".join(faults))
    findings = [
        one
        for section in sections
        for claim in claims
        for one in _findings(claim, section, frames)
        if one.equal or claim.place  # of one that we ship there is nothing to tell then
    ]
    shipped = [claim for claim in claims if not claim.place]
    without = [claim for claim in shipped if all(one.claim is not claim for one in findings)]
    return Verdict(findings, len(shipped), len(without))


def _findings(claim: Claim, section: Section, frames: Frames) -> list[Finding]:
    columns = [_named(name, section) for name in (claim.recipe, claim.over)]
    metric = claim.metric or section.headline.name
    if (
        not _fits(claim, section)
        or any(len(found) != 1 for found in columns)
        or metric not in _metrics(section, frames)
    ):
        return []
    found = []
    for pattern in claim.patterns:
        for one, other, equal in _pairs(claim, section, pattern, columns[0][0], columns[1][0]):
            scores = _scores(one, metric, frames), _scores(other, metric, frames)
            test = difference(scores[0].by_seed, scores[1].by_seed)
            headline = headline_of(metric, section.headline.split)
            found.append(Finding(claim, section, headline, pattern, one, other, equal, scores, test))
    tests = corrected(
        {i: one.difference for i, one in enumerate(found) if one.difference is not None and not one.why_not_tested}
    )
    return [replace(one, difference=tests.get(i, one.difference)) for i, one in enumerate(found)]


def _scores(result: Result, metric: str, frames: Frames) -> Scores:
    return scores_of(result.runs.assign(quality=frames.metrics[metric].reindex(result.runs.index)))


def _spent(claim: Claim, result: Result) -> float:
    return result.mean("updates" if claim.at == UPDATES else "training_flops")


def _pairs(
    claim: Claim, section: Section, pattern: str, one: _Column, other: _Column
) -> list[tuple[Result, Result, bool]]:
    """The results to compare at ``pattern``, and whether they are at equal updates or FLOPs; if none is, the nearest.

    Equal updates are those of one length. Equal FLOPs lie within 5 %, whatever the lengths; each result of the recipe
    is compared with the nearest of the other.
    """
    by_group = [(group.result(pattern, *one), group.result(pattern, *other)) for group in section.groups]
    ones = [left for left, _ in by_group if left is not None]
    others = [right for _, right in by_group if right is not None]
    if claim.at == UPDATES:
        pairs = [(left, right) for left, right in by_group if left is not None and right is not None]
    else:
        pairs = [(left, min(others, key=lambda right: _gap(claim, left, right))) for left in ones if others]
    pairs.sort(key=lambda pair: _gap(claim, *pair))
    tolerance = 0.0 if claim.at == UPDATES else BUDGET_TOLERANCE
    equal = [(left, right, True) for left, right in pairs if _gap(claim, left, right) <= tolerance]
    return equal or [(left, right, False) for left, right in pairs[:1]]


def _gap(claim: Claim, one: Result, other: Result) -> float:
    """How far what the two spent lies apart, as a part of the larger; of a result that lost all seeds, as planned."""
    low, high = sorted((_spent(claim, one), _spent(claim, other)))
    if math.isnan(low + high):
        return 0.0 if claim.at == UPDATES else math.inf
    return 1 - low / high


def _fits(claim: Claim, section: Section) -> bool:
    return all(
        wanted is None or wanted in _values(section, key)
        for key, wanted in (("model", claim.model), ("data", claim.data), ("roles", claim.roles))
    )


def _values(section: Section, key: str) -> list[str]:
    """What a claim may call the model, data or roles of a section: of ``glue-mnli``, ``glue`` too."""
    found = [str(value) for value in section.runs[key].dropna().unique()]
    return found + [value.partition("-")[0] for value in found if key == "data" and "-" in value]


def _metrics(section: Section, frames: Frames) -> list[str]:
    """Those that the runs recorded and of which it is known which way is better."""
    recorded = frames.metrics.loc[section.runs.index].dropna(axis="columns", how="all").columns
    return [name for name in recorded if is_known(name) or name == section.headline.name]


def _named(name: str, section: Section) -> list[_Column]:
    """The columns that ``name`` may mean: one with this label or plain variant, else those of a variant or recipe."""
    columns = columns_of(section.runs)
    plain = [column for column in columns if name in (column[1], _name(column))]
    recipes = section.runs[section.runs["recipe"] == name]
    return plain or [column for column in columns if column[0] == name] or columns_of(recipes)


def _name(column: _Column) -> str:
    """What a claim calls a column: the variant where the label says no more."""
    variant, label = column
    return variant if label == variant_label(variant) else label


def _faults(claim: Claim, sections: Sequence[Section], frames: Frames) -> list[str]:
    """What a claim names that no run has; empty if all of it has runs."""
    for key, wanted in (("model", claim.model), ("data", claim.data), ("roles", claim.roles)):
        known = _union(_values(section, key) for section in sections)
        if wanted is not None and wanted not in known:
            return [_unknown(key, wanted, known)]
    fitting = [section for section in sections if _fits(claim, section)]
    if not fitting:
        return [f"no runs have model {claim.model}, data {claim.data} and roles {claim.roles} together"]
    known = _union(_metrics(section, frames) for section in fitting)
    if claim.metric is not None and claim.metric not in known:
        return [_unknown("metric", claim.metric, known)]
    faults = _recipe_faults("recipe", claim.recipe, fitting) + _recipe_faults("over", claim.over, fitting)
    return faults or _pattern_faults(claim, fitting)


def _recipe_faults(key: str, name: str, sections: Sequence[Section]) -> list[str]:
    known = _union(map(_name, columns_of(section.runs)) for section in sections)
    found = _union(map(_name, _named(name, section)) for section in sections)
    if not found:
        return [_unknown(key, name, known)]
    if any(len(_named(name, section)) > 1 for section in sections):
        return [f"{key}: {name!r} may be any of {found}; name one of them"]
    return []


def _pattern_faults(claim: Claim, sections: Sequence[Section]) -> list[str]:
    both = [
        (section, one[0], other[0])
        for section in sections
        if (one := _named(claim.recipe, section)) and (other := _named(claim.over, section))
    ]
    known = [
        pattern
        for pattern in _union(patterns_of(section.runs) for section in sections)
        if any(_pairs(claim, section, pattern, one, other) for section, one, other in both)
    ]
    return [
        f"patterns: {pattern!r} has no runs of {claim.recipe} and {claim.over} in one table. Available: {known}"
        for pattern in claim.patterns
        if pattern not in known
    ]


def _unknown(key: str, value: str, known: Iterable[str]) -> str:
    known = list(known)
    return f"{key}: {value!r} has no runs here. Available: {known}{near(value, known)}"


def _union(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(one for found in lists for one in found))
