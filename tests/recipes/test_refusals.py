"""One test per combination that a recipe refuses; every fault names its option, its value and what is allowed."""

from fractions import Fraction

import pytest

from nmtrain.recipes import RECIPES, RecipeError, build_recipe

NAN, INF = float("nan"), float("inf")
SPARSE = [name for name in RECIPES if name != "dense"]
WITH_FINE_TUNING = [name for name in SPARSE if "finetune_fraction" in RECIPES[name].options]
FREEZING = [name for name in SPARSE if "freeze_mask" in RECIPES[name].options]


def faults(name, target="1:8", **options):
    with pytest.raises(RecipeError) as refusal:
        build_recipe(name, target, **options)
    for option, fault in refusal.value.faults.items():
        assert f"{option}: {fault}" in str(refusal.value)
    return refusal.value.faults


def test_a_refusal_is_a_value_error():
    assert issubclass(RecipeError, ValueError)


@pytest.mark.parametrize("name", ["srste", "", "SDGF", "sdgf_stepwise"])
def test_an_unknown_recipe_lists_what_exists(name):
    assert faults(name) == {"name": f"{name!r} is unknown. Available: {list(RECIPES)}"}


@pytest.mark.parametrize("name", RECIPES)
def test_an_unknown_option_lists_what_exists(name):
    found = faults(name, fine_tune=0.1)
    assert found == {"fine_tune": f"{name} has no such option. Available: {list(RECIPES[name].options)}"}


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("dense", "dense_fraction", 0.1),
        ("dense", "gradient", "masked"),
        ("dense", "freeze_mask", True),
        ("static", "gradient", "straight_through"),
        ("ste", "gradient", "masked"),
        ("ste", "penalty", 2e-4),
        ("sr_ste", "gradient", "masked"),
        ("sr_ste", "decay", "linear"),
        ("mdgf", "structure", "stepwise"),
        ("mdgf", "penalty", 2e-4),
        ("sdgf", "penalty", 2e-4),
    ],
)
def test_an_option_of_another_recipe_is_refused(name, option, value):
    assert list(faults(name, **{option: value})) == [option]


def test_the_target_is_no_option():
    with pytest.raises(TypeError):
        build_recipe("ste", "1:8", target="1:4")


@pytest.mark.parametrize("target", ["32:1", "0:4", "a:b"])
def test_a_target_that_is_no_pattern_is_refused(target):
    with pytest.raises(ValueError, match=target):
        build_recipe("ste", target)


def test_an_int_target_is_refused_with_the_fix():
    with pytest.raises(TypeError, match='write "1:8"'):
        build_recipe("ste", 68)


@pytest.mark.parametrize(
    ("name", "option"),
    [(n, option) for n in SPARSE for option in ("dense_fraction", "finetune_fraction") if option in RECIPES[n].options],
)
@pytest.mark.parametrize("value", [-0.1, 1.1, 10, NAN, INF, -INF, "0.1", None, True, [0.1]], ids=repr)
def test_a_fraction_lies_from_0_to_1(name, option, value):
    nor = ", nor auto" if (name, option) == ("step", "dense_fraction") else ""
    assert faults(name, **{option: value}) == {option: f"{value!r} is not a fraction from 0 to 1{nor}"}


@pytest.mark.parametrize("name", WITH_FINE_TUNING)
def test_the_fractions_are_parts_of_one_training(name):
    found = faults(name, dense_fraction=0.6, finetune_fraction=0.5)
    assert found == {"finetune_fraction": "0.5 + dense_fraction 0.6 exceeds 1, the whole training"}
    build_recipe(name, "1:8", dense_fraction=0.5, finetune_fraction=0.5)
    assert (1.1 - 0.2) + 0.1 > 1  # by rounding only
    build_recipe(name, "1:8", dense_fraction=1.1 - 0.2, finetune_fraction=0.1)


@pytest.mark.parametrize("name", FREEZING)
@pytest.mark.parametrize("value", ["yes", 1, 0, None, [True]], ids=repr)
def test_freeze_mask_is_true_or_false(name, value):
    assert faults(name, finetune_fraction=0.1, freeze_mask=value) == {"freeze_mask": f"{value!r} is not true or false"}


@pytest.mark.parametrize("name", FREEZING)
def test_freezing_without_a_fine_tune_phase_has_no_effect(name):
    found = faults(name, finetune_fraction=0.0, freeze_mask=True)
    assert "no effect with finetune_fraction 0" in found["freeze_mask"]


def test_freezing_is_refused_under_sr_stes_own_defaults():
    assert list(faults("sr_ste", freeze_mask=True)) == ["freeze_mask"]


@pytest.mark.parametrize("name", ["mdgf", "sdgf", "gmp"])
@pytest.mark.parametrize("value", ["ste", "", None, True, ["masked"], -0.1, 1.1, NAN], ids=repr)
def test_an_unknown_gradient_rule_lists_what_exists(name, value):
    expected = f"{value!r} is unknown. Available: ['straight_through', 'masked'], or a number from 0 to 1"
    assert faults(name, gradient=value) == {"gradient": expected}


@pytest.mark.parametrize("value", [-1e-9, NAN, INF, "2e-4", None, True, [2e-4]], ids=repr)
def test_the_penalty_is_a_finite_number_of_at_least_0(value):
    assert faults("sr_ste", penalty=value) == {"penalty": f"{value!r} is not a number of at least 0"}


@pytest.mark.parametrize("options", [{}, {"decay": "linear"}])
@pytest.mark.parametrize("value", [0, -1.0, NAN, INF, "0.1", True, [0.1]], ids=repr)
def test_beta_is_a_finite_number_above_0(options, value):
    expected = f"{value!r} is not a number above 0 (decay per update), or null for the default"
    assert faults("mdgf", beta=value, **options) == {"beta": expected}
    assert faults("sdgf", beta=value, **({"decay": "exponential"} | options)) == {"beta": expected}


def test_any_real_number_will_do():
    assert build_recipe("mdgf", "1:8", decay="linear", beta=Fraction(1, 4), finetune_fraction=0).at(1, 8).decay == 0.75


@pytest.mark.parametrize("value", ["cosine", "", True, ["linear"]], ids=repr)
def test_an_unknown_decay_lists_what_exists(value):
    expected = f"{value!r} is unknown. Available: ['exponential', 'linear']"
    assert faults("mdgf", decay=value) == faults("sdgf", decay=value) == {"decay": expected}


def test_mdgf_needs_a_decay():
    assert list(faults("mdgf", decay=None)) == ["decay"]


class TestSDGF:
    @pytest.mark.parametrize("value", ["linear", "", None, True, ["stepwise"]], ids=repr)
    def test_an_unknown_structure_lists_what_exists(self, value):
        expected = f"{value!r} is unknown. Available: ['stepwise', 'geometric', 'densify', 'custom']"
        assert faults("sdgf", structure=value) == {"structure": expected}

    @pytest.mark.parametrize("value", [0, 1, 3, 12, -8, 8.0, "8", True, [8]], ids=repr)
    def test_k_is_a_power_of_two(self, value):
        assert faults("sdgf", structure="geometric", k=value) == {"k": f"{value!r} is not a power of two of at least 2"}

    @pytest.mark.parametrize("structure", ["stepwise", "densify"])
    def test_k_without_geometric_has_no_effect(self, structure):
        expected = f"8 has no effect with structure {structure}; only geometric reads it"
        assert faults("sdgf", structure=structure, k=8) == {"k": expected}

    @pytest.mark.parametrize("structure", ["stepwise", "geometric", "densify"])
    def test_patterns_without_custom_have_no_effect(self, structure):
        found = faults("sdgf", structure=structure, patterns=["1:8"])
        assert found == {"patterns": f"['1:8'] has no effect with structure {structure}; only custom reads it"}

    def test_beta_without_decay_has_no_effect(self):
        assert faults("sdgf", beta=0.1) == {"beta": "0.1 has no effect without decay"}

    @pytest.mark.parametrize("value", [None, [], (), "1:8", "4:8,1:8", 5, {"1:8"}, {"1:8": 1}], ids=repr)
    def test_custom_needs_a_list(self, value):
        found = faults("sdgf", structure="custom", patterns=value)
        assert found == {"patterns": f'{value!r}: custom needs the list of patterns, for example ["4:8", "1:8"]'}

    def test_custom_ends_with_the_target(self):
        found = faults("sdgf", structure="custom", patterns=["1:8", "4:8"])
        assert found == {"patterns": "the last of ['1:8', '4:8'] is not the target 1:8"}

    def test_custom_takes_a_pattern_once(self):
        found = faults("sdgf", structure="custom", patterns=["4:8", "1:8", " 4 : 8", "1:8"])
        assert found == {"patterns": "['4:8', '1:8', '4:8', '1:8']: a pattern occurs twice"}

    @pytest.mark.parametrize(
        ("wrong", "why"),
        [
            (124, 'write "2:4"'),
            ("8:4", "N = 8 exceeds M = 4"),
            ("half", "not of the form"),
            (None, "not a pattern"),
            (["4:8"], "not a pattern"),
        ],
    )
    def test_custom_holds_patterns_only(self, wrong, why):
        found = faults("sdgf", structure="custom", patterns=[wrong, "1:8"])
        assert list(found) == ["patterns"]
        assert why in found["patterns"]


def test_all_faults_are_told_at_once():
    found = faults("sdgf", speed=1, structure="spiral", dense_fraction=2, gradient="none", freeze_mask="no", beta=1)
    assert set(found) == {"speed", "structure", "dense_fraction", "gradient", "freeze_mask", "beta"}
    found = faults("mdgf", gradient="none", dense_fraction=0.9, finetune_fraction=0.9, beta=-1, decay="none")
    assert set(found) == {"gradient", "finetune_fraction", "beta", "decay"}
