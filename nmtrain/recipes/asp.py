"""ASP: dense training, one-shot pruning, the same training again (Mishra et al., 2021, arXiv 2104.08378)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe, frozen
from nmtrain.sparsity.state import GradientRule, SparsityState


@dataclass(frozen=True, kw_only=True)
class ASP(Recipe):
    """Dense up to ``dense_fraction``; then the N largest of each group, once, masked and the same to the end.

    The published workflow repeats the whole training after pruning, with its learning rates. Here that is a run with
    ``init_from`` of a dense one and ``dense_fraction=0``; by default both halves share one schedule.
    """

    name = "asp"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("dense_fraction",)
    gradient: GradientRule = "masked"
    dense_fraction: float = 0.5
    finetune_fraction: float = 0.0

    def at(self, update: int, total: int) -> SparsityState:
        state = super().at(update, total)
        return frozen(state) if update > self.bounds(total)[0] else state

    def between(self, done: int, length: int) -> SparsityState:
        return self.finetuned()
