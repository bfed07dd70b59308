"""What a forward and a whole training cost on hardware that skips every pruned weight (method, section 7)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import nn

from nmtrain.measure.products import count_products
from nmtrain.recipes import Recipe
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityState
from nmtrain.sparsity.rules import stock_names


@dataclass(frozen=True)
class ForwardCost:
    """Multiply-accumulates (MAC) of one dense forward, per sample, and which gradients behind it cost nothing.

    A product has two gradients, one for each of what it multiplies, and either costs what the product does.

    Attributes:
        total: of all matmuls and convolutions, attention products included.
        tensors: of each sparse tensor, by `SparseTensor.label`; part of ``total``.
        unneeded: of the gradients that no backward computes, such as that of the images that a stem reads.
        unneeded_inputs: part of ``unneeded``, of the gradient of what each sparse tensor is multiplied by; 0 where
            there is no entry.
    """

    total: float
    tensors: dict[str, float]
    unneeded: float = 0.0
    unneeded_inputs: dict[str, float] = field(default_factory=dict)


def forward_cost(
    model: nn.Module,
    inputs: Sequence[Any] | Mapping[str, Any],
    tensors: Sequence[SparseTensor],
    samples: int,
    training: bool = False,
) -> ForwardCost:
    """Run the model once and count what its matmuls and convolutions multiply.

    Free of charge on the meta device. The model may be stock or sparsified, and is left as it was.

    Args:
        inputs: positional arguments, or keyword arguments by name.
        tensors: those to count one by one; a slice of a fused matrix gets its share of the rows, a weight that
            several modules share the cost of all its uses.
        samples: how many samples ``inputs`` holds. Work that a batch shares (SwinV2's table of position biases) is
            divided among them, so give the batch that trains where that matters.
        training: in train mode, where patch dropout leaves tokens out, and looking for gradients that nothing needs;
            what `training_flops` takes. Otherwise in eval mode, for `inference_flops`.

    Raises:
        ValueError: naming the tensors that the model has not, or that no matmul of this forward used.
    """
    weights = stock_names(model)
    if absent := [tensor.label for tensor in tensors if tensor.name not in weights]:
        raise ValueError(f"the model has no weights {absent}. Available: {sorted(weights)}")
    counted = count_products(model, inputs, training)
    if unused := [tensor.label for tensor in tensors if tensor.name not in counted.by_weight]:
        raise ValueError(f"no matmul or convolution of this forward used {unused}; give inputs that reach them")

    shares = {t: Fraction(t.shape[0], weights[t.name].shape[0] * samples) for t in tensors}
    forward = {t.label: share * counted.by_weight[t.name] for t, share in shares.items()}
    cost = ForwardCost(float(Fraction(counted.total, samples)), {label: float(macs) for label, macs in forward.items()})
    if not training:
        return cost
    unneeded = {t.label: forward[t.label] - share * counted.input_gradients[t.name] for t, share in shares.items()}
    return replace(
        cost,
        unneeded=float(Fraction(2 * counted.total - counted.gradients, samples)),
        unneeded_inputs={label: float(macs) for label, macs in unneeded.items() if macs},
    )


def inference_flops(cost: ForwardCost, tensors: Sequence[SparseTensor]) -> float:
    """FLOPs (2 per MAC) of one forward per sample with each tensor at its target; ``[]`` gives the dense model's."""
    macs = Fraction(cost.total)
    for tensor in tensors:
        macs -= (1 - _density(tensor.pattern)) * Fraction(cost.tensors[tensor.label])
    return float(2 * macs)


def update_flops(
    cost: ForwardCost, tensors: Sequence[SparseTensor], states: Mapping[NMPattern, SparsityState], samples: int
) -> float:
    """FLOPs of one optimizer update on ``samples`` samples: forward, gradient of the input, gradient of the weight.

    Each of the three costs as much as the forward, dense, unless nothing needs it; ``states`` (by target) say what is
    skipped. The optimizer's own element-wise work and the search for masks are not matmuls and do not count, nor does
    recomputing activations.
    """
    return float(2 * samples * _update_macs(cost, tensors, states))


def _update_macs(
    cost: ForwardCost, tensors: Sequence[SparseTensor], states: Mapping[NMPattern, SparsityState]
) -> Fraction:
    """Of one sample. Exact, so that sums over updates and products over phases agree to the last digit."""
    macs = 3 * Fraction(cost.total) - Fraction(cost.unneeded)
    for tensor in tensors:
        state = states[tensor.pattern]
        if state.pattern is None or not state.strict:
            continue
        product = Fraction(cost.tensors[tensor.label])
        sparse = 2 * product - Fraction(cost.unneeded_inputs.get(tensor.label, 0))
        macs -= (1 - _density(tensor.fit(state.pattern, state.exact))) * sparse
        if state.reached is not None:
            macs -= (1 - _density(tensor.fit(state.reached, state.exact))) * product
    return macs


def _density(pattern: NMPattern) -> Fraction:
    return Fraction(pattern.n, pattern.m)


def phase_starts(recipes: Mapping[NMPattern, Recipe], total: int) -> list[int]:
    """The first update of each phase, all recipes' together."""
    return sorted({0, *(first for recipe in recipes.values() for first, _ in recipe.phases(total))})


def pieces(starts: Sequence[int], recipes: Mapping[NMPattern, Recipe], total: int) -> list[int]:
    """The first updates of pieces of the phases with these ``starts`` in which every update costs the same."""
    return sorted({*starts, *(cut for recipe in recipes.values() for cut in recipe.cuts(total))})


def updates_within(budget: float, flops: Callable[[int], float]) -> int:
    """The largest T with ``flops(T) <= budget``; 0 where one update costs more.

    Args:
        flops: of a whole training of so many updates. It rises with their number, but for a recipe that goes back and
            forth between dense and sparse, where a T is found that keeps to the budget while T + 1 does not.
    """
    enough, beyond = 0, 1
    spent, over = 0.0, flops(1)
    while over <= budget:
        enough, spent = beyond, over
        beyond *= 2
        over = flops(beyond)
    by_slope = True  # training costs about so much per update: the slope leads there at once, halves make sure
    while beyond - enough > 1:
        share = (budget - spent) / (over - spent) if by_slope else 0.5
        middle = min(max(enough + 1, enough + int(share * (beyond - enough))), beyond - 1)
        if (there := flops(middle)) <= budget:
            enough, spent = middle, there
        else:
            beyond, over = middle, there
        by_slope = not by_slope
    return enough


class TrainingCurve:
    """Training FLOPs up to any update, in the time of a look-up: for logs and for plots over cost.

    ``starts`` holds the first update of each phase, where what an update costs may change; all recipes' together.

    Args:
        recipes: one for each target pattern among ``tensors``; a dense run may give none.
        total: planned updates.
        samples: per update, over all micro-batches and devices; or, where updates differ, the ``total + 1`` numbers of
            samples before each update and after the last one.
    """

    def __init__(
        self,
        cost: ForwardCost,
        tensors: Sequence[SparseTensor],
        recipes: Mapping[NMPattern, Recipe],
        total: int,
        samples: int | Sequence[int],
    ) -> None:
        self.total = total
        self._samples = range(0, samples * (total + 1), samples) if isinstance(samples, int) else samples
        self.starts = phase_starts(recipes, total)
        self._pieces = pieces(self.starts, recipes, total)
        self._per_sample: list[Fraction] = []
        self._before: list[Fraction] = []
        spent = Fraction(0)
        known: dict[Any, Fraction] = {}  # what states cost, of which thousands of pieces have only a few kinds
        for start, end in zip(self._pieces, [*self._pieces[1:], total], strict=True):
            states = {target: recipe.at(start, total) for target, recipe in recipes.items()}
            self._before.append(spent)
            kind = tuple((state.pattern, state.exact, state.strict, state.reached) for state in states.values())
            if kind not in known:
                known[kind] = 2 * _update_macs(cost, tensors, states)
            self._per_sample.append(known[kind])
            spent += (self._samples[end] - self._samples[start]) * self._per_sample[-1]

    def flops(self, until: int) -> float:
        """FLOPs of the updates ``[0, until)``."""
        if not 0 <= until <= self.total:
            raise ValueError(f"update {until} is outside the {self.total} planned updates")
        return float(self._spent(until))

    def phase_flops(self, until: int) -> tuple[int, float]:
        """The phase of the last of the updates ``[0, until)``, from 0, and the FLOPs spent in it until then."""
        phase = bisect_right(self.starts, max(0, until - 1)) - 1
        return phase, float(self._spent(until) - self._spent(self.starts[phase]))

    def _spent(self, until: int) -> Fraction:
        piece = bisect_right(self._pieces, until) - 1
        return (
            self._before[piece] + (self._samples[until] - self._samples[self._pieces[piece]]) * self._per_sample[piece]
        )


def training_flops(
    cost: ForwardCost,
    tensors: Sequence[SparseTensor],
    recipes: Mapping[NMPattern, Recipe],
    total: int,
    samples_per_update: int,
    until: int | None = None,
) -> float:
    """FLOPs of the updates ``[0, until)`` of ``total`` planned ones (all of them by default): see `TrainingCurve`."""
    return TrainingCurve(cost, tensors, recipes, total, samples_per_update).flops(total if until is None else until)
