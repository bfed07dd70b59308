"""Which samples of an update's batch are a rank's: the global batch is what the config says, whoever shares it."""

from __future__ import annotations

import torch
from torch import Tensor

from nmtrain.config.schema import TrainConfig


def share(train: TrainConfig, rank: int, world: int) -> Tensor:
    """The places, in an update's batch, of the samples of one rank: int64 ``[batch_size / world]``, its micro-batches
    one after the other.

    A rank has an equal run of each micro-batch: one process with ``world`` times as many micro-batches has the same
    runs. Where images are mixed, timm mixes the one at a place with that at the same place from the end, so that a rank
    has both.
    """
    size = train.batch_size // world
    if train.mixes:
        half = torch.arange(rank * size // 2, (rank + 1) * size // 2)
        return torch.cat([half, train.batch_size - 1 - half.flip(0)])
    parts = torch.arange(train.batch_size).view(train.micro_batches, world, -1)
    return parts[:, rank].flatten()
