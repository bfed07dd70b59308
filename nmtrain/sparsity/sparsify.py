"""The one transform of the paper, ``W~ = W * (Phi + D * (1 - Phi))``, and its gradient rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nmtrain.sparsity.mask import Axis, nm_mask
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import GradientRule, transform_fault


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
        gradient: ``straight_through`` passes ``g``; ``masked`` passes ``g * (Phi + D * (1 - Phi))``; a number theta
            ``g * (Phi + theta * (1 - Phi))``.
        penalty: SR-STE's lambda; adds ``lambda * (1 - Phi) * W`` to the gradient, in each backward of each call.
            Training adds it once per optimizer update instead: `SparsityControl.add_penalty`.

    Returns:
        Tensor of the weight's shape and dtype.

    Raises:
        ValueError: as `nm_mask`, and for values of other kinds and out of their range; those of tensors are not looked
            at, for which a GPU would have to be waited for.
    """
    numbers = [0.0 if isinstance(number, Tensor) else number for number in (decay, penalty)]
    if fault := transform_fault(numbers[0], gradient, numbers[1]):
        raise ValueError(f"nm_sparsify: {fault}")
    mask = nm_mask(weight, pattern, axis)
    if not isinstance(gradient, str):
        return apply_mask(weight, mask, decay, gradient, penalty)
    # A copy: Dynamo does not trace a function that is given one tensor twice.
    reached = torch.as_tensor(decay).clone() if gradient == "masked" else None
    return apply_mask(weight, mask, decay, reached, penalty)


def apply_mask(
    weight: Tensor,
    mask: Tensor,
    decay: float | Tensor = 0.0,
    reached: float | Tensor | None = None,
    penalty: float | Tensor | None = None,
    factor: Tensor | None = None,
    value: Tensor | None = None,
) -> Tensor:
    """`nm_sparsify` with a mask at hand: bool, of the weight's shape. Tensors for decay and penalty are 0-dim.

    Args:
        reached: the share of the gradient that reaches a pruned entry, 0-dim; or that of each entry, of the weight's
            shape and 1 where the mask is. None is all.
        factor: what each entry is multiplied by, of the weight's shape and 1 where nothing is kept; the gradient passes
            by it.
        value: what came out for these arguments before: it is returned, with a gradient of its own and no computing.
    """
    scalars = [_like(weight, number) for number in (decay, reached, penalty)]
    return _ApplyMask.apply(weight, mask, *scalars, factor, value)


def _like(weight: Tensor, number: float | Tensor | None) -> Tensor | None:
    if number is None:
        return None
    if isinstance(number, Tensor) and number.dtype == weight.dtype and number.device == weight.device:
        return number  # to find that out costs less than a call
    return torch.as_tensor(number, dtype=weight.dtype, device=weight.device)


class _ApplyMask(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        mask: Tensor,
        decay: Tensor,
        reached: Tensor | None,
        penalty: Tensor | None,
        factor: Tensor | None,
        value: Tensor | None,
    ) -> Tensor:
        if reached is not None or penalty is not None:
            ctx.save_for_backward(mask, reached, penalty, None if penalty is None else weight)
        if value is not None:
            return value.detach()
        factors = _factors(mask, decay)
        if factor is not None:
            factors.mul_(factor)
        # A product, so that NaN and infinity stay visible when pruned; adding zero turns -0.0 into 0.0.
        if torch.compiler.is_compiling():  # inductor leaves out such an addition
            output = weight * factors
            return torch.where(output == 0, 0.0, output)
        return torch.addcmul(weight.new_zeros(()), weight, factors, out=factors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if not (saved := ctx.saved_tensors):  # straight-through
            return grad, None, None, None, None, None, None
        mask, reached, penalty, weight = saved
        own = grad
        if reached is not None:
            own = grad * reached if reached.dim() else _factors(mask, reached).mul_(grad)
        if penalty is not None:
            own = torch.where(mask, own, torch.addcmul(own, weight, penalty))
        return own, None, None, None, None, None, None


def pruned_part(weight: Tensor, mask: Tensor) -> Tensor:
    """``(1 - Phi) * W`` of finite W, without a gradient."""
    if weight.device.type != "cpu":
        return weight.masked_fill(mask, 0.0)
    return _numbers(~mask, weight.dtype).mul_(weight)


def filled(values: Tensor, where: Tensor, number: float) -> Tensor:
    """`masked_fill_` of finite values, by what is vectorised on a CPU."""
    if values.device.type != "cpu":
        return values.masked_fill_(where, number)
    values.mul_(_numbers(~where, values.dtype))
    return values.add_(_numbers(where, values.dtype), alpha=number) if number else values


def _numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 and 0; neither what reads bools nor `torch.where` is vectorised on a CPU."""
    return mask.view(torch.uint8).to(dtype)


def _factors(mask: Tensor, decay: Tensor) -> Tensor:
    """``Phi + D * (1 - Phi)``: exactly 1 where the mask is, exactly D elsewhere."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.where(mask, torch.ones_like(decay), decay)
    factors = _numbers(mask, decay.dtype)  # (1 - D) + D rounds to 1 for every D in [0, 1]
    return factors.mul_(1 - decay).add_(decay) if decay else factors
