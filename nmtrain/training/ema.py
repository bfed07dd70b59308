"""An exponential moving average of the weights, kept beside training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nmtrain.sparsity.rules import stock_name
from nmtrain.sparsity.shards import WHOLE, Shards


class WeightAverage:
    """``average = decay * average + (1 - decay) * weight`` after each update, from the weights before the first.

    Over all parameters, of sparse weights the dense ones below, and over the float buffers that a state dict has (the
    statistics of batch norm), as timm's ModelEmaV3 does. The decay is constant: an average over about
    ``1 / (1 - decay)`` updates, in which the first weights count ``decay ** updates``.

    Args:
        model: on its device, its weights those that training starts from.
        decay: in (0, 1).
        shards: what the model's weights are of the stock model's.
    """

    def __init__(self, model: nn.Module, decay: float, shards: Shards = WHOLE) -> None:
        persistent = model.state_dict(keep_vars=True)
        buffers = {name: b for name, b in model.named_buffers() if name in persistent and b.is_floating_point()}
        self._live = {name: tensor.detach() for name, tensor in (dict(model.named_parameters()) | buffers).items()}
        self._average = {name: tensor.clone() for name, tensor in self._live.items()}
        self._decay = decay
        self._shards, self._buffers = shards, buffers.keys()

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are. Call once per optimizer update, after its step."""
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; masks, and what recipes derive from weights, stay as they are."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Values change places, and tensors do not: a compiled model knows them by their address."""
        for name, average in self._average.items():
            held = average.clone()
            average.copy_(self._live[name])
            self._live[name].copy_(held)

    def state_dict(self) -> dict[str, Tensor]:
        """Of whole weights, whatever of them is kept here; on the first process, if several share them."""
        return {
            name: average if name in self._buffers else self._shards.for_first(average, stock_name(name))
            for name, average in self._average.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, average in self._average.items():
            whole = state[name]
            average.copy_(whole if name in self._buffers else self._shards.own(whole, stock_name(name)))
