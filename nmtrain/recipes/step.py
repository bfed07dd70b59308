"""STEP: Adam's second moment is learnt dense, then held (Lu et al., 2023, arXiv 2302.01172)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from nmtrain.recipes.base import Recipe
from nmtrain.sparsity.state import Moments, SparsityState

AUTO = "auto"
EARLIEST, LATEST = 0.1, 0.5  # of all updates: between these the dense phase ends with AUTO


@dataclass(frozen=True, kw_only=True)
class STEP(Recipe):
    """Dense up to ``dense_fraction``, then straight-through at the target with the second moment as it was.

    ``w -= lr * m_hat / (sqrt(v_hat) + eps)``, v_hat that of the last dense update, with its bias correction, which the
    published code leaves out. The dense phase lasts at least one update. With ``dense_fraction`` ``auto`` training
    finds its end by the paper's AutoSwitch (`nmtrain.training.switch`), between a tenth and half of all updates.
    """

    name = "step"
    needs_adam = True
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("dense_fraction", "finetune_fraction", "freeze_mask")
    dense_fraction: Any = 0.25  # or AUTO
    finetune_fraction: float = 0.0

    def faults(self) -> dict[str, str]:
        faults = super().faults()
        if self.dense_fraction == AUTO:
            del faults["dense_fraction"]
            if "finetune_fraction" not in faults and self.finetune_fraction > 1 - LATEST:
                faults["finetune_fraction"] = f"{self.finetune_fraction} exceeds {1 - LATEST}, what {AUTO} may leave"
        elif "dense_fraction" in faults:
            faults["dense_fraction"] += f", nor {AUTO}"
        elif self.dense_fraction == 0:
            faults["dense_fraction"] = f"{self.dense_fraction!r} leaves no second moment to hold"
        return faults

    def switch_between(self, total: int) -> tuple[int, int] | None:
        if self.dense_fraction != AUTO:
            return None
        return max(1, round(EARLIEST * total)), max(1, int(LATEST * total))

    def switched(self, update: int, total: int) -> Recipe:
        return replace(self, dense_fraction=update / total)

    def bounds(self, total: int) -> tuple[int, int]:
        between = self.switch_between(total)
        dense_end = max(1, round(self.dense_fraction * total)) if between is None else between[1]
        return dense_end, max(dense_end, total - round(self.finetune_fraction * total))

    def between(self, done: int, length: int) -> SparsityState:
        return self.finetuned()

    def finetuned(self) -> SparsityState:
        return SparsityState(self.target, moments=Moments(hold_variance=True))
