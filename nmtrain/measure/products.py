"""The matmuls and convolutions of one forward, counted one by one, and the weights that they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nmtrain.sparsity.rules import stock_names


def count_products(
    model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any], training: bool = False
) -> ProductCounter:
    """Run the model once on ``inputs`` and count; the model is left as it was.

    Args:
        inputs: positional arguments, or keyword arguments by name.
        training: run it in train mode and count gradients; else in eval mode, where nothing needs one.
    """
    # A parametrization makes a new tensor at each use; while cached it makes the same one, which can be recognised.
    # No formula knows the CPU's fused attention; plain matmuls do the same work. In inference mode a matmul arrives as
    # an operation of its own, which no formula knows either.
    with (
        _mode(model, training),
        torch.inference_mode(False),
        torch.set_grad_enabled(training),
        parametrize.cached(),
        sdpa_kernel(SDPBackend.MATH),
        ProductCounter(model) as counter,
    ):
        model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    return counter


class ProductCounter(TorchDispatchMode):
    """Counts the multiply-accumulates (MAC) of every matmul and convolution that runs inside.

    Weights are recognised by the storage of what a product reads, which views share. Hooks on modules would miss a
    model that hands ``self.qkv.weight`` to `torch.nn.functional.linear` itself, as timm's SwinV2 does, and would
    wrongly count a convolution that multiplies by a standardised copy of its weight.

    Attributes:
        total: MAC of all products.
        gradients: MAC of the gradients that a backward would compute: as much as the product itself for each of its
            two operands that needs one.
        by_weight: MAC of the products that read a weight, by the weight's name or names in the stock model. A weight
            that no product reads has no entry.
        input_gradients: MAC of the gradients of what those weights are multiplied by.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.total = self.gradients = 0
        self.by_weight: dict[str, int] = {}
        self.input_gradients: dict[str, int] = {}
        names: dict[int, list[str]] = {}  # of each parameter, which modules may share
        for name, parameter in stock_names(model).items():
            names.setdefault(id(parameter), []).append(name)
        self._held: list[torch.UntypedStorage] = []  # so that ids stay theirs
        self._names: dict[int, list[str]] = {}
        for name, parameter in stock_names(model).items():
            module, _, attribute = name.rpartition(".")
            storage = getattr(model.get_submodule(module), attribute).untyped_storage()
            self._held.append(storage)
            self._names[id(storage)] = names[id(parameter)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            return result
        macs = formula(*args, **kwargs, out_val=result) // 2
        first = 1 if func._overloadpacket.__name__ in ("addmm", "baddbmm") else 0  # there what is added comes first
        operands: list[Tensor] = list(args[first : first + 2])
        needs = [torch.is_grad_enabled() and operand.requires_grad for operand in operands]
        self.total += macs
        self.gradients += sum(needs) * macs
        for operand, other_needs in zip(operands, reversed(needs), strict=True):
            for name in self._names.get(id(operand.untyped_storage()), ()):
                self.by_weight[name] = self.by_weight.get(name, 0) + macs
                self.input_gradients[name] = self.input_gradients.get(name, 0) + other_needs * macs
        return result


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in train or eval mode for one forward that leaves no trace in it, nor in the random generators."""
    modules: list[Any] = list(model.modules())
    modes = [(module, module.training) for module in modules]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    # LayerDrop skips layers at random. A cost that depends on the layers drawn would be a random one: all are counted.
    skipping = [(module, module.layerdrop) for module in modules if hasattr(module, "layerdrop")]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        model.train(training)
        for module in modules:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # multiplies nothing, and cannot train on the one sample that may be enough for a count
        for module, _ in skipping:
            module.layerdrop = 0.0
        torch.backends.mha.set_fastpath_enabled(False)  # of nn.MultiheadAttention in eval mode: no formula knows it
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in modes:
            module.training = mode
        for module, layerdrop in skipping:
            module.layerdrop = layerdrop
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
