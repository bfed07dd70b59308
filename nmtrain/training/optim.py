"""Optimizers and the learning rate as a pure function of the update number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import nn

from nmtrain.config.schema import AdafactorConfig, AdamWConfig, OptimConfig
from nmtrain.sparsity.rules import stock_name, stock_names
from nmtrain.training.layer_decay import layer_scales


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """torch's own AdamW, SGD (both fused) or Adafactor.

    Weight decay acts on matrices and convolutions, not on vectors or embeddings: those of `torch.nn.Embedding`, and
    what the model itself lists in ``no_weight_decay()``, as timm's models do. It acts on the same weights of a dense
    and of a sparsified model. With ``layer_decay`` each layer has groups of its own, whose ``lr_scale`` multiplies the
    rate.

    Raises:
        ValueError: as `layer_scales`.
    """
    spared = _spared(model)
    scales = {} if config.layer_decay is None else layer_scales(model, config.layer_decay)
    found: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        decays = parameter.dim() >= 2 and id(parameter) not in spared
        found.setdefault((scales.get(stock_name(name), 1.0), decays), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0}
        | ({"lr_scale": scale} if scales else {})
        for (scale, decays), parameters in found.items()
    ]
    if isinstance(config, AdamWConfig):
        betas = (config.betas[0], config.betas[1])
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
    if isinstance(config, AdafactorConfig):
        return torch.optim.Adafactor(groups, lr=config.lr, beta2_decay=config.beta2_decay, d=config.clip_update)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def _spared(model: nn.Module) -> set[int]:
    """The ids of embeddings, by whichever of their names in the stock model: a parametrization renames its weight."""
    listed = [stock_name(name) for name in getattr(model, "no_weight_decay", set)()]
    listed += [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    return {
        id(parameter)
        for name, parameter in stock_names(model).items()
        if any(fnmatchcase(name, pattern) for pattern in listed)  # timm's lists hold wildcards
    }


def learning_rate(config: OptimConfig, update: int, total: int) -> float:
    """Linear warm-up from ``final_lr`` to ``lr``, then ``schedule``.

    ``cosine`` and ``linear`` go down to ``final_lr`` at ``total``; ``constant`` stays; ``wsd`` (warm-up, stable, decay)
    stays, and goes down linearly to ``final_lr`` over the last ``cooldown_fraction`` of all updates;
    ``inverse_sqrt`` falls with the square root of the update number, from ``lr`` at the end of the warm-up, and not
    below ``final_lr``. Adafactor never exceeds one over the square root of the update number.
    """
    warmup = round(config.warmup_fraction * total)
    if isinstance(config, AdafactorConfig):  # torch's own limit, so that the rate in the records is the one applied
        return min(_scheduled(config, update, total, warmup), 1 / math.sqrt(update + 1))
    return _scheduled(config, update, total, warmup)


def _scheduled(config: OptimConfig, update: int, total: int, warmup: int) -> float:
    if update < warmup:
        return config.final_lr + (config.lr - config.final_lr) * (update + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "inverse_sqrt":
        return max(config.final_lr, config.lr * math.sqrt(max(1, warmup) / max(1, update)))
    start = total - round(config.cooldown_fraction * total) if config.schedule == "wsd" else warmup
    progress = max(0, update - start) / max(1, total - start)
    remaining = 1 - progress if config.schedule in ("linear", "wsd") else (1 + math.cos(math.pi * progress)) / 2
    return config.final_lr + (config.lr - config.final_lr) * remaining


def optimizer_bytes(model: nn.Module, config: OptimConfig) -> int:
    """What the optimizer keeps of an fp32 model."""
    if isinstance(config, AdafactorConfig):  # the rows and columns of matrices, all of vectors
        shapes = [p.shape for p in model.parameters()]
        return 4 * sum(prod(s[:-1]) + prod(s[:-2]) * s[-1] if len(s) > 1 else prod(s) for s in shapes)
    copies = 2 if isinstance(config, AdamWConfig) else 1 if config.momentum else 0
    return 4 * copies * sum(p.numel() for p in model.parameters())


@torch.no_grad()
def take_step(optimizer: torch.optim.Optimizer, held: Mapping[nn.Parameter, Sequence[slice]]) -> None:
    """One step of the optimizer, and for ``held`` one of AdamW whose second moment stays what it was (STEP, Lu et al.,
    2023): ``w -= lr * m_hat / (sqrt(v_hat) + eps)``, v_hat with the bias correction of its last update.

    The number of that update is kept as ``held_at`` beside the moments, so a checkpoint has it. What has no gradient,
    since the forward skipped its layer (LayerDrop), stays as it is, as in torch's own step.

    Args:
        held: weights, each with the rows whose second moment goes on: of a fused matrix, those that are not sparse.
    """
    # Without a step there is nothing to hold.
    with_gradient = [(weight, weight.grad) for weight in held if weight.grad is not None and optimizer.state[weight]]
    weights = [weight for weight, _ in with_gradient]
    for weight in weights:
        weight.grad = None  # the optimizer leaves out what has no gradient
    if isinstance(optimizer, torch.optim.SGD):
        _begin_momentum(optimizer)
    optimizer.step()
    if not weights:
        return
    groups = {id(weight): group for group in optimizer.param_groups for weight in group["params"]}
    for weight in weights:
        optimizer.state[weight].setdefault("held_at", optimizer.state[weight]["step"].clone())
        optimizer.state[weight]["step"] += 1
    # The one wait for the device.
    unbiased = torch.stack(
        [1 - groups[id(weight)]["betas"][0] ** optimizer.state[weight]["step"] for weight in weights]
    )
    for (weight, gradient), correction in zip(with_gradient, unbiased.tolist(), strict=True):
        weight.grad = gradient
        state, group = optimizer.state[weight], groups[id(weight)]
        (beta1, beta2), rate = group["betas"], group["lr"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        variance = state["exp_avg_sq"] / (1 - beta2 ** state["held_at"])
        for rows in held[weight]:
            state["exp_avg_sq"][rows].lerp_(gradient[rows].square(), 1 - beta2)
            variance[rows] = state["exp_avg_sq"][rows] / (1 - beta2 ** state["step"].double())
        size = variance.sqrt_().add_(group["eps"])
        weight.mul_(1 - rate * group["weight_decay"])
        weight.addcdiv_(state["exp_avg"], size, value=-rate / correction)


def _begin_momentum(optimizer: torch.optim.SGD) -> None:
    """Momentum of 0 for weights whose first gradient comes later than that of others: torch's fused step needs it."""
    for group in optimizer.param_groups:
        moved = [weight for weight in group["params"] if weight.grad is not None]
        new = [weight for weight in moved if optimizer.state[weight].get("momentum_buffer") is None]
        if len(new) < len(moved):
            for weight in new:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_scale", 1.0)
