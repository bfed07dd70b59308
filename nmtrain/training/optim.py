"""Optimizers and the learning rate as a pure function of the update number."""

from __future__ import annotations

import math

import torch
from torch import nn

from nmtrain.config import AdamWConfig, SGDConfig


def build_optimizer(model: nn.Module, config: AdamWConfig | SGDConfig) -> torch.optim.Optimizer:
    """torch's fused AdamW or SGD. Weight decay acts on matrices and convolutions, not on vectors or embeddings.

    Embeddings are what the model itself lists in ``no_weight_decay()``, as timm's models do.
    """
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (rest if parameter.dim() < 2 or name in spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if isinstance(config, AdamWConfig):
        betas = (config.betas[0], config.betas[1])
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def learning_rate(config: AdamWConfig | SGDConfig, update: int, total: int) -> float:
    """Linear warm-up from ``final_lr`` to ``lr``, then a cosine down to ``final_lr`` at ``total``."""
    warmup = round(config.warmup_fraction * total)
    if update < warmup:
        return config.final_lr + (config.lr - config.final_lr) * (update + 1) / warmup
    progress = (update - warmup) / max(1, total - warmup)
    return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
