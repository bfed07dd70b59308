"""How the ranks of a run train its model together: `launch.strategy`."""

from __future__ import annotations

from torch import nn

from nmtrain.config.check import Config
from nmtrain.training.distribution.ranks import ManyRanks, Ranks
from nmtrain.training.distribution.replicas import DataParallelReplicas, Replicas
from nmtrain.training.distribution.sharded import ShardedReplicas


def replicas(ranks: Ranks, model: nn.Module, forward: nn.Module, config: Config) -> Replicas:
    """How ``ranks`` train ``model``; ``forward`` is the same one, compiled or not.

    Raises:
        ConfigError: where `launch.strategy` cannot.
    """
    if not isinstance(ranks, ManyRanks):
        return Replicas(model, forward)
    if config.launch.strategy == "fsdp":
        return ShardedReplicas(ranks, model)
    return DataParallelReplicas(ranks, model, forward, config)
