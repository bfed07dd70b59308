"""Numbers worked out by hand, or by scipy.stats."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from nmtrain.report.statistics import (
    distinct_levels,
    estimate,
    interpolate,
    paired_difference,
    pareto_front,
    separate,
)


def test_three_seeds_by_hand():
    found = estimate([0.70, 0.72, 0.74])
    assert (found.mean, found.sd) == pytest.approx((0.72, 0.02))
    assert found.half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3))  # t of 2 degrees of freedom
    assert (found.n, found.lost) == (3, 0)


def test_interval_is_that_of_scipy():
    values = [0.61, 0.64, 0.59, 0.66, 0.63]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 4, loc=found.mean, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    found = estimate([0.7])
    assert found.mean == 0.7
    assert found.n == 1
    assert math.isnan(found.sd)
    assert math.isnan(found.half_width)


def test_nan_is_counted_not_averaged():
    found = estimate([0.7, math.nan, 0.8])
    assert (found.mean, found.n, found.lost) == (pytest.approx(0.75), 2, 1)
    assert math.isnan(estimate([math.nan]).mean)


def test_intervals_separate_only_where_they_do_not_meet():
    low, high = estimate([0.70, 0.71, 0.72]), estimate([0.80, 0.81, 0.82])  # ± 0.0248
    assert separate(low, high)
    assert separate(high, low)
    meeting = estimate([0.74, 0.75, 0.76])  # from 0.7252, where the other ends at 0.7348
    assert not separate(low, meeting)
    assert not separate(meeting, low)
    assert not separate(low, estimate([0.9]))
    assert not separate(low, estimate([0.80, 0.81, 0.82, math.nan]))


def test_paired_difference_is_that_of_scipy():
    ours, theirs = {0: 0.71, 1: 0.74, 2: 0.72, 3: 0.78}, {0: 0.70, 1: 0.71, 2: 0.70, 3: 0.73}
    found = paired_difference(ours, theirs)
    expected = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    assert found is not None
    assert found.mean == pytest.approx(0.0275)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (interval.low, interval.high)
    )
    assert found.shown == (interval.low > 0)


def test_only_matching_seeds_are_paired():
    found = paired_difference({0: 0.7, 1: 0.9, 5: 0.1}, {0: 0.6, 1: 0.7, 2: 0.9})
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(0.15), 2)
    assert paired_difference({0: 0.7}, {1: 0.7}) is None


def test_one_pair_allows_no_test():
    found = paired_difference({0: 0.7}, {0: 0.5})
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(0.2), 1)
    assert math.isnan(found.p)
    assert not found.shown


def test_differences_without_spread():
    same = paired_difference({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5})
    assert same is not None
    assert (same.p, same.shown) == (0.0, True)
    zero = paired_difference({0: 0.5, 1: 0.75}, {0: 0.5, 1: 0.75})
    assert zero is not None
    assert math.isnan(zero.p)
    assert not zero.shown


def test_interpolation_is_linear_and_never_extrapolates():
    assert interpolate([1.0, 3.0], [0.2, 0.6], 1.5) == pytest.approx(0.3)
    assert interpolate([1.0, 3.0], [0.2, 0.6], 0.9) is None
    assert interpolate([1.0, 3.0], [0.2, 0.6], 3.1) is None
    assert interpolate([], [], 1.0) is None


def test_pareto_front():
    costs = [1.0, 2.0, 2.0, 3.0, 4.0, 0.5]
    gains = [0.5, 0.7, 0.6, 0.7, 0.8, math.nan]
    assert pareto_front(costs, gains) == [0, 1, 4]  # 3 costs more than 1 for the same, the NaN is no point
    assert pareto_front([1.0, 1.0], [0.5, 0.5]) == [0, 1]


def test_levels_cover_what_lies_within_the_tolerance_below():
    assert distinct_levels([100.0, 95.0, 94.9, 50.0, math.nan], 0.05) == [100.0, 94.9, 50.0]
