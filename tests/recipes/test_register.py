"""Recipes of one's own: what `register` takes, and how it says what it does not take."""

from dataclasses import dataclass

import pytest

from nmtrain.errors import PluginError
from nmtrain.recipes import Recipe, RecipeError, SparsityState, build_recipe, list_recipes, register

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
