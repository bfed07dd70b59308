"""Sparsity on a stock model: a parametrization for each of its weights, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from nmtrain.sparsity.control import SparseWeight, SparsityControl
from nmtrain.sparsity.mask import group_dim
from nmtrain.sparsity.rules import SparseTensor, SparsityRule, resolve_rules, stock_names


def sparsify_model(model: nn.Module, rules: Sequence[SparsityRule]) -> list[SparseTensor]:
    """Register a parametrization on every weight that the rules name; at first the target pattern is in force.

    Its masks are those of the weights as they are now. Training does not refresh them by itself:
    ``sparsity_control(model).update`` does, once per optimizer update. A parameter that several modules share stays
    shared. Raises ValueError as `resolve_rules` does, and for a model that is sparse already.
    """
    if any(isinstance(module, SparseWeight) for module in model.modules()):
        raise ValueError("the model is sparse already; call remove_sparsity before other rules")
    tensors = resolve_rules(model, rules)
    control = SparsityControl()
    parameters = stock_names(model)
    by_weight: dict[int, list[SparseTensor]] = {}
    for tensor in tensors:
        by_weight.setdefault(id(parameters[tensor.name]), []).append(tensor)
    for parts in by_weight.values():
        weight = parameters[parts[0].name]
        sparse = SparseWeight(weight, parts, control)
        places = [name.rpartition(".") for name, other in parameters.items() if other is weight]
        # Two names may also mean one module with two names: it gets one parametrization.
        for owner, attribute in dict.fromkeys((model.get_submodule(module), last) for module, _, last in places):
            parametrize.register_parametrization(owner, attribute, sparse)
        registered = cast(nn.ModuleDict, owner.parametrizations)[attribute]
        control.parametrizations.append((sparse, cast(parametrize.ParametrizationList, registered)))
    control.hooks = [
        model.register_forward_pre_hook(control.readings.begin),
        model.register_forward_hook(control.readings.end, always_call=True),
    ]
    return tensors


def sparsity_control(model: nn.Module) -> SparsityControl:
    """The control of a sparsified model; of a dense one, a control with nothing to do."""
    return next((m.control for m in model.modules() if isinstance(m, SparseWeight)), SparsityControl())


@torch.no_grad()
def remove_sparsity(model: nn.Module) -> None:
    """Bake the target's exact zeros into the weights, which are plain parameters again, by the stock model's keys.

    Where the target is in force, by the masks in force: the model computes what it did before. Elsewhere (a dense
    phase, D > 0, another pattern) the weights are ranked for it.
    """
    sparsity_control(model).bake()
    strip_sparsity(model)


def strip_sparsity(model: nn.Module) -> None:
    """Leave the dense weights as plain parameters; the state dict has the stock model's keys again."""
    for hook in sparsity_control(model).hooks:
        hook.remove()
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module):
            continue
        for attribute, registered in list(cast(nn.ModuleDict, module.parametrizations).items()):
            if isinstance(cast(nn.ModuleList, registered)[0], SparseWeight):
                # Deep copies share the class that parametrize made, and removing deletes the weight from it. Without a
                # class of its own for this one, the other copies would lose their weight.
                kind = type(module)
                module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)


@torch.no_grad()
def verify_sparsity(model: nn.Module, rules: Sequence[SparsityRule]) -> int:
    """Count the non-zero entries of every group that the rules ask for, in the weights that the forward uses.

    Returns:
        How many kept entries are exactly zero: what the groups with fewer than N non-zero entries lack, in all. A model
        that was sparser before has such.

    Raises:
        ValueError: naming tensor, group and count, where a group has more than N.
    """
    zeros = 0
    for tensor in resolve_rules(model, rules):
        module, _, attribute = tensor.name.rpartition(".")
        weight = tensor.part_of(getattr(model.get_submodule(module), attribute))
        dim = group_dim(tensor.axis)
        counts = weight.unflatten(dim, (-1, tensor.pattern.m)).count_nonzero(dim + 1)
        zeros += tensor.pattern.n * counts.numel() - int(counts.sum())
        wrong = (counts > tensor.pattern.n).nonzero()
        if len(wrong):
            group = tuple(wrong[0].tolist())
            raise ValueError(
                f"{tensor.label}: group {group} along the {tensor.axis} axis has {int(counts[group])} non-zero weights,"
                f" not {tensor.pattern.n} of {tensor.pattern.m}; {len(wrong)} of {counts.numel()} groups are off"
            )
    return zeros
