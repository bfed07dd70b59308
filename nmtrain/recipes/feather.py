"""Feather (Glentis Georgoulakis et al., 2023, arXiv 2310.02448) in N:M form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe
from nmtrain.recipes.gmp import cubic_pattern
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import Flow, Projection, SparsityState

_POWER = 3.0
_SPARSE = 0.05  # densities below this one damp the gradient of pruned entries
_DAMPED = 0.5


@dataclass(frozen=True, kw_only=True)
class Feather(Recipe):
    """Cubic tightening to half of training, a projection that goes through zero, damped gradients of pruned entries.

    Kept entries are ``sign(w) (|w|^3 - t^3)^(1/3)``, t the strongest pruned one of the group; pruned entries get half
    of the gradient where the target keeps less than 5 %, else all of it, and the weights stay so to the end. The
    published code takes one threshold for the whole network; here each group has its own.
    """

    name = "feather"
    one_way = True
    options: ClassVar[tuple[str, ...]] = ("dense_fraction", "finetune_fraction", "freeze_mask")
    finetune_fraction: float = 0.5

    def between(self, done: int, length: int) -> SparsityState:
        return self._state(cubic_pattern(self.target, done, length))

    def finetuned(self) -> SparsityState:
        return self._state(self.target)

    def _state(self, pattern: NMPattern) -> SparsityState:
        theta = _DAMPED if self.target.density < _SPARSE else 1.0
        return SparsityState(pattern, projection=Projection(power=_POWER), flow=Flow(theta))
