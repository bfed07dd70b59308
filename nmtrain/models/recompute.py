"""Gradient checkpointing: of each block only the input is kept, and the backward computes the block again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm


def recompute_blocks(model: Any) -> list[_BatchNorm]:
    """Switch gradient checkpointing on, by the model's own means, those of timm or transformers.

    Returns:
        The layers to hand to `statistics_kept` around each backward.

    Raises:
        ValueError: for a model that has no such means.
    """
    if hasattr(model, "set_grad_checkpointing"):
        from timm.layers import set_reentrant_ckpt

        set_reentrant_ckpt(False)  # whatever the environment says: the other kind gives no gradient to a first block
        try:
            model.set_grad_checkpointing(True)
        except AssertionError as error:  # how timm refuses
            raise ValueError("has no gradient checkpointing in timm; leave it out") from error
    elif getattr(model, "supports_gradient_checkpointing", False):
        # The older name is deprecated since transformers 5.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    else:
        raise ValueError("has no gradient checkpointing; leave it out")
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def statistics_kept(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Inside, these layers leave their running statistics, which have seen the batch in the forward already."""
    before = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, momentum, count in before:
            layer.momentum, layer.num_batches_tracked = momentum, count
