"""MDGF: mask decay gradient flow. Pruned entries fade out by a factor D that goes from 1 to 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe, contenders_fault
from nmtrain.recipes.decay import DECAY_OPTIONS, decay_factor, decay_faults
from nmtrain.recipes.gmp import cubic_pattern
from nmtrain.sparsity.state import Flow, GradientRule, Projection, SparsityState


@dataclass(frozen=True, kw_only=True)
class MDGF(Recipe):
    """The target's mask from the start, ``W * (Phi + D (1 - Phi))`` with D falling per update.

    The default gradient rule is the paper's text (``masked``); its published code used ``straight_through``.

    Attributes:
        decay, beta, decay_power, decay_end: see `decay_factor`; the fine-tune phase is strict whatever they are.
        tighten: the pattern tightens beneath the decay, as that of `gmp`.
        contenders: the gradient of a pruned entry falls with its magnitude, see `Flow`.
    """

    name = "mdgf"
    one_way = True
    options: ClassVar[tuple[str, ...]] = (
        *DECAY_OPTIONS,
        "tighten",
        "gradient",
        "contenders",
        "dense_fraction",
        "finetune_fraction",
        "freeze_mask",
    )
    gradient: GradientRule = "masked"
    decay: str = "exponential"
    beta: float | None = None
    decay_power: float = 1.0
    decay_end: float = 0.0
    tighten: bool = False
    contenders: float | None = None

    def faults(self) -> dict[str, str]:
        faults = super().faults() | decay_faults(self) | contenders_fault(self)
        if not isinstance(self.tighten, bool):
            faults["tighten"] = f"{self.tighten!r} is not true or false"
        return faults

    @property
    def variant(self) -> str:
        return f"mdgf_{self.decay}"

    def between(self, done: int, length: int) -> SparsityState:
        pattern = cubic_pattern(self.target, done, length) if self.tighten else self.target
        projection = Projection(decay_factor(self, done, length))
        return SparsityState(pattern, projection=projection, flow=Flow(self.gradient, self.contenders))

    def finetuned(self) -> SparsityState:
        return SparsityState(self.target, flow=Flow(self.gradient, self.contenders))
