"""What is in force at one optimizer update: four small records, each read in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

from nmtrain.sparsity.pattern import NMPattern

# The two rules by name, or the share of the gradient that reaches pruned entries.
GradientRule = Literal["straight_through", "masked"] | float
GRADIENT_RULES = ("straight_through", "masked")


@dataclass(frozen=True)
class Projection:
    """What the forward sees of a weight W: ``s * (Phi * shrink(W) + D * (1 - Phi) * W)``.

    Attributes:
        decay: D in [0, 1], what is left of pruned entries.
        power: None keeps kept entries as they are. A number p shrinks them, so that an entry comes and goes through
            zero: ``shrink(w) = sign(w) * (|w|^p - (threshold * t)^p)^(1/p)``, with t the magnitude of the strongest
            pruned entry of the group.
        threshold: how much of t is taken off, in [0, 1]; 0 is hard.
        queried: kept entries are enlarged by MaxQ's factor, up to 3, see `nmtrain.sparsity.projection.queried`.
        whole_groups: this share of a tensor's groups, those of the largest sums, is not pruned at all.
        rescale: s is not 1 but what brings ``s * shrink(W)`` nearest to W, of each tensor, and stays as it was when the
            power came into force.
    """

    decay: float = 0.0
    power: float | None = None
    threshold: float = 1.0
    rescale: bool = False
    queried: bool = False
    whole_groups: float = 0.0


@dataclass(frozen=True)
class Flow:
    """What the backward passes of the gradient g: ``g * (Phi + theta * (1 - Phi)) + lambda * (1 - Phi) * W``.

    Attributes:
        gradient: theta: ``straight_through`` is 1, ``masked`` is D (the chain rule), or a number from 0 to 1.
        contenders: an exponent a > 0: theta falls with an entry's magnitude, by ``(|w| / t)^a``, t as in `Projection`.
        wider: only the entries of this pattern, wider than that of the forward, get a gradient at all.
        penalty: SR-STE's lambda.
    """

    gradient: GradientRule = "straight_through"
    contenders: float | None = None
    wider: NMPattern | None = None
    penalty: float = 0.0


@dataclass(frozen=True)
class Ranking:
    """How the mask is chosen: by magnitude, at this update, unless an attribute says otherwise.

    Attributes:
        freeze: keep the mask of the update before.
        clear: what the mask prunes is set to zero in the weight itself, at this update; where no pattern is in force
            that is the mask of the update before.
        regrow: after this update's backward, this share of the kept entries, the smallest, give their place to the
            pruned ones of their group with the largest gradient, which start from zero. None: no such exchange.
    """

    freeze: bool = False
    clear: bool = False
    regrow: float | None = None


@dataclass(frozen=True)
class Moments:
    """What happens to Adam's moments of sparse weights.

    Attributes:
        hold_variance: the second moment stays what it was at the update before.
    """

    hold_variance: bool = False


@dataclass(frozen=True, init=False)
class SparsityState:
    """Every recipe is a choice of these at each update, nothing else (method: one transform).

    The four that most recipes set can be given by themselves: ``SparsityState(pattern, decay=0.5, gradient="masked")``;
    they go before what the records say.

    Attributes:
        pattern: N:M in force, or None where the weight is dense.
        projection, flow, ranking, moments: see there; the defaults are strict N:M, straight-through, ranked anew.
        exact: the pattern was asked for by name: where its M does not divide an axis that is an error, and no narrower
            group may take its place (see `SparseTensor.fit`).

    Raises:
        ValueError: for values of other kinds and out of their range, which a recipe from outside may ask for.
    """

    pattern: NMPattern | None
    projection: Projection
    flow: Flow
    ranking: Ranking
    moments: Moments
    exact: bool

    def __init__(
        self,
        pattern: NMPattern | None,
        decay: float | None = None,
        gradient: GradientRule | None = None,
        penalty: float | None = None,
        freeze: bool | None = None,
        exact: bool = False,
        *,
        projection: Projection = Projection(),
        flow: Flow = Flow(),
        ranking: Ranking = Ranking(),
        moments: Moments = Moments(),
    ) -> None:
        values: dict[str, Any] = {
            "pattern": pattern,
            "projection": projection if decay is None else replace(projection, decay=decay),
            "flow": flow,
            "ranking": ranking if freeze is None else replace(ranking, freeze=freeze),
            "moments": moments,
            "exact": exact,
        }
        given: dict[str, Any] = {"gradient": gradient, "penalty": penalty}
        values["flow"] = replace(flow, **{name: value for name, value in given.items() if value is not None})
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if self.pattern is not None and not isinstance(self.pattern, NMPattern):
            raise ValueError(f"SparsityState: pattern={self.pattern!r} is neither an NMPattern nor None")
        if fault := transform_fault(self.decay, self.gradient, self.penalty):
            raise ValueError(f"SparsityState: {fault}")

    @property
    def decay(self) -> float:
        """D of the projection."""
        return self.projection.decay

    @property
    def gradient(self) -> GradientRule:
        """The gradient rule of the flow."""
        return self.flow.gradient

    @property
    def penalty(self) -> float:
        """SR-STE's lambda, of the flow."""
        return self.flow.penalty

    @property
    def freeze(self) -> bool:
        """Whether the mask of the update before is kept."""
        return self.ranking.freeze

    @property
    def strict(self) -> bool:
        """Whether pruned entries are exactly zero, so that hardware could skip them."""
        return self.pattern is not None and self.decay == 0.0 and self.projection.whole_groups == 0.0

    @property
    def reached(self) -> NMPattern | None:
        """The pattern of the entries whose gradient something needs; None where that is all."""
        if self.penalty or self.ranking.regrow is not None:
            return None
        return self.pattern if self.theta == 0.0 else self.flow.wider

    @property
    def theta(self) -> float:
        """The share of the gradient that reaches pruned entries, as far as it is one for all."""
        if isinstance(self.gradient, str):
            return self.decay if self.gradient == "masked" else 1.0
        return self.gradient


def transform_fault(decay: Any, gradient: Any, penalty: Any) -> str | None:
    """What is wrong with a choice of the transform's numbers and rule."""
    if not _is_fraction(decay):
        return f"decay={decay!r} is not a number from 0 to 1"
    if not (isinstance(gradient, str) and gradient in GRADIENT_RULES) and not _is_fraction(gradient):
        return f"gradient={gradient!r} is unknown. Available: {list(GRADIENT_RULES)}, or a number from 0 to 1"
    if not (_is_number(penalty) and 0 <= penalty < math.inf):
        return f"penalty={penalty!r} is not a number of at least 0"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
