"""RigL (Evci et al., 2020, arXiv 1911.11134) in N:M form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from nmtrain.recipes.base import Recipe, frozen, is_number
from nmtrain.sparsity.state import GradientRule, Ranking, SparsityState


@dataclass(frozen=True, kw_only=True)
class RigL(Recipe):
    """Masked training; every ``every`` updates the weakest kept entries give way to those with the largest gradient.

    Up to ``until`` of the L sparse updates, a share ``exchange / 2 * (1 + cos(pi t / (until L)))`` of a tensor's kept
    entries changes, inside their groups; the new ones start from zero, with fresh moments. The published method starts
    from random masks and moves weights anywhere in a layer; here the first mask is by magnitude. The gradient of
    pruned entries is needed at those updates alone, and training FLOPs count it there alone.
    """

    name = "rigl"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("exchange", "every", "until", "dense_fraction")
    gradient: GradientRule = "masked"
    finetune_fraction: float = 0.0
    exchange: float = 0.3
    every: int = 100
    until: float = 0.75

    def faults(self) -> dict[str, str]:
        faults = super().faults()
        if type(self.every) is not int or self.every < 1:
            faults["every"] = f"{self.every!r} is not a whole number of at least 1"
        for option in ("exchange", "until"):
            value = getattr(self, option)
            if not is_number(value) or not 0 < value <= 1:
                faults[option] = f"{value!r} is not a fraction above 0, up to 1"
        return faults

    def at(self, update: int, total: int) -> SparsityState:
        state = super().at(update, total)
        return frozen(state) if update > self.bounds(total)[0] else state

    def between(self, done: int, length: int) -> SparsityState:
        regrow = self._share(done, length) if self._exchanges(done, length) else None
        return replace(self.finetuned(), ranking=Ranking(regrow=regrow))

    def cuts(self, total: int) -> list[int]:
        start, end = self.bounds(total)
        exchanges = [t for t in range(start, min(end, total)) if self._exchanges(t - start, end - start)]
        return [first for update in exchanges for first in (update, update + 1) if first < total]

    def _exchanges(self, done: int, length: int) -> bool:
        return 0 < done < self.until * length and done % self.every == 0

    def _share(self, done: int, length: int) -> float:
        return self.exchange / 2 * (1 + math.cos(math.pi * done / (self.until * length)))
