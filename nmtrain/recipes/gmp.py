"""Gradual magnitude pruning (Zhu and Gupta, 2017, arXiv 1710.01878) in N:M form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe, contenders_fault
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import Flow, GradientRule, SparsityState


def cubic_pattern(target: NMPattern, done: int, length: int) -> NMPattern:
    """The pattern of the target's M after ``done`` of ``length`` updates, through every integer from M to N:

    ``N_t = max(N, round(M (rho + (1 - rho) (1 - q)^3)))``, rho the target's density, q = done / length.
    """
    remaining = (1 - done / length) ** 3 if length else 0.0
    kept = target.n + (target.m - target.n) * remaining
    return NMPattern(max(target.n, round(kept)), target.m)


@dataclass(frozen=True, kw_only=True)
class GMP(Recipe):
    """``N_t:M`` with N_t from M to N along a cubic, reached when the fine-tune phase begins, at half of training.

    The published method prunes single weights of a layer, every so many updates; here the groups tighten together,
    ranked anew at each update. Its pruned weights get no gradient there: ``gradient=masked``.
    """

    name = "gmp"
    one_way = True
    options: ClassVar[tuple[str, ...]] = (
        "gradient",
        "contenders",
        "dense_fraction",
        "finetune_fraction",
        "freeze_mask",
    )
    gradient: GradientRule = "straight_through"
    finetune_fraction: float = 0.5
    contenders: float | None = None  # see `Flow`

    def faults(self) -> dict[str, str]:
        return super().faults() | contenders_fault(self)

    def between(self, done: int, length: int) -> SparsityState:
        return SparsityState(cubic_pattern(self.target, done, length), flow=Flow(self.gradient, self.contenders))

    def finetuned(self) -> SparsityState:
        return SparsityState(self.target, flow=Flow(self.gradient, self.contenders))
