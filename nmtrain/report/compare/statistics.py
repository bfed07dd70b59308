"""Means with their uncertainty, differences, interpolation and Pareto fronts: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Student's t distribution and its inverse. `scipy.stats` wraps these two and takes a second to import.
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


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
    """How far one recipe's values lie above another's: the mean, its 95 % t-interval and the two-sided p-value.

    Attributes:
        mean: of the differences of pairs; of two means where nothing is paired.
        half_width: half of the interval; NaN where no test is possible.
        p: 0 where all differences are the same, NaN if they are all zero or no test is possible.
        pairs: runs with the same seed that were compared; 0: Welch's test of two means.
        n: finite values of either side.
    """

    mean: float
    half_width: float
    p: float
    pairs: int
    n: tuple[int, int]

    @property
    def tested(self) -> bool:
        return math.isfinite(self.half_width)

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero, which is p < 0.05."""
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, spread and interval of the values that are not NaN."""
    finite = np.array([value for value in values if math.isfinite(value)])
    n = len(finite)
    mean = float(finite.mean()) if n else math.nan
    sd = float(finite.std(ddof=1)) if n > 1 else math.nan
    return Estimate(mean, sd, _half_width(sd, n), n, len(values) - n)


def _half_width(sd: float, n: int) -> float:
    return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n) if n > 1 else math.nan


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
        return _tested(found.mean, found.sd / math.sqrt(found.n), found.n - 1, found.n, n)
    left, right = estimate(list(one.values())), estimate(list(other.values()))
    parts = left.sd**2 / left.n, right.sd**2 / right.n
    error = math.sqrt(sum(parts))
    spread = sum(part**2 / (count - 1) for part, count in zip(parts, n, strict=True) if count > 1)
    freedom = sum(parts) ** 2 / spread if spread else min(n) - 1
    return _tested(_minus(left.mean, right.mean), error, freedom, 0, n)


def _minus(one: float, other: float) -> float:
    """The difference, and 0 where there is none but rounding."""
    return 0.0 if math.isclose(one, other, rel_tol=1e-12) else one - other


def _tested(mean: float, error: float, freedom: float, pairs: int, n: tuple[int, int]) -> Difference:
    """``error``: standard error of ``mean``, with ``freedom`` degrees of freedom."""
    if not math.isfinite(error):
        return Difference(mean, math.nan, math.nan, pairs, n)
    if error == 0:
        return Difference(mean, 0.0, 0.0 if mean else math.nan, pairs, n)
    half_width = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return Difference(mean, half_width, float(2 * stdtr(freedom, -abs(mean) / error)), pairs, n)


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
