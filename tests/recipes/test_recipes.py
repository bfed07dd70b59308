"""Each recipe's own figures, at updates a reader can work out by hand."""

import math

import pytest

from nmtrain.recipes import build_recipe
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import SparsityState

TARGET = NMPattern(1, 8)


def decays(recipe, updates, total):
    return [recipe.at(update, total).decay for update in updates]


def patterns(recipe, total=10**4):
    return [str(state.pattern) for _, state in recipe.phases(total)]


class TestBaselines:
    def test_dense_has_no_pattern_ever(self):
        recipe = build_recipe("dense", TARGET)
        assert recipe.phases(100) == [(0, SparsityState(None))]
        assert recipe.at(100, 100) == SparsityState(None)
        assert recipe.variant == "dense"

    def test_static_is_the_target_with_masked_gradients(self):
        assert build_recipe("static", TARGET).phases(100) == [(0, SparsityState(TARGET, gradient="masked"))]

    def test_ste_is_the_target_straight_through(self):
        assert build_recipe("ste", TARGET).phases(100) == [(0, SparsityState(TARGET, gradient="straight_through"))]

    def test_sr_ste_applies_its_penalty_to_the_last_update(self):
        recipe = build_recipe("sr_ste", TARGET)
        assert recipe.phases(100) == [(0, SparsityState(TARGET, penalty=2e-4))]
        assert recipe.at(99, 100).penalty == 2e-4
        assert recipe.at(100, 100) == SparsityState(TARGET)

    def test_sr_ste_penalty_is_an_option_and_stops_for_a_fine_tune_phase(self):
        recipe = build_recipe("sr_ste", TARGET, penalty=0.5, finetune_fraction=0.25)
        assert recipe.phases(100) == [(0, SparsityState(TARGET, penalty=0.5)), (75, SparsityState(TARGET))]

    @pytest.mark.parametrize("name", ["static", "ste", "sr_ste", "mdgf", "sdgf"])
    def test_a_dense_fraction_starts_dense(self, name):
        recipe = build_recipe(name, TARGET, dense_fraction=0.2)
        assert recipe.at(0, 50) == recipe.at(9, 50) == SparsityState(None)
        assert recipe.at(10, 50).pattern is not None

    def test_the_target_may_be_written_or_parsed(self):
        assert build_recipe("ste", "1:8") == build_recipe("ste", TARGET)


class TestMDGF:
    def test_defaults_are_exponential_masked_and_a_tenth_of_fine_tuning(self):
        recipe = build_recipe("mdgf", TARGET)
        assert recipe.variant == "mdgf_exponential"
        assert recipe.phases(100) == [
            (0, SparsityState(TARGET, 1.0, "masked")),
            (90, SparsityState(TARGET, 0.0, "masked")),
        ]

    def test_exponential_falls_to_a_thousandth_over_its_phase(self):
        recipe = build_recipe("mdgf", TARGET, finetune_fraction=0.0)
        assert decays(recipe, [0, 100, 200, 299], 300) == pytest.approx([1, 0.1, 0.01, 0.001 * 1000 ** (1 / 300)])
        assert recipe.at(300, 300).decay == 0

    def test_linear_falls_by_the_same_step_each_update(self):
        recipe = build_recipe("mdgf", TARGET, decay="linear", dense_fraction=0.2, finetune_fraction=0.4)
        assert recipe.variant == "mdgf_linear"
        # 10 updates: 2 dense, 4 of decay, 4 strict
        assert decays(recipe, range(2, 10), 10) == [1, 0.75, 0.5, 0.25, 0, 0, 0, 0]

    def test_beta_is_per_update_since_the_dense_phase(self):
        linear = build_recipe("mdgf", TARGET, decay="linear", beta=0.25, dense_fraction=0.1, finetune_fraction=0.0)
        assert decays(linear, range(10, 17), 100) == [1, 0.75, 0.5, 0.25, 0, 0, 0]
        exponential = build_recipe("mdgf", TARGET, beta=math.log(2), dense_fraction=0.1, finetune_fraction=0.0)
        assert decays(exponential, range(10, 14), 100) == pytest.approx([1, 0.5, 0.25, 0.125])

    def test_beta_may_be_any_number(self):
        assert build_recipe("mdgf", TARGET, beta=1).at(1, 10).decay == pytest.approx(math.exp(-1))

    def test_a_linear_decay_that_ends_early_is_a_phase_boundary(self):
        recipe = build_recipe("mdgf", TARGET, decay="linear", beta=0.25, finetune_fraction=0.1)
        assert [(start, state.decay) for start, state in recipe.phases(100)] == [(0, 1.0), (4, 0.0)]

    @pytest.mark.parametrize("gradient", ["masked", "straight_through"])
    def test_the_gradient_rule_holds_through_fine_tuning(self, gradient):
        recipe = build_recipe("mdgf", TARGET, gradient=gradient)
        assert {recipe.at(update, 20).gradient for update in range(21)} == {gradient}


class TestSDGF:
    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("1:4", "3:4 2:4 1:4"),
            ("2:4", "3:4 2:4"),
            ("1:8", "7:8 4:8 2:8 1:8"),
            ("1:32", "31:32 16:32 8:32 4:32 2:32 1:32"),
            ("4:8", "7:8 4:8"),
            ("3:8", "7:8 4:8 3:8"),  # the published formula stops at 4:8
            ("2:12", "11:12 6:12 3:12 2:12"),
            ("4:6", "5:6 4:6"),
            ("5:24", "23:24 12:24 6:24 5:24"),
            ("100:128", "127:128 100:128"),
            ("1:2", "1:2"),
            ("1:3", "2:3 1:3"),
            ("2:3", "2:3"),
            ("3:4", "3:4"),
            ("4:4", "4:4"),
            ("1:1", "1:1"),
        ],
    )
    def test_stepwise_halves_what_is_kept(self, target, expected):
        assert patterns(build_recipe("sdgf", target)) == expected.split()

    @pytest.mark.parametrize(
        ("target", "k", "expected"),
        [
            ("1:4", {}, "16:64 8:32 4:16 2:8 1:4"),
            ("2:4", {"k": 8}, "16:32 8:16 4:8 2:4"),
            ("3:12", {"k": 2}, "6:24 3:12"),
            ("1:1", {"k": 2}, "2:2 1:1"),
        ],
    )
    def test_geometric_keeps_the_density(self, target, k, expected):
        assert patterns(build_recipe("sdgf", target, structure="geometric", **k)) == expected.split()

    def test_densify_halves_m(self):
        assert patterns(build_recipe("sdgf", "3:8", structure="densify")) == ["3:64", "3:32", "3:16", "3:8"]

    @pytest.mark.parametrize("given", [["4:8", "2:8", "1:8"], ("4:8", NMPattern(2, 8), TARGET)])
    def test_custom_is_the_list(self, given):
        assert patterns(build_recipe("sdgf", TARGET, structure="custom", patterns=given)) == ["4:8", "2:8", "1:8"]

    def test_custom_may_hold_the_target_alone(self):
        assert patterns(build_recipe("sdgf", TARGET, structure="custom", patterns=["1:8"])) == ["1:8"]

    def test_phases_share_the_updates_evenly(self):
        recipe = build_recipe("sdgf", TARGET, dense_fraction=0.1, finetune_fraction=0.1)
        starts = [(start, str(state.pattern)) for start, state in recipe.phases(100)]
        assert starts == [(0, "None"), (10, "7:8"), (30, "4:8"), (50, "2:8"), (70, "1:8")]

    def test_a_remainder_is_spread_over_the_phases(self):
        recipe = build_recipe("sdgf", TARGET, finetune_fraction=0.0)  # 4 phases in 10 updates
        assert [start for start, _ in recipe.phases(10)] == [0, 2, 5, 7]

    def test_with_fewer_updates_than_phases_the_widest_are_left_out(self):
        recipe = build_recipe("sdgf", TARGET, finetune_fraction=0.0)
        assert [[str(recipe.at(update, total).pattern) for update in range(total)] for total in (1, 2, 3)] == [
            ["1:8"],
            ["4:8", "1:8"],
            ["4:8", "2:8", "1:8"],
        ]

    def test_phases_are_strict_and_straight_through_by_default(self):
        states = [state for _, state in build_recipe("sdgf", TARGET).phases(100)]
        assert {(state.decay, state.gradient, state.penalty) for state in states} == {(0.0, "straight_through", 0.0)}
        assert all(state.strict for state in states)

    def test_mask_decay_inside_starts_again_in_each_phase(self):
        recipe = build_recipe("sdgf", "1:4", decay="linear", finetune_fraction=0.0)  # 3:4, 2:4, 1:4 of 4 updates each
        assert recipe.variant == "sdgf_stepwise_linear"
        assert decays(recipe, range(12), 12) == [1, 0.75, 0.5, 0.25] * 3
        assert recipe.at(12, 12).decay == 0
        exponential = build_recipe("sdgf", "1:4", decay="exponential", finetune_fraction=0.0)
        assert decays(exponential, [0, 3, 8, 9, 12, 18, 24], 27) == pytest.approx(
            [1, 0.1, 1000 ** (-8 / 9), 1, 0.1, 1, 0.01]
        )

    def test_beta_is_per_update_of_one_phase(self):
        recipe = build_recipe("sdgf", "1:4", decay="linear", beta=0.5, finetune_fraction=0.0)
        assert decays(recipe, range(12), 12) == [1, 0.5, 0, 0] * 3

    @pytest.mark.parametrize("structure", ["stepwise", "geometric", "densify"])
    def test_the_variant_names_the_structure(self, structure):
        assert build_recipe("sdgf", TARGET, structure=structure).variant == f"sdgf_{structure}"


class TestFreezing:
    @pytest.mark.parametrize("name", ["static", "ste", "mdgf", "sdgf"])
    def test_the_mask_of_the_first_fine_tune_update_is_kept(self, name):
        recipe = build_recipe(name, TARGET, freeze_mask=True, finetune_fraction=0.2)
        assert [update for update in range(11) if recipe.at(update, 10).freeze] == [9, 10]  # made at 8, kept from 9

    def test_freezing_is_not_a_phase_of_its_own(self):
        frozen = build_recipe("ste", TARGET, freeze_mask=True)
        assert [start for start, _ in frozen.phases(100)] == [0]

    def test_nothing_is_frozen_unless_asked_for(self):
        assert not any(build_recipe("sdgf", TARGET).at(update, 20).freeze for update in range(21))

    def test_a_fine_tune_phase_that_rounds_to_nothing_freezes_nothing(self):
        recipe = build_recipe("ste", TARGET, freeze_mask=True)
        assert not recipe.at(4, 4).freeze  # the projection ranks the weights


def test_strict_means_exact_zeros():
    assert SparsityState(TARGET).strict
    assert not SparsityState(TARGET, decay=1e-9).strict
    assert not SparsityState(None).strict
