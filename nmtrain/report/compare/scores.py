"""Final values by seed, the seeds that were lost, and the one rule by which scores are ranked and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from nmtrain.report.compare.statistics import Difference, Estimate, corrected, difference, estimate
from nmtrain.report.read.headline import Headline
from nmtrain.report.read.identity import DIVERGED, FAILED

# A seed is lost with its run, or because the run's final value is no number.
NOT_A_NUMBER = "NaN"
_LOST = (DIVERGED, FAILED, NOT_A_NUMBER)

TEST = (
    "What is shown and what is not (marks, advice, differences): two-sided t-test at 5 %, paired over the seeds that "
    "two recipes share, Welch's where they share fewer than two; corrected by Holm's method over "
)
WITH_THE_BEST = TEST + "the comparisons of a row: each sparse recipe with the best."


@dataclass(frozen=True)
class Scores:
    """Final values of the headline metric by seed, as recorded; NaN for the seeds in ``lost``, which says how."""

    by_seed: Mapping[int, float]
    lost: Mapping[int, str]

    @cached_property
    def quality(self) -> Estimate:
        return estimate(list(self.by_seed.values()))

    @property
    def rankable(self) -> bool:
        """Whether no seed was lost: the mean of those that are left would be that of the lucky ones."""
        return self.quality.n > 0 and not self.lost

    @property
    def lost_text(self) -> str:
        """``1 of 3 seeds diverged``; empty if none was lost."""
        counts = {how: list(self.lost.values()).count(how) for how in _LOST}
        said = [f"{count} of {len(self.by_seed)} seeds {how}" for how, count in counts.items() if count]
        return ", ".join(said)

    @property
    def marks(self) -> str:
        return "!" if self.lost else ""

    def text(self, headline: Headline) -> tuple[str, str]:
        """The two lines of a cell: mean ± half width; sd, n and what was lost."""
        quality = self.quality
        lost = f", {self.lost_text}" if self.lost else ""
        if not quality.n:
            return next((how for how in _LOST if how in self.lost.values()), NOT_A_NUMBER), f"n = 0{lost}"
        if quality.n == 1:
            return headline.text(quality.mean), f"n = 1{lost}"
        text = f"{headline.text(quality.mean)} ± {headline.text(quality.half_width)}"
        return text, f"sd {headline.text(quality.sd)}, n = {quality.n}{lost}"


def scores_of(runs: pd.DataFrame) -> Scores:
    """Of the runs of one cell. A seed that was run more than once counts once, with its mean."""
    found: dict[int, list[float]] = {}
    lost: dict[int, str] = {}
    for seed, value, how in zip(runs["seed"], runs["quality"].astype(float), runs["lost"], strict=True):
        found.setdefault(int(seed), []).append(value)
        if pd.isna(how) and math.isnan(value):
            how = NOT_A_NUMBER
        if pd.notna(how):
            lost[int(seed)] = min(how, lost.get(int(seed), how), key=_LOST.index)
    return Scores({seed: sum(values) / len(values) for seed, values in found.items()}, lost)


@dataclass(frozen=True)
class Row:
    """Scores by name, the ``best`` of them (None if none can be ranked), and the tests that are made among them.

    ``tests`` holds, for (one, other), how far one lies above the other; all of them are corrected together.
    """

    scores: Mapping[str, Scores]
    headline: Headline
    best: str | None
    tests: Mapping[tuple[str, str], Difference]

    def difference(self, one: str, other: str) -> Difference | None:
        """``one - other``; None where the two are not compared, or cannot be."""
        if (one, other) in self.tests:
            return self.tests[one, other]
        return -self.tests[other, one] if (other, one) in self.tests else None

    def mark(self, one: str) -> str:
        """The mark of what the best is not shown to beat; empty where it is, and where there is nothing to compare."""
        if self.best is None or one == self.best or not self.scores[one].rankable:
            return ""
        found = self.difference(one, self.best)
        if found is None or not found.tested:
            return "?"
        return "" if found.shown and self.headline.gain(found.mean) < 0 else "≈"


def compare(
    competing: Mapping[str, Scores],
    headline: Headline,
    beside: Mapping[str, Scores] | None = None,
    reference: str | None = None,
) -> Row:
    """Rank the ``competing`` scores by their means, leaving out those that lost a seed, and test them.

    Each is compared with the best, and so is what stands ``beside`` them (dense training, which does not compete);
    and each with the ``reference``, if that is one of them.

    The same data pick the best. What is truly best is called worse in less than 5 % of rows all the same (as in Hsu,
    Annals of Statistics 9, 1981, 1026-1034: only its own tests can do it), but of several that are equally good some
    one is called worse more often.
    """
    scores = {**competing, **(beside or {})}
    ranked = [name for name, one in competing.items() if one.rankable]
    best = max(ranked, key=lambda name: headline.gain(competing[name].quality.mean), default=None)
    pairs = [] if best is None else [(name, best) for name, one in scores.items() if one.rankable]
    if reference is not None and reference in competing:
        pairs += [(name, reference) for name in competing if (reference, name) not in pairs]
    tests = {
        (one, other): found
        for one, other in pairs
        if one != other and (found := difference(scores[one].by_seed, scores[other].by_seed)) is not None
    }
    return Row(scores, headline, best, corrected(tests))
