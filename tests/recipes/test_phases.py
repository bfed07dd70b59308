"""What every recipe owes its users: phases that cover the training to the update, and pure functions."""

import json
import random
import subprocess
import sys
from itertools import groupby, pairwise

import pytest

from nmtrain.recipes import build_recipe, list_recipes
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import SparsityState

VARIANTS = {
    "dense": ("dense", {}),
    "static": ("static", {}),
    "ste": ("ste", {}),
    "sr_ste": ("sr_ste", {}),
    "sr_ste_finetuned": ("sr_ste", {"finetune_fraction": 0.2}),
    "mdgf": ("mdgf", {}),
    "mdgf_linear": ("mdgf", {"decay": "linear"}),
    "mdgf_linear_short": ("mdgf", {"decay": "linear", "beta": 0.3, "finetune_fraction": 0.0}),
    "mdgf_exponential_steep": ("mdgf", {"beta": 200.0, "gradient": "straight_through"}),  # D underflows to 0
    "sdgf": ("sdgf", {}),
    "sdgf_geometric": ("sdgf", {"structure": "geometric"}),
    "sdgf_geometric_k2": ("sdgf", {"structure": "geometric", "k": 2, "gradient": "masked"}),
    "sdgf_densify": ("sdgf", {"structure": "densify"}),
    "sdgf_stepwise_linear": ("sdgf", {"decay": "linear"}),
    "sdgf_stepwise_steep": ("sdgf", {"decay": "linear", "beta": 0.4}),
    "sdgf_geometric_exponential": ("sdgf", {"structure": "geometric", "decay": "exponential"}),
}
# The field's other methods, whose states have more to them than pattern, D, gradient rule and penalty.
FIELD = {
    "gmp": ("gmp", {}),
    "gmp_masked": ("gmp", {"gradient": "masked", "finetune_fraction": 0.2, "dense_fraction": 0.1}),
    "asp": ("asp", {}),
    "asp_late": ("asp", {"dense_fraction": 1.0}),
    "step": ("step", {}),
    "step_auto": ("step", {"dense_fraction": "auto"}),
    "s_ste": ("s_ste", {"dense_fraction": 0.2}),
    "feather": ("feather", {}),
    "rigl": ("rigl", {"every": 3}),
    "top_kast": ("top_kast", {"every": 5}),
    "ac_dc": ("ac_dc", {}),
    "ac_dc_short": ("ac_dc", {"rounds": 2, "dense_fraction": 0.0, "finetune_fraction": 0.4}),
    "maxq": ("maxq", {}),
    "mdgf_tight": ("mdgf", {"tighten": True, "decay_end": 0.2, "contenders": 2.0}),
}
SDGF = [variant for variant in VARIANTS if variant.startswith("sdgf")]
TARGETS = ["1:1", "1:2", "4:4", "1:3", "2:3", "2:4", "1:8", "3:8", "2:12", "4:6", "3:12", "5:24", "1:128", "100:128"]
FRACTIONS = [(0.0, 0.1), (0.0, 0.0), (0.1, 0.25), (0.3, 0.7), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0)]
TOTALS = [*range(1, 41), 120, 997]


def build(variant, target="1:8", **fractions):
    name, options = VARIANTS[variant]
    return build_recipe(name, target, **(options | ({} if name == "dense" else fractions)))


def kind(state: SparsityState):
    """Everything but D's value and the freezing of the mask."""
    return state.pattern, state.decay > 0, state.gradient, state.penalty


def test_every_recipe_is_among_the_variants():
    older, newer = ["dense", "static", "ste", "sr_ste", "mdgf", "sdgf"], list_recipes()[6:]
    assert list_recipes()[:6] == older
    assert newer == ["gmp", "asp", "step", "s_ste", "feather", "rigl", "top_kast", "ac_dc", "maxq"]
    assert {name for name, _ in VARIANTS.values()} == {*older}
    assert {name for name, _ in FIELD.values()} == {*newer, "mdgf"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_phases_are_what_the_updates_one_by_one_show(variant):
    for target in TARGETS:
        for total in TOTALS if target in ("1:8", "3:8") else [1, 2, 7, 40]:
            recipe = build(variant, target)
            states = [recipe.at(update, total) for update in range(total)]
            expected, first = [], 0
            for _, stretch in groupby(states, key=kind):
                expected.append((first, states[first]))
                first += len(list(stretch))
            assert recipe.phases(total) == expected, (target, total)


@pytest.mark.parametrize("variant", FIELD)
def test_phases_of_the_fields_methods_are_what_the_updates_one_by_one_show(variant):
    name, options = FIELD[variant]
    for target in ("1:8", "3:8", "1:1", "2:3"):
        for total in (1, 2, 3, 7, 40, 120):
            recipe = build_recipe(name, target, **options)
            states = [recipe.at(update, total) for update in range(total)]
            expected, first = [], 0
            for _, stretch in groupby(
                states, key=lambda state: (*kind(state), state.strict, state.flow, state.moments)
            ):
                expected.append((first, states[first]))
                first += len(list(stretch))
            assert recipe.phases(total) == expected, (target, total)
            assert recipe.at(total, total).strict
            assert recipe.at(total, total).pattern == NMPattern.parse(target)


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "dense"])
@pytest.mark.parametrize(("dense", "finetune"), FRACTIONS)
def test_dense_then_decay_then_fine_tune_to_the_update(variant, dense, finetune):
    recipe = build(variant, "3:8", dense_fraction=dense, finetune_fraction=finetune)
    final = SparsityState(NMPattern(3, 8), gradient=recipe.gradient)
    for total in [*range(1, 41), 120]:
        dense_end = round(dense * total)
        finetune_start = max(dense_end, total - round(finetune * total))
        assert recipe.bounds(total) == (dense_end, finetune_start)
        states = [recipe.at(update, total) for update in range(total)]
        assert all(state == SparsityState(None) for state in states[:dense_end])
        assert all(state.pattern is not None for state in states[dense_end:finetune_start])
        assert all(state == final for state in states[finetune_start:])
        assert recipe.at(total, total) == final  # what is evaluated in the end


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "dense"])
def test_the_target_is_never_dropped(variant):
    for target in TARGETS:
        for total in TOTALS:
            for dense, finetune in ((0.0, 0.0), (0.0, 0.1), (0.4, 0.0)):
                recipe = build(variant, target, dense_fraction=dense, finetune_fraction=finetune)
                if recipe.bounds(total)[0] < total:
                    assert recipe.at(total - 1, total).pattern == NMPattern.parse(target), (target, total)


@pytest.mark.parametrize("variant", SDGF)
def test_no_pattern_comes_twice_and_each_is_no_tighter_than_the_last(variant):
    for target in TARGETS:
        patterns = [state.pattern for _, state in build(variant, target, dense_fraction=0.0).phases(997)]
        patterns = [pattern for pattern, _ in groupby(patterns)]  # D may reach 0 inside a phase
        assert len(set(patterns)) == len(patterns)
        assert patterns[-1] == NMPattern.parse(target)
        wider = [(p.n, p.m) for p in patterns]
        assert all(n >= after_n and m >= after_m for (n, m), (after_n, after_m) in pairwise(wider))


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_arguments_same_answer_in_any_order(variant):
    recipe, other = build(variant), build(variant)
    assert recipe == other
    updates = [(update, total) for total in (7, 40, 120) for update in range(total)]
    answers = {call: recipe.at(*call) for call in updates}
    random.Random(0).shuffle(updates)
    assert all(recipe.at(*call) == other.at(*call) == answers[call] for call in updates)
    assert recipe.phases(40) == recipe.phases(40) == other.phases(40)


@pytest.mark.parametrize("variant", VARIANTS)
def test_states_are_plain_numbers_a_forward_can_use(variant):
    for total in (1, 2, 40, 997):
        for update in range(0, total, 3):
            state = build(variant).at(update, total)
            assert type(state.decay) in (float, int)
            assert 0 <= state.decay <= 1
            assert state.gradient in ("straight_through", "masked")
            assert state.penalty >= 0


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "dense"])
@pytest.mark.parametrize("update", [-1, 11])
def test_updates_outside_the_training_are_refused(variant, update):
    with pytest.raises(ValueError, match=f"update {update} is outside the 10 planned updates"):
        build(variant).at(update, 10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_updates_no_phases(variant):
    assert build(variant).phases(0) == []


def test_a_million_updates_are_no_slower_than_a_thousand():
    calls = []

    class Counted(type(build("sdgf"))):
        one_way = True

        def at(self, update, total):
            calls.append(update)
            return super().at(update, total)

    recipe = Counted(target=NMPattern(1, 128), dense_fraction=0.1)
    starts = [start for start, _ in recipe.phases(10**6)]
    assert starts == list(range(0, 900_000, 100_000))  # dense, then 8 phases in 800,000 updates
    assert len(calls) < 1000


def test_rounding_never_lets_the_phases_overlap():
    recipe = build_recipe("mdgf", "1:4", dense_fraction=0.5, finetune_fraction=0.5)
    # Python rounds halves to even: 1.5 to 2, 2.5 to 2, 3.5 to 4, 4.5 to 4
    assert [recipe.bounds(total) for total in (1, 2, 3, 4, 5, 7, 9)] == [
        (0, 1), (1, 1), (2, 2), (2, 2), (2, 3), (4, 4), (4, 5),
    ]  # fmt: skip


def test_torch_is_not_imported():
    script = """
import json, sys
from nmtrain.recipes import build_recipe
build_recipe("sdgf", target="1:8").phases(100)
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "timm", "numpy"))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
