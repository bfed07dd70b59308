"""MDGF: mask decay gradient flow. Pruned entries fade out by a factor D that goes from 1 to 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe
from nmtrain.recipes.decay import decay_factor, decay_faults
from nmtrain.sparsity.state import GradientRule, SparsityState


@dataclass(frozen=True, kw_only=True)
class MDGF(Recipe):
    """The target's mask from the start, ``W * (Phi + D (1 - Phi))`` with D falling per update.

    The default gradient rule is the paper's text (``masked``); its published code used ``straight_through``.
    """

    name = "mdgf"
    options: ClassVar[tuple[str, ...]] = (
        "decay",
        "beta",
        "gradient",
        "dense_fraction",
        "finetune_fraction",
        "freeze_mask",
    )
    gradient: GradientRule = "masked"
    decay: str = "exponential"
    beta: float | None = None

    def faults(self) -> dict[str, str]:
        return super().faults() | decay_faults(self.decay, self.beta)

    @property
    def variant(self) -> str:
        return f"mdgf_{self.decay}"

    def between(self, done: int, length: int) -> SparsityState:
        return SparsityState(self.target, decay_factor(self.decay, self.beta, done, length), self.gradient)
