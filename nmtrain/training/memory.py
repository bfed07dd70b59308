"""What training holds in memory at its peak, told from one forward on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from nmtrain.config.check import Config
from nmtrain.config.schema import LaunchConfig
from nmtrain.models.recompute import recompute_blocks
from nmtrain.sparsity import SparsityRule, sparsify_model
from nmtrain.training.optim import optimizer_bytes


def training_memory(
    config: Config, model: nn.Module, rules: list[SparsityRule], forward: Callable[[nn.Module], Any]
) -> tuple[dict[str, int], int]:
    """Bytes by what they are for, without what libraries and allocator add; fp32, no autocast.

    Args:
        model: the stock one, on the meta device; it stays as it is.
        forward: runs a model on one micro-batch.

    Returns:
        The bytes, and how many more activations there would be without gradient checkpointing.
    """
    model = deepcopy(model).train()
    sparsify_model(model, rules)
    weights = parameter_bytes(model)
    activations, by_module = _saved(model, forward)
    spared = 0
    if config.train.gradient_checkpointing:
        recompute_blocks(model)
        kept, still_by_module = _saved(model, forward)
        # The largest block is there too while the backward computes it again: of what saves nothing any more.
        kept += max((size for name, size in by_module.items() if still_by_module.get(name) == 0), default=0)
        spared, activations = activations - kept, kept
    return {
        "weights": weights,
        **({} if config.train.ema is None else {"average": weights}),
        "gradients": weights,
        "optimizer": optimizer_bytes(model, config.optim),
        "masks": sum(b.numel() for b in model.buffers() if b.dtype == torch.bool),
        "activations": activations,
    }, spared


def memory_of_each(memory: dict[str, int], launch: LaunchConfig) -> dict[str, int]:
    """The same for each of the processes that ``launch`` starts: of a batch each has its share, and of the weights and
    what belongs to them a copy (DDP) or its share (FSDP2, without what a block gathers while it computes)."""
    if launch.world == 1:
        return memory
    whole = () if launch.strategy == "ddp" else ("weights", "average", "gradients", "optimizer", "masks")
    shared = {name: -(-size // launch.world) for name, size in memory.items() if name in (*whole, "activations")}
    if launch.strategy == "fsdp":
        shared["sparse weights"] = 4 * shared["masks"]  # that it computes with, beside the dense ones below
    return memory | shared


def full_memory(error: Exception) -> str | None:
    """What torch says when the memory of a GPU is full, in plain words and with what to do; None of another error."""
    if not isinstance(error, torch.OutOfMemoryError):
        return None
    told = "; ".join(
        str(error).split(". ")[:3]
    )  # what it tried to take, and what the device has; no allocator's figures
    return (
        f"the memory of the GPU is full ({told}): raise train.micro_batches (the same update from smaller parts), lower"
        " train.eval_batch_size if it was full in an evaluation, or set train.precision=bf16 or"
        " train.gradient_checkpointing=true; --dry-run tells what training needs"
    )


def parameter_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _saved(model: nn.Module, forward: Callable[[nn.Module], Any]) -> tuple[int, dict[str, int]]:
    """Bytes that one forward saves for its backward, and what each module that it calls adds to them in one call."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that addresses stay theirs
    total = 0
    by_module: dict[str, int] = {}
    begun: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in storages:
            storages[storage._cdata] = storage
            total += storage.nbytes()
        return tensor

    def ended(name: str) -> None:
        by_module[name] = max(by_module.get(name, 0), total - begun.pop())

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_: begun.append(total)))
        hooks.append(module.register_forward_hook(lambda *_, name=name: ended(name)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(model)
    for hook in hooks:
        hook.remove()
    return total, by_module
