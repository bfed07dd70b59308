"""How sparsity moves over training: recipes as pure functions of (update, total). Needs no torch."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from nmtrain.errors import PluginError
from nmtrain.recipes.ac_dc import ACDC
from nmtrain.recipes.asp import ASP
from nmtrain.recipes.base import Recipe, RecipeError
from nmtrain.recipes.baselines import SRSTE, STE, Dense, Static
from nmtrain.recipes.feather import Feather
from nmtrain.recipes.gmp import GMP
from nmtrain.recipes.maxq import MaxQ
from nmtrain.recipes.mdgf import MDGF
from nmtrain.recipes.rigl import RigL
from nmtrain.recipes.s_ste import SSTE
from nmtrain.recipes.sdgf import SDGF
from nmtrain.recipes.step import STEP
from nmtrain.recipes.top_kast import TopKAST
from nmtrain.runs.loaded import enter
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import SparsityState

__all__ = ["RECIPES", "Recipe", "RecipeError", "SparsityState", "build_recipe", "list_recipes", "register"]

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (Dense, Static, STE, SRSTE, MDGF, SDGF, GMP, ASP, STEP, SSTE, Feather, RigL, TopKAST, ACDC, MaxQ)
}


def list_recipes() -> list[str]:
    """The names that `build_recipe` knows."""
    return list(RECIPES)


_New = TypeVar("_New", bound=type[Recipe])


def register(recipe: _New) -> _New:
    """Make a recipe of one's own known under its ``name``: a decorator of the class.

    Raises:
        PluginError: saying what the class lacks, or who has its name already.
    """
    if not isinstance(recipe, type) or not issubclass(recipe, Recipe):
        raise PluginError(f"recipe {recipe!r}: is no subclass of nmtrain.recipes.Recipe")
    name = recipe.__dict__.get("name")
    called = f"recipe {name or recipe.__name__}"
    if name is None:
        raise PluginError(f"{called}: the class has no name; add the line name = {recipe.__name__.lower()!r}")
    if "__dataclass_fields__" not in recipe.__dict__:
        raise PluginError(
            f"{called}: the class is no dataclass; write @dataclass(frozen=True, kw_only=True) below @register"
        )
    if recipe.between is Recipe.between and recipe.at is Recipe.at:
        raise PluginError(f"{called}: the class has no method between(self, done, length)")
    options = getattr(recipe, "options", None)
    known = [field.name for field in fields(recipe) if field.name != "target"]
    if not isinstance(options, tuple) or not set(options) <= set(known):
        raise PluginError(f"{called}: options={options!r} is no tuple of fields of the class. Available: {known}")
    enter("recipe", name, recipe, RECIPES)
    return recipe


def build_recipe(name: str, target: NMPattern | str, **options: Any) -> Recipe:
    """A recipe for one target pattern.

    Raises:
        RecipeError: naming every option that is unknown, out of range or without effect. A ValueError.
    """
    if name not in RECIPES:
        raise RecipeError({"name": f"{name!r} is unknown. Available: {list_recipes()}"})
    recipe = RECIPES[name]
    unknown = [option for option in options if option not in recipe.options]
    faults = {option: f"{name} has no such option. Available: {list(recipe.options)}" for option in unknown}
    known = {option: value for option, value in options.items() if option not in faults}
    try:
        built = recipe(target=NMPattern.parse(target), **known)
    except RecipeError as error:
        faults |= error.faults
    if faults:
        raise RecipeError(faults)
    return built
