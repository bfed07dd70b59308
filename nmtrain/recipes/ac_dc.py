"""AC/DC: alternating compressed and decompressed training (Peste et al., 2021, arXiv 2106.12379)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe
from nmtrain.sparsity.state import GradientRule, Ranking, SparsityState


@dataclass(frozen=True, kw_only=True)
class ACDC(Recipe):
    """Sparse and dense stretches by turns, ``rounds`` of each, between a dense start and a sparse end.

    A sparse stretch keeps the mask that its first update makes, and the weights it prunes are zero throughout, whatever
    Adam's first moment would make of them: what a dense stretch grows, it grows from zero. The sparse end lasts at
    least one update. The published schedule of 100 epochs is 10 dense, then 5 and 5 by turns, a dense
    stretch of 10 and a sparse one of 15 in the end, with momentum reset; here all stretches are equal and Adam's
    moments stay.
    """

    name = "ac_dc"
    options: ClassVar[tuple[str, ...]] = ("rounds", "dense_fraction", "finetune_fraction")
    gradient: GradientRule = "masked"
    dense_fraction: float = 0.1
    finetune_fraction: float = 0.15
    rounds: int = 7

    def faults(self) -> dict[str, str]:
        faults = super().faults()
        if type(self.rounds) is not int or self.rounds < 1:
            faults["rounds"] = f"{self.rounds!r} is not a whole number of at least 1"
        if self.finetune_fraction == 0 and "finetune_fraction" not in faults:
            told = "leaves no sparse stretch at the end; allowed: above 0, up to 1"
            faults["finetune_fraction"] = f"{self.finetune_fraction!r} {told}"
        return faults

    def bounds(self, total: int) -> tuple[int, int]:
        dense_end, end = super().bounds(total)
        return dense_end, max(dense_end, min(end, total - 1))

    def between(self, done: int, length: int) -> SparsityState:
        starts = self._starts(length)
        stretch = max(i for i, start in enumerate(starts) if start <= done)
        if stretch % 2 == 0:
            return self._sparse(done == starts[stretch])
        return SparsityState(None, ranking=Ranking(clear=starts[stretch - 1] < done == starts[stretch]))

    def at(self, update: int, total: int) -> SparsityState:
        start = self.bounds(total)[1]
        return self._sparse(update == start) if update >= start else super().at(update, total)

    def phases(self, total: int) -> list[tuple[int, SparsityState]]:
        first, end = self.bounds(total)
        found: list[tuple[int, SparsityState]] = []
        for update in sorted({0, *(first + start for start in self._starts(end - first)), end}):
            if update < total and (state := self.at(update, total)).pattern != (found[-1][1].pattern if found else ""):
                found.append((update, state))
        return found

    def cuts(self, total: int) -> list[int]:
        return []

    def _sparse(self, first: bool) -> SparsityState:
        return SparsityState(self.target, gradient="masked", ranking=Ranking(freeze=not first, clear=True))

    def _starts(self, length: int) -> list[int]:
        """The first updates of the stretches: sparse, dense, sparse, ..., dense."""
        count = 2 * self.rounds
        return [i * length // count for i in range(count)]
