"""MaxQ: multi-axis query (Xiang et al., 2023, arXiv 2312.07061)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe
from nmtrain.sparsity.state import Projection, SparsityState


@dataclass(frozen=True, kw_only=True)
class MaxQ(Recipe):
    """Kept weights times ``1 + F + K``, soft answers to whether they are large in their filter and kernel place.

    Up to the fine-tune phase, which takes the last three quarters, a share of the groups is not pruned at all: all at
    first, then fewer along a cubic, those with the smallest sums first. Straight-through. The published code learns
    with SGD on convolutions alone; a linear layer has no kernel, and so no K.
    """

    name = "maxq"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("dense_fraction", "finetune_fraction", "freeze_mask")
    finetune_fraction: float = 0.75

    def between(self, done: int, length: int) -> SparsityState:
        whole = (1 - done / length) ** 3
        return SparsityState(self.target, projection=Projection(queried=True, whole_groups=whole))

    def finetuned(self) -> SparsityState:
        return SparsityState(self.target, projection=Projection(queried=True))
