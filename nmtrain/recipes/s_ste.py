"""S-STE: continuous pruning by soft thresholds (Hu et al., 2024, arXiv 2409.09099)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe
from nmtrain.sparsity.state import Projection, SparsityState


@dataclass(frozen=True, kw_only=True)
class SSTE(Recipe):
    """Kept entries are ``s * sign(w) (|w| - t)``, t the strongest pruned one of the group; straight-through.

    s, one number for each tensor, brings the projected weight nearest to the weight when the recipe starts, and stays.
    Published for 2:4 with gradients in FP8, which is left out here; s is about 3.8 at 1:32.
    """

    name = "s_ste"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("dense_fraction", "finetune_fraction", "freeze_mask")
    finetune_fraction: float = 0.0

    def between(self, done: int, length: int) -> SparsityState:
        return self.finetuned()

    def finetuned(self) -> SparsityState:
        return SparsityState(self.target, projection=Projection(power=1.0, rescale=True))
