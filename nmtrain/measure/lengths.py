"""What a text model costs at the lengths that its samples have; padding is no work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
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
class LengthCost:
    """MAC of one dense forward of one sample: the sum over i of ``terms[i]`` times what `length_moments` gives as i."""

    terms: tuple[ForwardCost, ...]

    def mean(self, moments: Sequence[int], samples: int) -> ForwardCost:
        """The mean cost of samples with these `length_moments` in sum."""
        return _combined(self.terms, [Fraction(moment, samples) for moment in moments])


def length_cost(
    model: nn.Module, make_inputs: Callable[[int, int], Mapping[str, Any]], tensors: Sequence[SparseTensor]
) -> LengthCost:
    """Count forwards and gradients at six pairs of lengths, from which the polynomial follows exactly.

    Args:
        make_inputs: keyword arguments of the model for one sample with so many input and target tokens, unpadded.
    """
    counted = [forward_cost(model, make_inputs(*lengths), tensors, 1, training=True) for lengths in _PROBES]
    units = [[float(probe == i) for probe in range(len(_PROBES))] for i in range(len(_PROBES))]
    return LengthCost(tuple(_combined(counted, weights) for weights in zip(*map(_coefficients, units), strict=True)))


def length_moments(lengths: Tensor) -> Tensor:
    """Lengths of input and target, int64 ``[..., 2]``, to what the terms of a `LengthCost` multiply, ``[..., 6]``."""
    source, target = lengths.unbind(-1)
    return torch.stack([source**p * target**q for p, q in _POWERS], -1)


class LengthCurve:
    """Training FLOPs up to any update, as `TrainingCurve`, where samples have lengths of their own.

    Args:
        moments: int64 ``[total + 1, 6]``: `length_moments` summed over the samples of the updates ``[0, u)``.
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

    def weighted(numbers: Iterable[float]) -> float:
        return float(sum(Fraction(weight) * Fraction(number) for weight, number in zip(weights, numbers, strict=True)))

    return ForwardCost(
        weighted(cost.total for cost in costs),
        {label: weighted(cost.tensors[label] for cost in costs) for label in costs[0].tensors},
        weighted(cost.unneeded for cost in costs),
        {label: weighted(cost.unneeded_inputs.get(label, 0) for cost in costs) for label in costs[0].tensors},
    )
