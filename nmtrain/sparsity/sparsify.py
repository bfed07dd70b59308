"""The one transform of the paper, ``W~ = W * (Phi + D * (1 - Phi))``, and its gradient rules."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from nmtrain.sparsity.mask import Axis, nm_mask
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import GradientRule


def nm_sparsify(
    weight: Tensor,
    pattern: NMPattern | str,
    axis: Axis = "input",
    decay: float | Tensor = 0.0,
    gradient: GradientRule = "straight_through",
    penalty: float | Tensor = 0.0,
) -> Tensor:
    """Sparsify a weight to N:M, differentiably (Progressive Gradient Flow, section 3; SR-STE, equation 8).

    Args:
        weight: ``[out, in]`` or ``[out, in/groups, *kernel]``.
        pattern: N:M; M must divide the axis.
        axis: ``input`` or ``output``, see `nm_mask`.
        decay: D in [0, 1], what is left of pruned entries; 0 is strict N:M.
        gradient: ``straight_through`` passes ``g``; ``masked`` passes ``g * (Phi + D * (1 - Phi))``.
        penalty: SR-STE's lambda; adds ``lambda * (1 - Phi) * W`` to the gradient, in each backward of each call.
            Training adds it once per optimizer update instead: `SparsityControl.add_penalty`.

    Returns:
        Tensor of the weight's shape and dtype.
    """
    return apply_mask(weight, nm_mask(weight, pattern, axis), decay, gradient, penalty)


def apply_mask(
    weight: Tensor,
    mask: Tensor,
    decay: float | Tensor = 0.0,
    gradient: GradientRule = "straight_through",
    penalty: float | Tensor | None = None,
    value: Tensor | None = None,
) -> Tensor:
    """`nm_sparsify` with a mask at hand: bool, of the weight's shape. Decay and penalty may be 0-dim tensors.

    ``value`` is what came out for these arguments before: it is returned, with a gradient of its own and no computing.
    """
    if gradient not in get_args(GradientRule):
        raise ValueError(f"gradient rule {gradient!r} is unknown. Available: {list(get_args(GradientRule))}")
    decay = torch.as_tensor(decay, dtype=weight.dtype, device=weight.device)
    if penalty is not None:
        penalty = torch.as_tensor(penalty, dtype=weight.dtype, device=weight.device)
    return _ApplyMask.apply(weight, mask, decay, penalty, gradient == "masked", value)


class _ApplyMask(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        mask: Tensor,
        decay: Tensor,
        penalty: Tensor | None,
        masked: bool,
        value: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(mask, decay, *(() if penalty is None else (penalty, weight)))
        ctx.masked = masked
        if value is not None:
            return value.detach()
        output = _factors(mask, decay).mul_(weight)  # a product, so that NaN and infinity stay visible when pruned
        if torch.compiler.is_compiling():
            return torch.where(output == 0, 0.0, output)  # inductor leaves out the addition below
        return output.add_(0.0)  # -0.0 becomes 0.0

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mask, decay, *penalised = ctx.saved_tensors
        (grad,) = grads
        own = _factors(mask, decay).mul_(grad) if ctx.masked else grad
        if penalised:
            penalty, weight = penalised
            own = torch.where(mask, own, torch.addcmul(own, weight, penalty))
        return own, None, None, None, None, None


def _factors(mask: Tensor, decay: Tensor) -> Tensor:
    """``Phi + D * (1 - Phi)``: exactly 1 where the mask is, exactly D elsewhere."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(mask, torch.ones_like(decay), decay)
    # Neither torch.where nor what reads bools is vectorised on a CPU. (1 - D) + D rounds to 1 for every D in [0, 1].
    factors = mask.view(torch.uint8).to(decay.dtype)
    return factors.mul_(1 - decay).add_(decay) if decay else factors
