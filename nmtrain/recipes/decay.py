"""How the mask decay factor D falls over a stretch of updates (MDGF, section 3.1 of the paper)."""

from __future__ import annotations

import math
from typing import Literal, get_args

from nmtrain.recipes.base import is_number

DecayKind = Literal["exponential", "linear", "cubic"]


def decay_factor(kind: str, beta: float | None, done: int, length: int) -> float:
    """D after ``done`` of ``length`` updates.

    ``exponential``: ``exp(-beta j)``, beta = ln(1000)/length unless given; ``linear``: ``max(0, 1 - beta j)``,
    beta = 1/length unless given; ``cubic``: ``(1 - j/length)^3``, which takes no beta.
    """
    if kind == "cubic":
        return (1 - done / length) ** 3
    if kind == "exponential":
        return math.exp(-(math.log(1000) / length if beta is None else beta) * done)
    return max(0.0, 1 - done / length if beta is None else 1 - beta * done)


def decay_faults(kind: object, beta: object, end: object) -> dict[str, str]:
    """What is wrong with the three options, by option."""
    faults = {}
    if not is_number(end) or not 0 <= end < 1:
        faults["decay_end"] = f"{end!r} is not a number of at least 0 and below 1"
    if kind not in get_args(DecayKind):
        faults["decay"] = f"{kind!r} is unknown. Available: {list(get_args(DecayKind))}"
    if beta is not None and kind == "cubic":
        faults["beta"] = f"{beta!r} has no effect with decay cubic"
    elif beta is not None and not (is_number(beta) and 0 < beta < math.inf):
        faults["beta"] = f"{beta!r} is not a number above 0 (decay per update), or null for the default"
    return faults
