"""What is in force at one optimizer update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nmtrain.sparsity.pattern import NMPattern

GradientRule = Literal["straight_through", "masked"]


@dataclass(frozen=True)
class SparsityState:
    """Every recipe is a choice of these at each update, nothing else (method: one transform).

    Attributes:
        pattern: N:M in force, or None where the weight is dense.
        decay: D in [0, 1], what is left of pruned entries.
        gradient: the gradient rule, ``straight_through`` or ``masked``.
        penalty: SR-STE's lambda.
        freeze: keep the mask of the update before instead of ranking the weights again.
        exact: the pattern was asked for by name: where its M does not divide an axis that is an error, and no narrower
            group may take its place (see `SparseTensor.fit`).
    """

    pattern: NMPattern | None
    decay: float = 0.0
    gradient: GradientRule = "straight_through"
    penalty: float = 0.0
    freeze: bool = False
    exact: bool = False

    @property
    def strict(self) -> bool:
        """Whether pruned entries are exactly zero, so that hardware could skip them."""
        return self.pattern is not None and self.decay == 0.0
