"""Means with their uncertainty, paired differences, interpolation and Pareto fronts: numbers in, numbers out."""

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

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95 % t-interval and the p-value of the two-sided paired t-test.

    For a single pair everything but ``mean`` is NaN. Where all differences are the same, ``p`` is 0, or NaN if they
    are all zero.
    """

    mean: float
    half_width: float
    p: float
    n: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
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


def separate(one: Estimate, other: Estimate) -> bool:
    """Whether the two 95 % intervals do not meet. False where either has no interval or lost a run to NaN."""
    if min(one.n, other.n) < 2 or one.lost or other.lost:
        return False
    return one.low > other.high or other.low > one.high


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """``values - reference`` over the seeds that both have as numbers; None where there is no such seed."""
    differences = [values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())]
    found = estimate(differences)
    if found.n == 0:
        return None
    if found.n == 1 or (found.sd == 0 and found.mean == 0):
        return Difference(found.mean, found.half_width, math.nan, found.n)
    if found.sd == 0:
        return Difference(found.mean, 0.0, 0.0, found.n)
    t = found.mean / (found.sd / math.sqrt(found.n))
    return Difference(found.mean, found.half_width, float(2 * stdtr(found.n - 1, -abs(t))), found.n)


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
