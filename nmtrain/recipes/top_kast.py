"""Top-KAST (Jayakumar et al., 2020, arXiv 2106.03517) in N:M form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe, frozen
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import Flow, SparsityState


@dataclass(frozen=True, kw_only=True)
class TopKAST(Recipe):
    """The forward keeps N of a group, the backward reaches ``wider`` times as many; ranked every ``every`` updates.

    The published method also pulls the weights towards zero, those outside of the forward by 1 / density more; here
    weight decay is the optimizer's, the same for all.
    """

    name = "top_kast"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("wider", "every", "dense_fraction")
    finetune_fraction: float = 0.0
    wider: int = 4
    every: int = 100

    def faults(self) -> dict[str, str]:
        faults = super().faults()
        for option, lowest in (("wider", 2), ("every", 1)):
            value = getattr(self, option)
            if type(value) is not int or value < lowest:
                faults[option] = f"{value!r} is not a whole number of at least {lowest}"
        return faults

    def at(self, update: int, total: int) -> SparsityState:
        state, start = super().at(update, total), self.bounds(total)[0]
        keeps = update > start and ((update - start) % self.every != 0 or update == total)
        return frozen(state) if keeps else state

    def between(self, done: int, length: int) -> SparsityState:
        return self.finetuned()

    def finetuned(self) -> SparsityState:
        n, m = self.target.n, self.target.m
        return SparsityState(self.target, flow=Flow(wider=NMPattern(min(m, self.wider * n), m)))
