"""Numbers worked out by hand, or by scipy.stats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nmtrain.report.compare.scores import Scores, compare
from nmtrain.report.compare.statistics import (
    corrected,
    difference,
    distinct_levels,
    estimate,
    holm,
    interpolate,
    pareto_front,
)
from nmtrain.report.read.headline import headline_of


def test_three_seeds_by_hand():
    found = estimate([0.70, 0.72, 0.74])
    assert (found.mean, found.sd) == pytest.approx((0.72, 0.02))
    assert found.half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3))  # t of 2 degrees of freedom
    assert (found.n, found.lost) == (3, 0)


def test_interval_is_that_of_scipy():
    values = [0.61, 0.64, 0.59, 0.66, 0.63]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 4, loc=found.mean, scale=stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))


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


def test_shared_seeds_are_paired_as_scipy_does():
    ours, theirs = {0: 0.71, 1: 0.74, 2: 0.72, 3: 0.78}, {0: 0.70, 1: 0.71, 2: 0.70, 3: 0.73}
    found = difference(ours, theirs)
    expected = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    assert found is not None
    assert found.mean == pytest.approx(0.0275)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (interval.low, interval.high)
    )
    assert found.shown == (interval.low > 0)
    assert (found.pairs, found.n) == (4, (4, 4))


@pytest.mark.parametrize("seeds", [(10, 11, 12, 13), (0, 11, 12, 13)])
def test_fewer_than_two_shared_seeds_are_two_samples_as_welch_has_them(seeds):
    ours = dict(enumerate([0.71, 0.74, 0.72]))
    theirs = dict(zip(seeds, [0.70, 0.65, 0.70, 0.73], strict=True))
    found = difference(ours, theirs)
    expected = stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False)
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (interval.low, interval.high)
    )
    assert (found.pairs, found.n) == (0, (3, 4))


def test_the_glyphs_example_is_shown():
    """Our published runs at 1:32, geometric and stepwise: 5.4 points, p = 0.03."""
    geometric, stepwise = {0: 0.76875, 1: 0.7705, 2: 0.7605}, {0: 0.73325, 1: 0.70675, 2: 0.697}
    found = difference(geometric, stepwise)
    assert found is not None
    assert (found.mean, found.p) == (pytest.approx(0.054, abs=5e-4), pytest.approx(0.0286, abs=5e-5))
    assert found.shown


def test_only_matching_seeds_are_paired():
    found = difference({0: 0.7, 1: 0.9, 5: 0.1}, {0: 0.6, 1: 0.7, 2: 0.9})
    assert found is not None
    assert (found.mean, found.pairs, found.n) == (pytest.approx(0.15), 2, (3, 3))


def test_lost_seeds_are_in_no_pair():
    found = difference({0: 0.7, 1: 0.9, 2: math.nan}, {0: 0.6, 1: 0.7, 2: 0.9})
    assert found is not None
    assert (found.mean, found.pairs, found.n) == (pytest.approx(0.15), 2, (2, 3))
    assert difference({0: math.nan}, {0: 0.7}) is None
    assert difference({}, {0: 0.7}) is None


@pytest.mark.parametrize("reference", [{0: 0.5}, {1: 0.5}, {1: 0.4, 2: 0.6}, {0: 0.5, 1: 0.5}])
def test_one_value_allows_no_test(reference):
    found = difference({0: 0.7}, reference)
    assert found is not None
    assert found.mean == pytest.approx(0.2)
    assert math.isnan(found.p)
    assert not found.tested
    assert not found.shown


@pytest.mark.parametrize("paired", [True, False])
def test_differences_without_spread(paired):
    seeds = (0, 1) if paired else (2, 3)
    same = difference({0: 0.75, 1: 0.75}, dict.fromkeys(seeds, 0.5))
    assert same is not None
    assert (same.p, same.shown, same.tested) == (0.0, True, True)
    zero = difference({0: 0.75, 1: 0.75}, dict.fromkeys(seeds, 0.75))
    assert zero is not None
    assert math.isnan(zero.p)
    assert not zero.shown


def test_rounding_shows_no_difference():
    found = difference({0: 0.1 + 0.2, 1: 0.1 + 0.2}, {0: 0.3, 1: 0.3})
    assert found is not None
    assert (found.mean, found.shown) == (0.0, False)


def test_five_percent_of_equal_recipes_are_shown_to_differ_at_three_seeds():
    """Where seeds matter twice as much as the rest; intervals that may not meet would show 0.5 %."""
    draw = np.random.default_rng(0)
    seeds = 2 * draw.standard_normal((4000, 1, 3)) + draw.standard_normal((4000, 2, 3))
    shown = [difference(dict(enumerate(one)), dict(enumerate(other))).shown for one, other in seeds]
    assert np.mean(shown) == pytest.approx(0.05, abs=0.01)


def test_holm_by_hand():
    """0.005 four times, 0.01 three times, 0.03 twice, 0.04 once, which may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7, 0.2]) == pytest.approx([1.0, 1.0, 0.6])
    assert holm([]) == []


def test_a_family_is_what_could_be_tested():
    family = {
        "far": difference({0: 0.9, 1: 0.92}, {0: 0.1, 1: 0.11}),
        "same": difference({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}),  # counts, as one with p = 1 would
        "untested": difference({0: 0.9}, {0: 0.1}),
    }
    found = corrected(family)
    assert found["far"].holm == pytest.approx(2 * found["far"].p)
    assert (found["same"].holm, found["same"].shown) == (1.0, False)
    assert found["untested"].holm is None
    assert corrected({"far": family["far"]})["far"].holm is None  # alone, there is nothing to correct


def test_the_family_decides_what_is_shown():
    one = difference({0: 0.800, 1: 0.800, 2: 0.800}, {0: 0.794, 1: 0.790, 2: 0.786})
    assert one.p == pytest.approx(0.0494, abs=5e-5)
    assert one.shown
    assert not corrected({"one": one, "other": one})["one"].shown


def test_the_other_way_round_only_signs_change():
    ours, theirs = dict(enumerate([0.71, 0.74, 0.72])), dict(zip((5, 6, 7, 8), [0.70, 0.65, 0.70, 0.73], strict=True))
    assert -difference(ours, theirs) == difference(theirs, ours)


def smallest(pairs):
    """In standard deviations of the differences."""
    values = np.random.default_rng(0).standard_normal(pairs)
    found = difference(dict(enumerate(values)), dict.fromkeys(range(pairs), 0.0))
    critical = stats.t.ppf(0.975, pairs - 1)
    assert stats.nct.sf(critical, pairs - 1, found.smallest / found.error) == pytest.approx(0.8, abs=1e-5)
    return found.smallest / values.std(ddof=1)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_the_smallest_difference_has_the_power_of_published_tables(effect, pairs):
    """Small, medium and large effects need 199, 34 and 15 pairs for 80 % (paired, two-sided at 5 %; G*Power 3.1)."""
    assert smallest(pairs) <= effect < smallest(pairs - 1)


def test_the_smallest_difference_of_few_seeds():
    assert [smallest(n) for n in (3, 5)] == pytest.approx([3.2640, 1.6820], abs=5e-5)


def test_without_a_test_there_is_no_smallest_difference():
    assert math.isnan(difference({0: 0.7}, {0: 0.5}).smallest)
    assert difference({0: 0.75, 1: 0.75}, {0: 0.5, 1: 0.5}).smallest == 0.0


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


def test_a_recipe_that_is_truly_best_is_seldom_called_worse_though_the_data_pick_the_best():
    """One of four that are equally good, five seeds: its own three tests are two-sided at 5 %, and one side can err."""
    draw, rows, called_worse = np.random.default_rng(0), 400, 0
    for _ in range(rows):
        scores = {name: Scores(dict(enumerate(map(float, draw.normal(size=5)))), {}) for name in "abcd"}
        row = compare(scores, headline_of("accuracy"))
        called_worse += row.best != "a" and row.mark("a") == ""
    assert 0 < called_worse / rows < 0.05
