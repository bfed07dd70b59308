"""The model that ranks train together, each a whole copy of it: what is done so that the copies stay one model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nmtrain.config.check import Config
from nmtrain.config.schema import TrainConfig
from nmtrain.errors import ConfigError, TrainingError
from nmtrain.sparsity.rules import stock_name
from nmtrain.sparsity.shards import WHOLE, Shards
from nmtrain.training.distribution.ranks import ManyRanks, Ranks
from nmtrain.training.on_meta import has_idle_weights

logger = logging.getLogger(__name__)

# The option has another name since torch 2.14.
_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_LEAVE_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}
_AT_ONCE = 1 << 22  # entries whose hash is computed at once


class Replicas:
    """The model of a run for the one process that trains it: it computes with what it keeps.

    Args:
        model: on its device; its parameters and buffers are what is trained.
        forward: the same, compiled or not.

    Attributes:
        kept: the model whose parameters the optimizer moves.
        forward: what computes the loss.
        shards: what ``kept`` has of the stock model's weights.
    """

    shards: Shards = WHOLE

    def __init__(self, model: nn.Module, forward: nn.Module | None = None) -> None:
        self.kept = model
        self.forward = model if forward is None else forward

    def show(self) -> None:
        """Before the first forward of an update, masks made: let ``forward`` compute with what is kept now."""

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """What evaluates, with what is kept now."""
        yield self.forward

    def adding_up(self) -> AbstractContextManager[None]:
        """Around the forward and backward of a micro-batch that is not the last: gradients stay the rank's own."""
        return nullcontext()

    def settle(self) -> None:
        """After the last backward of an update: gradients are those of the whole batch; buffers become so."""

    def clip(self, most: float) -> Tensor:
        """Shrink the gradients to this norm in all; returns what it was."""
        return nn.utils.clip_grad_norm_(self.kept.parameters(), most)

    def require_same(self, tensors: dict[str, Tensor], done: int) -> None:
        """Raise TrainingError, naming the tensor and the ranks, where ranks do not have the same bits."""

    def whole_model(self) -> nn.Module:
        """The model with all rows of its weights, to be saved or exported by the first rank, which alone has them; all
        ranks call it."""
        return self.kept

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """That of `whole_model`, on the same terms."""
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take up what `optimizer_state` gave, whatever number of processes it was for."""
        optimizer.load_state_dict(state)


class ManyReplicas(Replicas):
    """What is the same wherever several ranks train one model. Statistics of batch norm are each rank's own in the
    forward, and averaged after each update, so that all evaluate, average and save the same ones."""

    def __init__(self, ranks: ManyRanks, model: nn.Module, forward: nn.Module | None = None) -> None:
        super().__init__(model, forward)
        self._ranks, self._group = ranks, ranks.gradients
        self._statistics = [
            buffer
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]

    @torch.no_grad()
    def settle(self) -> None:
        if self._statistics:
            flat = torch.cat([statistic.flatten() for statistic in self._statistics])
            dist.all_reduce(flat, group=self._group)
            flat /= self._ranks.world
            sizes = [statistic.numel() for statistic in self._statistics]
            for statistic, mean in zip(self._statistics, flat.split(sizes), strict=True):
                statistic.copy_(mean.view_as(statistic))

    def require_same(self, tensors: dict[str, Tensor], done: int) -> None:
        """See `Replicas.require_same`."""
        if not tensors:
            return
        own = torch.stack([position_hash(tensor) for tensor in tensors.values()]).cpu()
        found = torch.stack(self._ranks.gathered(own))
        differing = (found != found[0]).any(0).nonzero().flatten().tolist()
        if not differing:
            return
        names = [stock_name(list(tensors)[i]) for i in differing]
        others = (found != found[0])[:, differing[0]].nonzero().flatten().tolist()
        more = f" (nor are {len(names) - 1} more tensors)" if names[1:] else ""
        ranks = f"rank {others[0]}" if len(others) == 1 else f"ranks {', '.join(map(str, others))}"
        raise TrainingError(
            f"after update {done}, {names[0]} is not the same on {ranks} as on rank 0{more}; the last checkpoint is"
            " from before. A device that computes wrongly is the usual cause"
        )


class DataParallelReplicas(ManyReplicas):
    """By torch's `DistributedDataParallel`, which averages gradients over ranks while the backward goes on.

    It leaves buffers alone. Masks are the same on all ranks since weights are.
    """

    def __init__(self, ranks: ManyRanks, model: nn.Module, forward: nn.Module, config: Config) -> None:
        device = next(model.parameters()).device
        self._wrapped = DistributedDataParallel(
            forward,
            device_ids=[device] if device.type == "cuda" else None,
            process_group=ranks.gradients,
            gradient_as_bucket_view=True,
            find_unused_parameters=has_idle_weights(config),
            **_LEAVE_BUFFERS,
        )
        super().__init__(ranks, model, self._wrapped)
        self._compiled = forward
        self._settled = self._wrapped.find_unused_parameters

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Without the wrapper: ranks do not have equally many batches to score."""
        yield self._compiled

    @contextmanager
    def adding_up(self) -> Iterator[None]:
        with self._wrapped.no_sync():
            yield

    def settle(self) -> None:
        if not self._settled:
            self._require_gradients()
        super().settle()

    def _require_gradients(self) -> None:
        """Of the first update: unless it expects that, DDP averages nothing of a bucket with a gradient missing."""
        named = self.kept.named_parameters()
        if bare := [stock_name(name) for name, p in named if p.requires_grad and p.grad is None]:
            raise TrainingError(
                f"{len(bare)} weights have no gradient, first {bare[0]}; {self._ranks.world} processes train models"
                " whose forward always uses the same weights"
            )
        self._settled = True


def with_batch_norm(ranks: Ranks, model: nn.Module, train: TrainConfig, device: torch.device) -> nn.Module:
    """The model with batch norm over all ranks' samples where `train.sync_batchnorm` says so; else a warning.

    Raises:
        ConfigError: where torch has none.
    """
    has_any = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if train.sync_batchnorm and not has_any:
        raise ConfigError(["train.sync_batchnorm=true: has no effect on a model without batch norm"])
    if not isinstance(ranks, ManyRanks) or not has_any:
        return model
    if not train.sync_batchnorm:
        size = train.batch_size // train.micro_batches // ranks.world
        logger.warning(
            "%d processes: batch norm takes its statistics from the %d samples that each has of a micro-batch;"
            " train.sync_batchnorm=true takes them from all, on GPUs",
            *(ranks.world, size),
        )
        return model
    if device.type != "cuda":
        raise ConfigError(["train.sync_batchnorm=true: torch has it for CUDA devices alone; allowed here: false"])
    from timm.layers import convert_sync_batchnorm  # knows timm's own kinds of batch norm too

    return cast(nn.Module, convert_sync_batchnorm(model, ranks.gradients))


@torch.no_grad()
def position_hash(tensor: Tensor) -> Tensor:
    """An int64 on the tensor's device: another one, but for chance, where a bit differs or entries change places.

    Each entry's bits, as an integer, are multiplied by an odd number that depends on its place, and added up modulo
    2^64.
    """
    bits = _bits(tensor.detach())
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(bits), _AT_ONCE):
        piece = bits[start : start + _AT_ONCE].long()
        places = torch.arange(start, start + len(piece), device=tensor.device)
        total += ((piece + 1) * _scrambled(places)).sum()
    return total


def _bits(tensor: Tensor) -> Tensor:
    same_size = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().flatten().view(same_size[tensor.element_size()])


def _scrambled(places: Tensor) -> Tensor:
    """An odd number for each place (the multiplier of Knuth's MMIX)."""
    return (places * 6364136223846793005 + 1442695040888963407) | 1
