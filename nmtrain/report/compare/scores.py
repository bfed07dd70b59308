"""Final values by seed, the seeds that were lost, and the one criterion by which results are ranked and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from nmtrain.report.compare.statistics import Estimate, difference, estimate
from nmtrain.report.read.headline import Headline
from nmtrain.report.read.identity import DIVERGED, FAILED

# A seed is lost with its run, or because the run's final value is no number.
NOT_A_NUMBER = "NaN"
_LOST = (DIVERGED, FAILED, NOT_A_NUMBER)

TEST = (
    "What is shown and what is not (marks, advice, differences): two-sided t-test at 5 %, paired over the seeds that "
    "two recipes share, Welch's where they share fewer than two; not corrected for the number of comparisons."
)


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


def best_of(scores: Iterable[Scores], headline: Headline) -> Scores | None:
    """The best mean of those that lost no seed."""
    ranked = [one for one in scores if one.rankable]
    return max(ranked, key=lambda one: headline.gain(one.quality.mean), default=None)


def beats(one: Scores, other: Scores, headline: Headline) -> bool | None:
    """Whether ``one`` is shown to be better; None where no test is possible."""
    found = difference(one.by_seed, other.by_seed)
    if found is None or not found.tested:
        return None
    return found.shown and headline.gain(found.mean) > 0


def standing(scores: Scores, best: Scores | None, headline: Headline) -> tuple[bool, str]:
    """Whether it is the best of its row, and the mark of those that the best is not shown to beat."""
    if best is None or scores is best or not scores.rankable:
        return scores is best, ""
    beaten = beats(best, scores, headline)
    return False, "?" if beaten is None else "" if beaten else "≈"
