"""What the paper compares with: dense training, pruning at the start, STE and SR-STE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe, is_number
from nmtrain.sparsity.state import GradientRule, SparsityState


@dataclass(frozen=True, kw_only=True)
class Dense(Recipe):
    """No pattern, ever. The target only says which mask the noise metrics look at."""

    name = "dense"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ()

    def at(self, update: int, total: int) -> SparsityState:
        return SparsityState(None)


@dataclass(frozen=True, kw_only=True)
class Static(Recipe):
    """Prune, and never let the gradient back to pruned entries.

    The mask is not fixed: weights are ranked anew at each update, as in every recipe, and a pruned one returns if a
    kept one shrinks below it. With ``freeze_mask`` the mask of the fine-tune phase is fixed.
    """

    name = "static"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("dense_fraction", "finetune_fraction", "freeze_mask")
    gradient: GradientRule = "masked"

    def between(self, done: int, length: int) -> SparsityState:
        return SparsityState(self.target, gradient="masked")


@dataclass(frozen=True, kw_only=True)
class STE(Recipe):
    """Straight-through estimator: the target from the start, gradients to all entries (Bengio et al., 2013)."""

    name = "ste"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("dense_fraction", "finetune_fraction", "freeze_mask")

    def between(self, done: int, length: int) -> SparsityState:
        return SparsityState(self.target)


@dataclass(frozen=True, kw_only=True)
class SRSTE(Recipe):
    """STE that also pulls pruned entries towards zero (Zhou et al., 2021), up to the fine-tune phase, if any."""

    name = "sr_ste"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("penalty", "dense_fraction", "finetune_fraction", "freeze_mask")
    finetune_fraction: float = 0.0
    penalty: float = 2e-4

    def faults(self) -> dict[str, str]:
        faults = super().faults()
        if not is_number(self.penalty) or not 0 <= self.penalty < float("inf"):
            faults["penalty"] = f"{self.penalty!r} is not a number of at least 0"
        return faults

    def between(self, done: int, length: int) -> SparsityState:
        return SparsityState(self.target, penalty=self.penalty)
