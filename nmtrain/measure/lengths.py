"""What a text model costs at the lengths that its samples have; padding is no work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from nmtrain.measure.flops import ForwardCost, TrainingCurve, forward_cost
from nmtrain.recipes import Recipe
from nmtrain.sparsity import NMPattern, SparseTensor

# The cost of a forward is a polynomial in the lengths of input and target: matmuls with weights are linear in one of
# them, attention products have the two squares and their product. These powers of (input, target), and the lengths
# that tell their coefficients apart.
_POWERS = ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1))
_PROBES = ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (2, 2))


@dataclass(frozen=True)
class Lengths:
    """Tokens of input and target of a run's samples, int64 ``[..., 2]``."""

    train: Tensor  # [n, 2]: of all training samples
    validation: Tensor  # [n, 2]
    of_update: Callable[[int], Tensor]  # [batch, 2]: of the samples of one update


@dataclass(frozen=True, eq=False)
class LengthCost:
    """MAC of one dense forward of one sample: the sum over i of ``terms[i]`` times what `moments` gives as i.

    Encoders that attend in blocks cost a step more with each block, which no polynomial has. Their terms beyond the
    polynomial are multiplied by what ``steps`` holds for the length of the input.

    Attributes:
        terms: of the polynomial, and one for each column of ``steps``.
        steps: int64 ``[longest + 1, further terms]``, by input length; 0 at lengths that `for_inputs` was not given.
        count: the cost at a pair of lengths, counted; None where the polynomial gives it.
    """

    terms: tuple[ForwardCost, ...]
    steps: Tensor
    count: Callable[[int, int], ForwardCost] | None = None

    def moments(self, lengths: Tensor) -> Tensor:
        """Lengths of input and target, int64 ``[..., 2]``, to what the terms multiply, ``[..., terms]``."""
        powers = length_moments(lengths)
        return torch.cat([powers, self.steps[lengths[..., 0]]], -1) if self.steps.numel() else powers

    def mean(self, moments: Sequence[int], samples: int) -> ForwardCost:
        """The mean cost of samples with these `moments` in sum."""
        return _combined(self.terms, [Fraction(moment, samples) for moment in moments])

    def at(self, source: int, target: int) -> ForwardCost:
        """The cost of a sample with so many input and target tokens."""
        if self.count is not None:
            return self.count(source, target)
        return self.mean(self.moments(torch.tensor([source, target])).tolist(), 1)

    def for_inputs(self, lengths: Tensor) -> LengthCost:
        """Exact at these input lengths (int64 ``[n]``), whatever the target: each is counted, unless none need be."""
        if self.count is None:
            return self
        distinct = lengths.unique().tolist()
        beyond = [_beyond(self.count, self.terms[: len(_POWERS)], source, 1) for source in distinct]
        columns: dict[tuple[int, ...], dict[tuple[str, str], int]] = {}
        for place in dict.fromkeys(place for numbers in beyond for place in numbers):
            values = [int(numbers.get(place, 0)) for numbers in beyond]
            if factor := gcd(*values):  # numbers that grow alike, as those of equal layers do, share a column
                columns.setdefault(tuple(value // factor for value in values), {})[place] = factor
        steps = torch.zeros(max(distinct) + 1, len(columns), dtype=torch.int64)
        steps[distinct] = torch.tensor(list(columns), dtype=torch.int64).view(len(columns), len(distinct)).T
        further = [_filled(self.terms[0], factors) for factors in columns.values()]
        return LengthCost((*self.terms[: len(_POWERS)], *further), steps, self.count)


def length_cost(
    model: nn.Module,
    make_inputs: Callable[[int, int], Mapping[str, Any]],
    tensors: Sequence[SparseTensor],
    longest: tuple[int, int] | None = None,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> LengthCost:
    """Count forwards and gradients at six pairs of lengths, from which the polynomial follows exactly.

    Args:
        make_inputs: keyword arguments of the model for one sample with so many input and target tokens, unpadded.
        longest: lengths of input and target up to which the polynomial has to hold. There and half-way it is held
            against a count; where the two differ, `LengthCost.for_inputs` counts at each length.
        within: what each forward is to run in.

    Raises:
        ValueError: where the cost has a form that cannot be told from few counts: steps by the length of the target,
            or another cost once a sample of another length was seen.
    """

    @cache
    def count(source: int, target: int) -> ForwardCost:
        with within():
            return forward_cost(model, make_inputs(source, target), tensors, 1, training=True)

    checked = [longest, (-(-longest[0] // 2), -(-longest[1] // 2))] if longest else []
    for lengths in checked:
        count(*lengths)  # before the short ones, at which some architectures change their way for good
    counted = [count(*lengths) for lengths in _PROBES]
    units = [[float(probe == i) for probe in range(len(_PROBES))] for i in range(len(_PROBES))]
    terms = tuple(_combined(counted, weights) for weights in zip(*map(_coefficients, units), strict=True))
    polynomial = LengthCost(terms, torch.zeros(0, 0, dtype=torch.int64))
    beyond = [_beyond(count, terms, source, target) for source, target in checked]
    if not any(any(numbers.values()) for numbers in beyond):
        return polynomial
    if any(count.__wrapped__(*lengths) != count(*lengths) for lengths in checked):
        raise ValueError("what a text costs depends on the texts before it")
    if beyond != [_beyond(count, terms, source, 1) for source, _ in checked]:
        raise ValueError("what a text costs is no polynomial in the length of its target")
    return LengthCost(terms, polynomial.steps, count)


def length_moments(lengths: Tensor) -> Tensor:
    """Lengths of input and target, int64 ``[..., 2]``, to the powers of the polynomial, ``[..., 6]``."""
    source, target = lengths.unbind(-1)
    return torch.stack([source**p * target**q for p, q in _POWERS], -1)


class LengthCurve:
    """Training FLOPs up to any update, as `TrainingCurve`, where samples have lengths of their own.

    Args:
        moments: int64 ``[total + 1, terms]``: `LengthCost.moments` summed over the samples of the updates ``[0, u)``.
    """

    def __init__(
        self,
        cost: LengthCost,
        tensors: Sequence[SparseTensor],
        recipes: Mapping[NMPattern, Recipe],
        total: int,
        moments: Tensor,
    ) -> None:
        columns = moments.T.tolist()
        self._curves = [
            TrainingCurve(term, tensors, recipes, total, column)
            for term, column in zip(cost.terms, columns, strict=True)
        ]

    def flops(self, until: int) -> float:
        """FLOPs of the updates ``[0, until)``."""
        return sum(curve.flops(until) for curve in self._curves)

    @property
    def starts(self) -> list[int]:
        """See `TrainingCurve`."""
        return self._curves[0].starts

    def phase_flops(self, until: int) -> tuple[int, float]:
        """See `TrainingCurve.phase_flops`."""
        phases, flops = zip(*(curve.phase_flops(until) for curve in self._curves), strict=True)
        return phases[0], sum(flops)


def _coefficients(values: Sequence[float]) -> list[float]:
    """Of the polynomial that has these values at `_PROBES`. Values are whole numbers, and so is all in between."""
    one, two, three, target_two, target_three, both = (Fraction(value) for value in values)
    square = (three - 2 * two + one) / 2
    target_square = (target_three - 2 * target_two + one) / 2
    product = both - two - target_two + one
    linear = two - one - 3 * square - product
    target_linear = target_two - one - 3 * target_square - product
    constant = one - linear - square - target_linear - target_square - product
    return [float(x) for x in (constant, linear, square, target_linear, target_square, product)]


def _combined(costs: Sequence[ForwardCost], weights: Sequence[float | Fraction]) -> ForwardCost:
    """The weighted sum of costs, in each of their numbers."""
    numbers = [_numbers(cost) for cost in costs]
    places = dict.fromkeys(place for given in numbers for place in given)
    return _filled(
        costs[0],
        {
            place: sum(Fraction(w) * Fraction(given.get(place, 0)) for w, given in zip(weights, numbers, strict=True))
            for place in places
        },
    )


def _beyond(
    count: Callable[[int, int], ForwardCost], terms: Sequence[ForwardCost], source: int, target: int
) -> dict[tuple[str, str], float]:
    """What a count has more than the polynomial, by number; the numbers are whole."""
    moments = length_moments(torch.tensor([source, target])).tolist()
    return _numbers(_combined([count(source, target), *terms], [1, *(-moment for moment in moments)]))


def _numbers(cost: ForwardCost) -> dict[tuple[str, str], float]:
    """All numbers of a cost, by field and, where the field holds one for each tensor, its label."""
    found: dict[tuple[str, str], float] = {}
    for field in fields(cost):
        value = getattr(cost, field.name)
        found |= (
            {(field.name, k): v for k, v in value.items()} if isinstance(value, dict) else {(field.name, ""): value}
        )
    return found


def _filled(like: ForwardCost, numbers: Mapping[tuple[str, str], float | Fraction]) -> ForwardCost:
    """The cost with these `_numbers`; 0 where there is none."""
    values: dict[str, Any] = {}
    for field in fields(like):
        given = {label: float(value) for (name, label), value in numbers.items() if name == field.name}
        before = getattr(like, field.name)
        values[field.name] = dict.fromkeys(before, 0.0) | given if isinstance(before, dict) else given.get("", 0.0)
    return ForwardCost(**values)
