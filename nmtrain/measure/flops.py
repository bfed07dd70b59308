"""What a forward and a whole training cost on hardware that skips every pruned weight (method, section 7)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nmtrain.recipes import Recipe
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityState
from nmtrain.sparsity.rules import stock_names


@dataclass(frozen=True)
class ForwardCost:
    """Multiply-accumulates (MAC) of one dense forward, per sample.

    Attributes:
        total: of all matmuls and convolutions, attention products included.
        tensors: of each sparse tensor, by `SparseTensor.label`; part of ``total``.
    """

    total: float
    tensors: dict[str, float]


def forward_cost(
    model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any], tensors: Sequence[SparseTensor], samples: int
) -> ForwardCost:
    """Run the model once, in eval mode and without gradients, and count what its matmuls and convolutions multiply.

    Free of charge on the meta device. The model may be stock or sparsified, and is left as it was.

    Args:
        inputs: positional arguments, or keyword arguments by name.
        tensors: those to count one by one; a slice of a fused matrix gets its share of the rows, a weight that
            several modules share the cost of all its uses.
        samples: how many samples ``inputs`` holds. Work that a batch shares (SwinV2's table of position biases) is
            divided among them, so give the batch that trains where that matters.

    Raises:
        ValueError: naming the tensors that the model has not, or that no matmul of this forward used.
    """
    weights = stock_names(model)
    if absent := [tensor.label for tensor in tensors if tensor.name not in weights]:
        raise ValueError(f"the model has no weights {absent}. Available: {sorted(weights)}")
    training = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    # The counter does not know the CPU's fused attention nor the fast path of nn.MultiheadAttention: plain matmuls do.
    # A parametrization makes a new tensor at each use; while cached it makes the same one, which can be recognised.
    with torch.no_grad(), parametrize.cached(), sdpa_kernel(SDPBackend.MATH):
        by_weight = _CostByWeight(counter, model, {id(weights[tensor.name]) for tensor in tensors})
        try:
            model.eval()
            torch.backends.mha.set_fastpath_enabled(False)
            with counter, by_weight:
                model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for module, mode in training:
                module.training = mode
    if unused := [tensor.label for tensor in tensors if not by_weight.flops[id(weights[tensor.name])]]:
        raise ValueError(f"no matmul or convolution of this forward used {unused}; give inputs that reach them")
    macs = {}
    for tensor in tensors:
        weight = weights[tensor.name]
        flops = by_weight.flops[id(weight)] * Fraction(tensor.shape[0], weight.shape[0])
        macs[tensor.label] = float(flops / (2 * samples))
    return ForwardCost(float(Fraction(counter.get_total_flops(), 2 * samples)), macs)


class _CostByWeight(TorchDispatchMode):
    """Sums, for each of some weights, what ``counter`` (entered before this) counts for operations that read it.

    Operations are recognised by the storage of their arguments, which views share. Hooks on modules would miss a model
    that hands ``self.qkv.weight`` to `torch.nn.functional.linear` itself, as timm's SwinV2 does.
    """

    def __init__(self, counter: FlopCounterMode, model: nn.Module, parameters: set[int]) -> None:
        super().__init__()
        self.counter = counter
        self.flops = dict.fromkeys(parameters, 0)
        self.storages: list[tuple[torch.UntypedStorage, int]] = []  # held, so that ids stay theirs
        for name, parameter in stock_names(model).items():
            if id(parameter) in parameters:
                module, _, attribute = name.rpartition(".")
                weight: Tensor = getattr(model.get_submodule(module), attribute)
                self.storages.append((weight.untyped_storage(), id(parameter)))
        self.parameter_of = {id(storage): parameter for storage, parameter in self.storages}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        if counted := self.counter.get_total_flops() - before:
            read = {id(arg.untyped_storage()) for arg in (*args, *(kwargs or {}).values()) if isinstance(arg, Tensor)}
            for storage in read & self.parameter_of.keys():
                self.flops[self.parameter_of[storage]] += counted
        return result


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

    Each of the three costs as much as the forward, dense; ``states`` (by target) say what is skipped. The optimizer's
    own element-wise work and the search for masks are not matmuls and do not count, nor does recomputing activations.
    """
    return float(2 * samples * _update_macs(cost, tensors, states))


def _update_macs(
    cost: ForwardCost, tensors: Sequence[SparseTensor], states: Mapping[NMPattern, SparsityState]
) -> Fraction:
    """Of one sample. Exact, so that sums over updates and products over phases agree to the last digit."""
    macs = 3 * Fraction(cost.total)
    for tensor in tensors:
        macs -= (3 - _forwards(tensor, states[tensor.pattern])) * Fraction(cost.tensors[tensor.label])
    return macs


def _forwards(tensor: SparseTensor, state: SparsityState) -> Fraction:
    """The cost of the tensor's three matmuls in one update, in dense forwards."""
    if state.pattern is None or not state.strict:
        return Fraction(3)
    density = _density(tensor.fit(state.pattern, state.exact))
    dense_weight_gradient = state.gradient == "straight_through" or state.penalty > 0
    return 2 * density + (1 if dense_weight_gradient else density)


def _density(pattern: NMPattern) -> Fraction:
    return Fraction(pattern.n, pattern.m)


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
        self.starts = sorted({0, *(first for recipe in recipes.values() for first, _ in recipe.phases(total))})
        self._per_sample: list[Fraction] = []
        self._before: list[Fraction] = []
        spent = Fraction(0)
        for start, end in zip(self.starts, [*self.starts[1:], total], strict=True):
            states = {target: recipe.at(start, total) for target, recipe in recipes.items()}
            self._before.append(spent)
            self._per_sample.append(2 * _update_macs(cost, tensors, states))
            spent += (self._samples[end] - self._samples[start]) * self._per_sample[-1]

    def flops(self, until: int) -> float:
        """FLOPs of the updates ``[0, until)``."""
        if not 0 <= until <= self.total:
            raise ValueError(f"update {until} is outside the {self.total} planned updates")
        phase = bisect_right(self.starts, until) - 1
        return float(self._before[phase] + self._within(phase, until))

    def phase_flops(self, until: int) -> tuple[int, float]:
        """The phase of the last of the updates ``[0, until)``, from 0, and the FLOPs spent in it until then."""
        phase = bisect_right(self.starts, max(0, until - 1)) - 1
        return phase, float(self._within(phase, until))

    def _within(self, phase: int, until: int) -> Fraction:
        return (self._samples[until] - self._samples[self.starts[phase]]) * self._per_sample[phase]


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
