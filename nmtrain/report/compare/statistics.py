"""Means with their uncertainty, differences, interpolation and Pareto fronts: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

# Student's t distribution, its inverse and the noncentral one. `scipy.stats` wraps these and takes a second to import.
from scipy.special import nctdtrinc, stdtr, stdtrit

CONFIDENCE = 0.95
LEVEL = 0.05  # below which a p-value shows a difference
POWER = 0.8

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the finite values; NaN if there is none.
        sd: sample standard deviation (n - 1); NaN for n < 2.
        half_width: half of the 95 % t-interval of the mean; NaN for n < 2.
        n: finite values.
        lost: values that are NaN, and therefore in neither ``mean`` nor ``n``.
    """

    mean: float
    sd: float
    half_width: float
    n: int
    lost: int


@dataclass(frozen=True)
class Difference:
    """How far one recipe's values lie above another's, and the t-test of it.

    Attributes:
        mean: of the differences of pairs; of two means where nothing is paired.
        error: standard error of ``mean``; NaN where no test is possible.
        freedom: its degrees of freedom.
        pairs: runs with the same seed that were compared; 0: Welch's test of two means.
        n: finite values of either side.
        holm: the p-value corrected for the comparisons made beside this one; None of a lone one.
    """

    mean: float
    error: float
    freedom: float
    pairs: int
    n: tuple[int, int]
    holm: float | None = None

    def __neg__(self) -> Difference:
        return replace(self, mean=-self.mean, n=self.n[::-1])

    @property
    def tested(self) -> bool:
        return math.isfinite(self.error)

    @property
    def half_width(self) -> float:
        """Of the 95 % t-interval of this one comparison."""
        return _critical(self.freedom) * self.error if self.error else self.error

    @property
    def p(self) -> float:
        """Two-sided, uncorrected; 0 where all differences are the same, NaN where they are zero or cannot be tested."""
        if not self.error:
            return 0.0 if self.mean else math.nan
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error)) if self.tested else math.nan

    @property
    def shown(self) -> bool:
        """Whether the corrected p-value is below 5 %."""
        return (self.p if self.holm is None else self.holm) < LEVEL

    @property
    def smallest(self) -> float:
        """The true difference that a test with this error shows in 80 % of cases; NaN where no test is possible.

        By the noncentral t distribution, two-sided at 5 % and uncorrected (Cohen, Statistical Power Analysis, 1988,
        chapter 2). The chance of a wrong sign, below 1e-6 there, is left out.
        """
        if not self.error or not self.tested:
            return self.error
        return float(nctdtrinc(self.freedom, 1 - POWER, _critical(self.freedom))) * self.error


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, spread and interval of the values that are not NaN."""
    finite = np.array([value for value in values if math.isfinite(value)])
    n = len(finite)
    mean = float(finite.mean()) if n else math.nan
    sd = float(finite.std(ddof=1)) if n > 1 else math.nan
    return Estimate(mean, sd, _half_width(sd, n), n, len(values) - n)


def _half_width(sd: float, n: int) -> float:
    return _critical(n - 1) * sd / math.sqrt(n) if n > 1 else math.nan


def _critical(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """``values - reference``, each by seed: the one test of a report. None where either side has no finite value.

    A paired t-test over the seeds that both have, if there are two or more; else Welch's test, which needs two values
    on either side. A single pair, or single values, give a mean and no test.
    """
    one, other = ({seed: value for seed, value in side.items() if math.isfinite(value)} for side in (values, reference))
    shared = sorted(one.keys() & other.keys())
    n = len(one), len(other)
    if not min(n):
        return None
    if len(shared) > 1 or (shared and min(n) == 1):
        found = estimate([_minus(one[seed], other[seed]) for seed in shared])
        return Difference(found.mean, found.sd / math.sqrt(found.n), found.n - 1, found.n, n)
    left, right = estimate(list(one.values())), estimate(list(other.values()))
    parts = left.sd**2 / left.n, right.sd**2 / right.n
    error = math.sqrt(sum(parts))
    spread = sum(part**2 / (count - 1) for part, count in zip(parts, n, strict=True) if count > 1)
    freedom = sum(parts) ** 2 / spread if spread else min(n) - 1
    return Difference(_minus(left.mean, right.mean), error, freedom, 0, n)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979, 65-70).

    The smallest of k counts k times, the next k - 1 times, and so on; none comes out below a smaller one, or above 1.
    All that stay below 5 % hold together with 95 % confidence, whatever the tests have in common, if the same data did
    not choose which ones are made.
    """
    corrected = [0.0] * len(values)
    largest = 0.0
    for place, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - place) * values[i]))
        corrected[i] = largest
    return corrected


def corrected(family: Mapping[_Key, Difference]) -> dict[_Key, Difference]:
    """The same comparisons, each with its p-value corrected for all of the ``family`` that could be tested."""
    tested = [key for key, found in family.items() if found.tested]
    values = holm([p if math.isfinite(p := family[key].p) else 1.0 for key in tested]) if len(tested) > 1 else []
    return {**family, **{key: replace(family[key], holm=p) for key, p in zip(tested, values, strict=False)}}


def _minus(one: float, other: float) -> float:
    """The difference, and 0 where there is none but rounding."""
    return 0.0 if math.isclose(one, other, rel_tol=1e-12) else one - other


def interpolate(xs: Sequence[float] | np.ndarray, ys: Sequence[float] | np.ndarray, x: float) -> float | None:
    """``y`` at ``x`` on the straight lines through the points, sorted by ``xs``; None outside them."""
    if not len(xs) or not xs[0] <= x <= xs[-1]:
        return None
    return float(np.interp(x, xs, ys))


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """Indices, by rising cost, of the points that no other point beats: as cheap and better, or cheaper and as good.

    Points with a NaN are never on the front; of points that are the same in both, all are.
    """
    order = [i for i in range(len(costs)) if math.isfinite(costs[i]) and math.isfinite(gains[i])]
    order.sort(key=lambda i: (costs[i], -gains[i]))
    front: list[int] = []
    for i in order:
        same = bool(front) and costs[i] == costs[front[-1]] and gains[i] == gains[front[-1]]
        if same or not front or gains[i] > gains[front[-1]]:
            front.append(i)
    return front


def distinct_levels(values: Sequence[float], tolerance: float) -> list[float]:
    """The largest of each cluster of ``values``, falling: a level covers what lies within ``tolerance`` below it."""
    levels: list[float] = []
    for value in sorted((value for value in values if math.isfinite(value)), reverse=True):
        if not levels or value < levels[-1] * (1 - tolerance):
            levels.append(value)
    return levels
