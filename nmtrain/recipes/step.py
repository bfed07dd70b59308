"""STEP: Adam's second moment is learnt dense, then held (Lu et al., 2023, arXiv 2302.01172)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe
from nmtrain.sparsity.state import Moments, SparsityState


@dataclass(frozen=True, kw_only=True)
class STEP(Recipe):
    """Dense up to ``dense_fraction``, then straight-through at the target with the second moment as it was.

    ``w -= lr * m_hat / (sqrt(v_hat) + eps)``, v_hat that of the last dense update, with its bias correction, which the
    published code leaves out.
    """

    name = "step"
    needs_adam = True
    options: ClassVar[tuple[str, ...]] = ("dense_fraction", "finetune_fraction", "freeze_mask")
    dense_fraction: float = 0.25
    finetune_fraction: float = 0.0

    def faults(self) -> dict[str, str]:
        faults = super().faults()
        if self.dense_fraction == 0 and "dense_fraction" not in faults:
            faults["dense_fraction"] = f"{self.dense_fraction!r} leaves no second moment to hold"
        return faults

    def between(self, done: int, length: int) -> SparsityState:
        return self.finetuned()

    def finetuned(self) -> SparsityState:
        return SparsityState(self.target, moments=Moments(hold_variance=True))
