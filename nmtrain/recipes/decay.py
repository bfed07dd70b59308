"""How the mask decay factor D falls over a stretch of updates (MDGF, section 3.1 of the paper)."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from nmtrain.recipes.base import is_number

DecayKind = Literal["exponential", "linear"]
DECAY_OPTIONS = ("decay", "beta", "decay_power", "decay_end")


def decay_factor(recipe: Any, done: int, length: int) -> float:
    """D after ``done`` of ``length`` updates, by a recipe's ``DECAY_OPTIONS``.

    ``decay`` is ``exponential``: ``exp(-beta j)``, beta = ln(1000)/length unless given; or ``linear``:
    ``max(0, 1 - beta j)``, beta = 1/length unless given. By that to the power ``decay_power``, D falls from 1 to
    ``decay_end``.
    """
    beta = recipe.beta
    if recipe.decay == "exponential":
        fallen = math.exp(-(math.log(1000) / length if beta is None else beta) * done)
    else:
        fallen = max(0.0, 1 - done / length if beta is None else 1 - beta * done)
    return float(recipe.decay_end + (1 - recipe.decay_end) * fallen**recipe.decay_power)


def decay_faults(recipe: Any) -> dict[str, str]:
    """What is wrong with a recipe's ``DECAY_OPTIONS``, by option."""
    faults = {}
    if recipe.decay not in get_args(DecayKind):
        faults["decay"] = f"{recipe.decay!r} is unknown. Available: {list(get_args(DecayKind))}"
    if recipe.beta is not None and not _is_positive(recipe.beta):
        faults["beta"] = f"{recipe.beta!r} is not a number above 0 (decay per update), or null for the default"
    if not _is_positive(recipe.decay_power):
        faults["decay_power"] = f"{recipe.decay_power!r} is not an exponent above 0"
    if not is_number(recipe.decay_end) or not 0 <= recipe.decay_end < 1:
        faults["decay_end"] = f"{recipe.decay_end!r} is not a number of at least 0 and below 1"
    return faults


def _is_positive(value: object) -> bool:
    return is_number(value) and 0 < value < math.inf
