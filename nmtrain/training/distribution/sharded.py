"""A model whose weights the ranks share: each keeps its rows of every weight, and all else that is kept of them.

The model computes by torch's FSDP2, which gathers the weights of a block for as long as it takes and leaves to each
rank the gradients of its rows. What it computes with are sparse weights, of which each rank makes its own rows; the
dense ones below, masks and moments never leave the rank that keeps them, but to be saved, and where rows that others
keep have a say in a mask.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from nmtrain.errors import ConfigError
from nmtrain.measure.depth import blocks
from nmtrain.sparsity import sparsity_control
from nmtrain.sparsity.apply import strip_sparsity
from nmtrain.sparsity.rules import stock_names
from nmtrain.sparsity.shards import WHOLE, RowShards
from nmtrain.training.distribution.ranks import ManyRanks
from nmtrain.training.distribution.replicas import ManyReplicas


class ShardedReplicas(ManyReplicas):
    """See the module's text.

    Args:
        model: sparsified or dense, whole, on its device. It becomes what computes, with plain parameters.

    Raises:
        ConfigError: where FSDP2 cannot wrap it.
    """

    def __init__(self, ranks: ManyRanks, model: nn.Module) -> None:
        super().__init__(ranks, model)
        self.kept = copy.deepcopy(model)
        strip_sparsity(model)
        names = stock_names(model)
        shard_model(model, self._group)
        lengths = {name: len(parameter) for name, parameter in names.items()}
        self.shards = RowShards(lengths, ranks.rank, ranks.world, self._group)
        self._parts = [module for module in model.modules() if isinstance(module, FSDPModule)]  # the root comes first

        computing = dict(cast(Iterator[tuple[str, DTensor]], model.named_parameters(remove_duplicate=False)))
        control = sparsity_control(self.kept)
        control.hold(self.shards, lambda tensor, mask: self.shards.own(mask, tensor.name, tensor.rows).clone())
        self._sparse = [
            (owner, weight, computing[weight.tensors[0].name]) for weight, owner in control.parametrizations
        ]
        sparse = {id(weight) for weight, _ in control.sparse_rows}
        self._dense: list[tuple[nn.Parameter, DTensor]] = []
        for name, parameter in _distinct(self.kept):
            local = computing[name].to_local().detach()
            parameter.data = local.clone() if id(parameter) in sparse else local
            if id(parameter) not in sparse:
                self._dense.append((parameter, computing[name]))
        for name, module in model.named_modules():
            self.kept.get_submodule(name)._buffers.update(module._buffers)

    @torch.no_grad()
    def show(self) -> None:
        for owner, weight, computing in self._sparse:
            computing.to_local().copy_(weight(owner.original))

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Inside, each rank has the whole model and waits for no other: they have batches of their own to score."""
        self.show()
        for part in self._parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield self.forward
        finally:
            for part in self._parts:
                part.reshard()
                part.set_reshard_after_forward(True, recurse=False)

    def settle(self) -> None:
        super().settle()
        for parameter, computing in self._dense:
            parameter.grad = None if computing.grad is None else cast(DTensor, computing.grad).to_local()
            computing.grad = None
        for owner, weight, computing in self._sparse:
            if computing.grad is not None:
                gradient, computing.grad = cast(DTensor, computing.grad).to_local(), None
                weight(owner.original).backward(gradient)  # by the rule of the recipe, of the rows that are kept here

    @torch.no_grad()
    def clip(self, most: float) -> Tensor:
        parameters = list(self.kept.parameters())
        own = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = self.shards.summed(own.double().square()).sqrt().float()
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return norm

    def require_same(self, tensors: dict[str, Tensor], done: int) -> None:
        """Of what all ranks have: the buffers that are no masks."""
        names = {name for name, _ in self.forward.named_buffers()}
        super().require_same({name: tensor for name, tensor in tensors.items() if name in names}, done)

    def whole_model(self) -> nn.Module:
        whole = copy.deepcopy(self.kept)
        for name, parameter in _distinct(whole):
            parameter.data = self.shards.for_first(parameter.data, name)
        control = sparsity_control(whole)
        control.hold(WHOLE, lambda tensor, value: self.shards.for_first(value, tensor.name, tensor.rows))
        control.remembered = {label: left.cpu() for label, left in control.remembered.items()}
        return whole.cpu()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return self._changed(optimizer, optimizer.state_dict(), self.shards.for_first)

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        own = self._changed(optimizer, state, lambda whole, name: self.shards.own(whole, name).clone())
        optimizer.load_state_dict(own)

    def _changed(self, optimizer: torch.optim.Optimizer, state: dict[str, Any], change: Any) -> dict[str, Any]:
        """The state with what ``change`` makes of each moment; a count of updates is no moment."""
        names = {id(parameter): name for name, parameter in _distinct(self.kept)}
        order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        moments = {
            number: {
                key: change(value, order[number]) if isinstance(value, Tensor) and value.dim() else value
                for key, value in of_one.items()
            }
            for number, of_one in sorted(state["state"].items())
        }
        return state | {"state": moments}


def _distinct(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter by the first of its names in the stock model."""
    seen: set[int] = set()
    for name, parameter in stock_names(model).items():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield name, cast(nn.Parameter, parameter)


def shard_model(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Wrap each block by itself, and together what lies outside of them.

    Raises:
        ConfigError: where FSDP2 cannot.
    """
    mesh = DeviceMesh.from_group(group, next(model.parameters()).device.type)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    found = [model.get_submodule(name) for name in blocks(model)]
    for block in found:
        block.register_forward_hook(_without_views)
    try:
        for module in [*found, model]:
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    except (ValueError, NotImplementedError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"launch.strategy=fsdp: FSDP2 cannot wrap this model ({reason}); allowed: ddp"]) from error


def _without_views(block: nn.Module, inputs: Any, output: Any) -> Any:
    """FSDP2 gathers the weights again by a hook on a block's output, which a view loses to whoever adds to it in place:
    gradients would be wrong without a word."""
    return tree_map_only(Tensor, lambda tensor: tensor.clone() if tensor._is_view() else tensor, output)
