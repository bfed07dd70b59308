"""What every recipe shares: the three phases dense, decay, fine-tune, and how they are read off update numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar, TypeGuard

from nmtrain.errors import PluginError
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import GRADIENT_RULES, GradientRule, SparsityState


class RecipeError(ValueError):
    """Options that a recipe refuses; ``faults`` maps each option's name to what is wrong with its value."""

    def __init__(self, faults: dict[str, str]) -> None:
        super().__init__("; ".join(f"{option}: {fault}" for option, fault in faults.items()))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pure function of the update number; fields are the options that a config may set.

    With T planned updates: dense before ``t_d = round(dense_fraction T)``, strictly the target from
    ``t_f = T - round(finetune_fraction T)``, and between them what the recipe is about (`between`).
    """

    name: ClassVar[str]
    needs_adam: ClassVar[bool] = False  # reads the moments of Adam
    one_way: ClassVar[bool] = False  # promises that no phase comes back after another, and that `cuts` says the rest
    options: ClassVar[tuple[str, ...]]
    target: NMPattern
    gradient: GradientRule = "straight_through"
    dense_fraction: float = 0.0
    finetune_fraction: float = 0.1
    freeze_mask: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.one_way = cls.__dict__.get("one_way", False)  # what a class promises of its methods, not of a subclass's

    def __post_init__(self) -> None:
        if faults := self.faults():
            raise RecipeError(faults)

    def faults(self) -> dict[str, str]:
        """What is wrong with the options, by option; empty if nothing is."""
        faults: dict[str, str] = {}
        fractions = {"dense_fraction": self.dense_fraction, "finetune_fraction": self.finetune_fraction}
        for option, value in fractions.items():
            if not is_number(value) or not 0 <= value <= 1:
                faults[option] = f"{value!r} is not a fraction from 0 to 1"
        if not faults and sum(fractions.values()) > 1 + 1e-9:
            faults["finetune_fraction"] = (
                f"{self.finetune_fraction} + dense_fraction {self.dense_fraction} exceeds 1, the whole training"
            )
        if fault := gradient_fault(self.gradient):
            faults["gradient"] = fault
        if not isinstance(self.freeze_mask, bool):
            faults["freeze_mask"] = f"{self.freeze_mask!r} is not true or false"
        elif self.freeze_mask and self.finetune_fraction == 0:
            faults["freeze_mask"] = "True has no effect with finetune_fraction 0: it keeps the fine-tune phase's mask"
        return faults

    @property
    def variant(self) -> str:
        """The name in tables: the recipe with its decay or structure, ``sdgf_stepwise``."""
        return self.name

    def record(self) -> dict[str, str]:
        """What run folders say of it."""
        return {"name": self.name, "variant": self.variant, "gradient": str(self.gradient)}

    def between(self, done: int, length: int) -> SparsityState:
        """The state of the decay phase, ``done`` of its ``length`` updates in."""
        raise NotImplementedError

    def finetuned(self) -> SparsityState:
        """The state of the fine-tune phase, and of the model that is evaluated in the end."""
        return SparsityState(self.target, gradient=self.gradient)

    def bounds(self, total: int) -> tuple[int, int]:
        """``(t_d, t_f)``: the decay phase covers ``[t_d, t_f)``. Rounding never lets the phases overlap."""
        dense_end = round(self.dense_fraction * total)
        return dense_end, max(dense_end, total - round(self.finetune_fraction * total))

    def switch_between(self, total: int) -> tuple[int, int] | None:
        """The first and the last update that may end the dense phase, where training has to find that out.

        Until it has, the recipe is what it is with the last one.
        """
        return None

    def switched(self, update: int, total: int) -> Recipe:
        """The recipe whose dense phase ends at this update, one of `switch_between`."""
        raise NotImplementedError

    def at(self, update: int, total: int) -> SparsityState:
        """The state of update ``update`` (0-based) of ``total``; at ``total``, the one that is evaluated in the end."""
        if not 0 <= update <= total:
            raise ValueError(f"update {update} is outside the {total} planned updates")
        dense_end, finetune_start = self.bounds(total)
        if update < min(dense_end, total):
            return SparsityState(None)
        if update < finetune_start:
            state = self.between(update - dense_end, finetune_start - dense_end)
            if not isinstance(state, SparsityState):  # of a class from outside
                raise PluginError(f"recipe {self.name}: between() returns {state!r}, which is no SparsityState")
            return state
        return frozen(self.finetuned()) if self.freeze_mask and update > finetune_start else self.finetuned()

    def phases(self, total: int) -> list[tuple[int, SparsityState]]:
        """``(first update, its state)`` of each phase: a stretch in which only D's value changes, and not to 0.

        So does the share of whole groups. A mask that is kept for some updates does not make a phase, nor does an
        exchange of its entries. Found in a few looks where the class is `one_way`, else by one at every update: about
        20 s for a million.
        """
        if total < 1:
            return []
        starts = self._starts_between(0, total - 1, total) if self.one_way else self._turns(total)[0]
        return [(update, self.at(update, total)) for update in (0, *starts)]

    def cuts(self, total: int) -> list[int]:
        """Updates inside phases from which on one update may cost another sum than the update before."""
        return [] if self.one_way else self._turns(total)[1]

    def _starts_between(self, first: int, last: int, total: int) -> Iterator[int]:
        """First updates of the phases that begin in (first, last]: equal ends mean one phase throughout."""
        if _kind(self.at(first, total)) == _kind(self.at(last, total)):
            return
        if last == first + 1:
            yield last
            return
        middle = (first + last) // 2
        yield from self._starts_between(first, middle, total)
        yield from self._starts_between(middle, last, total)

    def _turns(self, total: int) -> tuple[list[int], list[int]]:
        """The first updates of all phases but the first, and of exchanges and of what follows them."""
        if total not in self._seen:
            starts: list[int] = []
            cuts: list[int] = []
            before = None
            for update in range(total):
                state = self.at(update, total)
                now = _kind(state), state.ranking.regrow is None
                if before is not None and now != before:
                    (cuts if now[0] == before[0] else starts).append(update)
                before = now
            self._seen[total] = starts, cuts
        return self._seen[total]

    @cached_property
    def _seen(self) -> dict[int, tuple[list[int], list[int]]]:
        """What `_turns` has found, by the number of updates: a plan asks again and again."""
        return {}


def frozen(state: SparsityState) -> SparsityState:
    """The same state with the mask of the update before."""
    return replace(state, ranking=replace(state.ranking, freeze=True))


def gradient_fault(rule: object) -> str | None:
    """What is wrong with a gradient rule."""
    if (isinstance(rule, str) and rule in GRADIENT_RULES) or (is_number(rule) and 0 <= rule <= 1):
        return None
    return f"{rule!r} is unknown. Available: {list(GRADIENT_RULES)}, or a number from 0 to 1"


def contenders_fault(recipe: Any) -> dict[str, str]:
    """What is wrong with ``contenders``, an exponent that damps what the gradient rule lets through."""
    value = recipe.contenders
    if value is None:
        return {}
    if not is_number(value) or not 0 < value < math.inf:
        return {"contenders": f"{value!r} is not an exponent above 0, or null"}
    if recipe.gradient == 0 and is_number(recipe.gradient):
        return {"contenders": f"{value!r} has no effect with gradient 0"}
    return {}


def _kind(state: SparsityState) -> tuple[Any, ...]:
    """The state without what changes inside a phase."""
    projection = state.projection
    stretch = replace(projection, decay=float(state.decay > 0), whole_groups=float(projection.whole_groups > 0))
    return state.pattern, state.exact, stretch, state.flow, state.moments


def is_number(value: object) -> TypeGuard[float]:
    """A real number, possibly infinite or NaN; bools are not numbers."""
    return isinstance(value, Real) and not isinstance(value, bool)
