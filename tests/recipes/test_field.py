"""The field's other methods, each by numbers that its paper's formula gives by hand."""

import math

import pytest

from nmtrain.recipes import RecipeError, build_recipe
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import SparsityState


def states(name, total=100, target="1:8", **options):
    recipe = build_recipe(name, target, **options)
    return [recipe.at(update, total) for update in range(total + 1)]


def test_gmp_tightens_along_a_cubic_to_half_of_training():
    found = states("gmp")
    # After q of the first half: 1 + 7 (1 - q)^3 of 8, rounded.
    kept = [found[update].pattern.n for update in (0, 10, 25, 40, 50, 99)]
    assert kept == [8, round(1 + 7 * 0.8**3), round(1 + 7 * 0.5**3), round(1 + 7 * 0.2**3), 1, 1]
    assert kept == [8, 5, 2, 1, 1, 1]
    assert {state.gradient for state in found} == {"straight_through"}
    assert {state.pattern.m for state in found} == {8}
    every = {state.pattern.n for state in states("gmp", 1000, "1:32")}
    assert every == set(range(1, 33))  # no integer is left out


def test_asp_prunes_once_and_keeps_that():
    found = states("asp")
    assert found[49] == SparsityState(None)
    assert [(state.pattern.n, state.gradient, state.freeze) for state in found[50:53]] == [
        (1, "masked", False),
        (1, "masked", True),
        (1, "masked", True),
    ]
    assert found[100].freeze
    assert not states("asp", dense_fraction=1.0)[100].freeze  # what was never pruned is ranked in the end


def test_step_holds_the_second_moment_once_it_prunes():
    found = states("step")
    assert [state.moments.hold_variance for state in (found[24], found[25], found[100])] == [False, True, True]
    assert [state.pattern for state in (found[24], found[25])] == [None, NMPattern(1, 8)]
    with pytest.raises(RecipeError, match="leaves no second moment to hold"):
        build_recipe("step", "1:8", dense_fraction=0.0)


@pytest.mark.parametrize(("options", "total"), [({"dense_fraction": 0.004}, 100), ({}, 1), ({}, 2)])
def test_step_learns_a_second_moment_in_at_least_one_dense_update(options, total):
    recipe = build_recipe("step", "1:8", **options)
    assert recipe.bounds(total) == (1, total)
    assert recipe.at(0, total) == SparsityState(None)
    assert recipe.at(total, total).pattern == NMPattern(1, 8)
    assert build_recipe("step", "1:8", **options, finetune_fraction=0.5).bounds(total)[0] == 1


def test_step_with_auto_is_the_latest_switch_until_the_update_is_known():
    recipe = build_recipe("step", "1:8", dense_fraction="auto")
    assert build_recipe("step", "1:8").switch_between(100) is None
    assert [recipe.switch_between(total) for total in (1, 2, 3, 15, 100)] == [(1, 1), (1, 1), (1, 1), (2, 7), (10, 50)]
    assert recipe.bounds(100) == (50, 100)
    for total in (2, 3, 12, 997, 10**6):
        first, last = recipe.switch_between(total)
        for update in {first, first + (last - first) // 3, last}:
            found = recipe.switched(update, total)
            assert found.bounds(total) == (update, total)
            assert found.switch_between(total) is None
    tuned = build_recipe("step", "1:8", dense_fraction="auto", finetune_fraction=0.5, freeze_mask=True)
    assert tuned.switched(10, 100).bounds(100) == (10, 50)
    with pytest.raises(RecipeError, match=r"finetune_fraction: 0\.6 exceeds 0\.5, what auto may leave"):
        build_recipe("step", "1:8", dense_fraction="auto", finetune_fraction=0.6)


def test_s_ste_shrinks_by_the_whole_threshold_and_rescales_to_the_end():
    for state in states("s_ste"):
        assert (state.projection.power, state.projection.threshold, state.projection.rescale) == (1.0, 1.0, True)
        assert (state.pattern, state.gradient) == (NMPattern(1, 8), "straight_through")


@pytest.mark.parametrize(("target", "theta"), [("1:8", 1.0), ("1:20", 1.0), ("1:32", 0.5)])
def test_feather_damps_gradients_above_95_percent(target, theta):
    found = states("feather", target=target)
    assert {state.gradient for state in found} == {theta}
    assert {state.projection.power for state in found} == {3.0}
    assert found[0].pattern.n == found[0].pattern.m
    assert found[50].pattern == NMPattern.parse(target)


def test_rigl_exchanges_at_every_so_many_updates_and_less_each_time():
    found = states("rigl", every=10)
    exchanges = {update: state.ranking.regrow for update, state in enumerate(found) if state.ranking.regrow is not None}
    assert list(exchanges) == [10, 20, 30, 40, 50, 60, 70]  # before three quarters, and not at the start
    assert exchanges[30] == pytest.approx(0.15 * (1 + math.cos(math.pi * 30 / 75)))
    assert [state.freeze for state in found[:3]] == [False, True, True]
    assert found[100].freeze
    assert build_recipe("rigl", "1:8", every=10).cuts(25) == [10, 11]  # 20 is beyond three quarters of 25
    assert {state.gradient for state in found} == {"masked"}


def test_top_kast_ranks_now_and_then_and_reaches_more_than_it_shows():
    found = states("top_kast", every=30)
    assert [update for update, state in enumerate(found) if not state.freeze] == [0, 30, 60, 90]
    assert {state.flow.wider for state in found} == {NMPattern(4, 8)}
    assert states("top_kast", target="3:8")[0].flow.wider == NMPattern(8, 8)


def test_ac_dc_goes_to_and_fro():
    found = states("ac_dc", rounds=3, dense_fraction=0.1, finetune_fraction=0.3)
    # Ten dense updates, three times ten sparse and ten dense, thirty sparse ones.
    sparse = [state.pattern is not None for state in found[:100]]
    assert sparse == [False] * 10 + ([True] * 10 + [False] * 10) * 3 + [True] * 30
    # Pruned weights are zero in all sparse updates, and when a dense stretch begins.
    cleared = [state.ranking.clear for state in found[:100]]
    assert cleared == [is_sparse or u in (20, 40, 60) for u, is_sparse in enumerate(sparse)]
    assert [u for u, state in enumerate(found) if state.pattern and not state.freeze] == [10, 30, 50, 70]


def test_ac_dc_ends_sparse():
    with pytest.raises(
        RecipeError, match=r"finetune_fraction: 0\.0 leaves no sparse stretch at the end; allowed: above"
    ):
        build_recipe("ac_dc", "1:8", finetune_fraction=0.0)
    found = states("ac_dc", finetune_fraction=0.001, rounds=2)
    # Ten dense, then 22 sparse, 22 dense, 22 sparse and 23 dense, and one sparse update to end with.
    sparse = [update for update, state in enumerate(found) if state.pattern]
    assert sparse == [*range(10, 32), *range(54, 76), 99, 100]


def test_ac_dc_clears_nothing_where_rounding_leaves_no_sparse_stretch():
    found = states("ac_dc", total=8, rounds=7, dense_fraction=0.0)  # fourteen stretches in seven updates
    assert [update for update, state in enumerate(found) if state.ranking.clear] == [7, 8]


def test_maxq_prunes_group_by_group_along_a_cubic():
    found = states("maxq")
    assert [found[update].projection.whole_groups for update in (0, 5, 20, 25, 100)] == pytest.approx(
        [1.0, 0.8**3, 0.2**3, 0.0, 0.0]
    )
    assert [state.strict for state in (found[24], found[25])] == [False, True]
    assert all(state.projection.queried for state in found)


def test_the_knobs_of_decaying_recipes():
    found = states("mdgf", decay="linear", decay_power=3.0, decay_end=0.2, finetune_fraction=0.0)
    assert [found[update].decay for update in (0, 50)] == pytest.approx([1.0, 0.2 + 0.8 * 0.125])
    assert found[100].decay == 0.0
    assert [state.pattern.n for state in states("mdgf", tighten=True, finetune_fraction=0.5)][10] == 5
    assert {state.flow.contenders for state in states("mdgf", contenders=2.0)} == {2.0}
    assert {state.gradient for state in states("sdgf", gradient=0.25)} == {0.25}
    halved = states("sdgf", structure="custom", patterns=["1:8"], decay="linear", decay_end=0.5, finetune_fraction=0.0)
    assert halved[50].decay == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("mdgf", "decay_end", 1.0),
        ("mdgf", "decay_power", 0),
        ("mdgf", "tighten", 1),
        ("mdgf", "contenders", -1.0),
        ("sdgf", "decay_end", 0.5),
        ("sdgf", "decay_power", 2.0),
        ("gmp", "contenders", "high"),
        ("rigl", "every", 0),
        ("rigl", "exchange", 0.0),
        ("rigl", "until", 1.5),
        ("top_kast", "wider", 1),
        ("top_kast", "every", 2.5),
        ("ac_dc", "rounds", 0),
    ],
)
def test_values_that_are_not_allowed_are_named(name, option, value):
    with pytest.raises(RecipeError) as refusal:
        build_recipe(name, "1:8", **{option: value})
    assert list(refusal.value.faults) == [option]
    assert repr(value) in refusal.value.faults[option]


def test_contenders_have_nothing_to_share_where_no_gradient_passes():
    with pytest.raises(RecipeError, match=r"contenders: 2\.0 has no effect with gradient 0"):
        build_recipe("gmp", "1:8", gradient=0, contenders=2.0)
