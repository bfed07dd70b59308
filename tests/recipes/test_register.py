"""Recipes of one's own: what `register` takes, and how it says what it does not take."""

from dataclasses import dataclass

import pytest

from nmtrain.errors import PluginError
from nmtrain.measure import ForwardCost, active_share, training_flops
from nmtrain.recipes import RECIPES, Recipe, RecipeError, SparsityState, build_recipe, list_recipes, register
from nmtrain.sparsity import NMPattern, SparseTensor
from nmtrain.sparsity.state import Ranking

pytestmark = pytest.mark.usefixtures("registries_as_before")
recipe_class = dataclass(frozen=True, kw_only=True)


@recipe_class
class Halving(Recipe):
    name = "halving"
    options = ("floor", "finetune_fraction")
    floor: float = 0.25

    def between(self, done, length):
        return SparsityState(self.target, max(self.floor, 0.5**done))


def test_a_registered_recipe_is_built_by_its_name_and_options():
    assert register(Halving) is Halving
    assert "halving" in list_recipes()
    recipe = build_recipe("halving", target="1:8", floor=0.125, finetune_fraction=0.5)
    assert [recipe.at(update, 10).decay for update in range(6)] == [1, 0.5, 0.25, 0.125, 0.125, 0]
    with pytest.raises(RecipeError, match=r"halving has no such option. Available: \['floor', 'finetune_fraction'\]"):
        build_recipe("halving", target="1:8", beta=1)


def test_registering_twice_is_once():
    register(Halving)
    register(Halving)
    assert list_recipes().count("halving") == 1


@recipe_class
class ToAndFro(Recipe):
    name = "to_and_fro"
    options = ()
    every: int = 100

    def between(self, done, length):
        return SparsityState(None) if (done // self.every) % 2 else SparsityState(self.target)


def cost_of(recipe):
    """Training FLOPs and share of active parameters of 1000 updates: 64 of 100 MAC and parameters are sparse."""
    tensor = SparseTensor("w", "ff", (2, 32), "input", NMPattern(1, 32))
    recipes = {tensor.pattern: recipe}
    flops = training_flops(ForwardCost(100.0, {"w": 64.0}), [tensor], recipes, 1000, 1)
    return flops, active_share([tensor], recipes, 1000, 100)


def test_a_recipe_that_goes_to_and_fro_has_all_its_phases():
    register(ToAndFro)
    recipe = build_recipe("to_and_fro", target="1:32")
    phases = recipe.phases(1000)
    assert [start for start, _ in phases] == list(range(0, 900, 100))  # the fine-tune phase goes on with the last one
    assert [state.pattern is None for _, state in phases] == [False, True] * 4 + [False]
    # 400 dense updates of 600 FLOPs, 600 sparse ones that spare 31/32 of two of 64 MAC's three products.
    flops, share = cost_of(recipe)
    assert flops == 400 * 600 + 600 * (600 - 2 * 2 * 62)
    assert share == pytest.approx(1 - 0.6 * 0.62)


def test_an_exchange_costs_what_it_costs_in_a_recipe_that_does_not_say_when():
    @register
    @recipe_class
    class Exchanging(Recipe):
        name = "exchanging"
        options = ()
        gradient: str = "masked"

        def between(self, done, length):
            return SparsityState(self.target, gradient="masked", ranking=Ranking(regrow=0.1 if done == 500 else None))

    recipe = build_recipe("exchanging", target="1:32")
    assert [start for start, _ in recipe.phases(1000)] == [0]
    assert recipe.cuts(1000) == [500, 501]
    assert cost_of(recipe)[0] == 1000 * (600 - 3 * 2 * 62) + 2 * 62  # one update needs the whole gradient of the weight


def test_what_a_shipped_recipe_promises_of_its_phases_its_subclasses_do_not():
    sr_ste = RECIPES["sr_ste"]

    @recipe_class
    class Pulsing(sr_ste):
        name = "pulsing"

        def between(self, done, length):
            return SparsityState(self.target, penalty=self.penalty * (done // 10 % 2))

    assert sr_ste.one_way
    assert not Pulsing.one_way
    register(Pulsing)
    assert [start for start, _ in build_recipe("pulsing", target="1:8").phases(50)] == [0, 10, 20, 30, 40]


def unnamed():
    @recipe_class
    class Mine(Halving):
        pass

    return Mine


def undecorated():
    class Mine(Recipe):
        name = "mine"
        options = ()
        gradient: str = "masked"

        def between(self, done, length):
            return SparsityState(self.target)

    return Mine


def idle():
    @recipe_class
    class Mine(Recipe):
        name = "mine"
        options = ()

    return Mine


def optioned(given):
    @recipe_class
    class Mine(Halving):
        name = "mine"
        options = given

    return Mine


def named(given):
    @recipe_class
    class Mine(Halving):
        name = given

    return Mine


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (SparsityState, r"is no subclass of nmtrain.recipes.Recipe"),
        ("cubic", r"recipe 'cubic': is no subclass"),
        (unnamed(), r"recipe Mine: the class has no name; add the line name = 'mine'"),
        (undecorated(), r"recipe mine: the class is no dataclass; write @dataclass\(frozen=True, kw_only=True\) below"),
        (idle(), r"recipe mine: the class has no method between\(self, done, length\)"),
        (optioned(("beta",)), r"options=\('beta',\) is no tuple of fields of the class. Available: \['gradient', "),
        (optioned("floor"), r"options='floor' is no tuple of fields"),
        (named("sdgf"), r"recipe sdgf: the name is taken by nmtrain itself; choose another"),
        (named("a,b"), r"recipe 'a,b': is no name; allowed: letters, digits"),
        (named(3), r"recipe 3: is no name"),
    ],
)
def test_what_cannot_be_a_recipe_is_refused_at_once(given, message):
    before = list_recipes()
    with pytest.raises(PluginError, match=message):
        register(given)
    assert list_recipes() == before


def test_a_recipe_that_returns_no_state_is_named():
    @register
    @recipe_class
    class Silent(Recipe):
        name = "silent"
        options = ()

        def between(self, done, length):
            pass

    with pytest.raises(PluginError, match=r"recipe silent: between\(\) returns None, which is no SparsityState"):
        build_recipe("silent", target="1:8").phases(10)
