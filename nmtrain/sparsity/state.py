"""What is in force at one optimizer update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

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

    Raises:
        ValueError: for values of other kinds and out of their range, which a recipe from outside may ask for.
    """

    pattern: NMPattern | None
    decay: float = 0.0
    gradient: GradientRule = "straight_through"
    penalty: float = 0.0
    freeze: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if self.pattern is not None and not isinstance(self.pattern, NMPattern):
            raise ValueError(f"SparsityState: pattern={self.pattern!r} is neither an NMPattern nor None")
        if not (_is_number(self.decay) and 0 <= self.decay <= 1):
            raise ValueError(f"SparsityState: decay={self.decay!r} is not a number from 0 to 1")
        if self.gradient not in get_args(GradientRule):
            rules = list(get_args(GradientRule))
            raise ValueError(f"SparsityState: gradient={self.gradient!r} is unknown. Available: {rules}")
        if not (_is_number(self.penalty) and 0 <= self.penalty < math.inf):
            raise ValueError(f"SparsityState: penalty={self.penalty!r} is not a number of at least 0")

    @property
    def strict(self) -> bool:
        """Whether pruned entries are exactly zero, so that hardware could skip them."""
        return self.pattern is not None and self.decay == 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
