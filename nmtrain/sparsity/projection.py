"""What a recipe makes of kept and pruned entries beside keeping and cutting them: computed once per update."""

from __future__ import annotations

import torch
from torch import Tensor

from nmtrain.sparsity.mask import Axis, group_dim
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.selection import nth
from nmtrain.sparsity.sparsify import filled

_SOFTNESS = 0.01  # of MaxQ's soft masks, in units of the weights


def strongest_pruned(weight: Tensor, mask: Tensor, m: int, axis: Axis) -> Tensor:
    """The largest magnitude that the mask prunes in each group of ``m``, for every entry: the weight's shape."""
    dim = group_dim(axis)
    pruned = filled(weight.detach().abs(), mask, 0.0).unflatten(dim, (-1, m))
    return nth(pruned, 1, dim + 1).expand_as(pruned).flatten(dim, dim + 1)


def shrunk(weight: Tensor, strongest: Tensor, power: float, threshold: float) -> Tensor:
    """What is left of each entry's magnitude, a factor in [0, 1]: ``(1 - (threshold * t / |w|)^p)^(1/p)``.

    Args:
        strongest: t, see `strongest_pruned`.
    """
    share = (threshold * strongest / weight.detach().abs()).nan_to_num_(0.0).clamp_(max=1.0)  # of 0 / 0, t is 0 too
    if power == 1.0:
        return 1 - share
    return (1 - share.pow_(power)).pow_(1 / power)


def nearest_scale(weight: Tensor, projected: Tensor) -> Tensor:
    """The s for which ``s * projected`` is nearest to the weight (least squares), 0-dim; 1 where all is zero."""
    norm = projected.square().sum()
    return torch.where(norm > 0, (weight.detach() * projected).sum() / norm, 1.0)


def contending(weight: Tensor, strongest: Tensor, exponent: float) -> Tensor:
    """The share of the gradient that reaches an entry, in [0, 1]: ``min(1, |w| / t)^a``; 1 where t is 0."""
    return (weight.detach().abs() / strongest).nan_to_num_(1.0).clamp_(max=1.0).pow_(exponent)


def queried(weight: Tensor, pattern: NMPattern) -> Tensor:
    """MaxQ's ``1 + F + K`` (Xiang et al., 2023, equations 5 to 8), of the weight's shape.

    F asks of each entry whether it is among the N/M largest of its filter, K of a convolution's whether it is among
    those at its place in the kernel; the answers are soft, ``sigmoid((|w| - least) / 0.01)``.
    """
    size = weight.detach().abs()
    factor = 1 + _soft(size.flatten(1), pattern).view_as(size)
    if weight.dim() > 2:
        by_place = size.flatten(2).permute(2, 0, 1).flatten(1)  # [places, out * in]
        found = _soft(by_place, pattern).unflatten(1, size.shape[:2]).permute(1, 2, 0)
        factor += found.reshape(size.shape)
    return factor


def _soft(rows: Tensor, pattern: NMPattern) -> Tensor:
    kept = max(1, round(rows.shape[1] * pattern.density))
    least = rows.topk(kept, dim=1, sorted=False).values.amin(1, keepdim=True)
    return torch.sigmoid((rows - least) / _SOFTNESS)


def with_whole_groups(mask: Tensor, weight: Tensor, m: int, axis: Axis, share: float) -> Tensor:
    """The mask with a share of the groups kept whole: those with the largest sum of magnitudes."""
    dim = group_dim(axis)
    sums = weight.detach().abs().unflatten(dim, (-1, m)).sum(dim + 1, keepdim=True)
    return (mask.unflatten(dim, (-1, m)) | _largest(sums, round(share * sums.numel()))).flatten(dim, dim + 1)


def _largest(values: Tensor, count: int) -> Tensor:
    """Bool of the shape of ``values``: the ``count`` largest, the lower index first on a tie."""
    order = values.flatten().sort(descending=True, stable=True).indices
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    return chosen.index_fill_(0, order[:count], True).view_as(values)


def regrown(weight: Tensor, gradient: Tensor, mask: Tensor, pattern: NMPattern, axis: Axis, share: float) -> Tensor:
    """RigL's exchange inside groups: the mask after the weakest kept entries gave way to those of large gradient.

    In each group as many entries change as the tensor's weakest ``share`` of all kept entries has there, at most the
    number of its pruned ones; in come those of its pruned entries with the largest ``|gradient|``.
    """
    dim = group_dim(axis)
    size = weight.detach().abs()
    leaving = mask & _largest(-size.masked_fill(~mask, torch.inf), round(share * int(mask.sum())))
    grouped = leaving.unflatten(dim, (-1, pattern.m))
    count = grouped.sum(dim + 1, keepdim=True).clamp(max=pattern.m - pattern.n).expand_as(grouped).flatten(dim, dim + 1)
    # Where fewer can come in than would leave, the weakest of these leave.
    first_out = _ranks(-size.masked_fill(~leaving, torch.inf), pattern.m, dim)
    first_in = _ranks(gradient.detach().abs().masked_fill(mask, -1.0), pattern.m, dim)
    return (mask & ~(leaving & (first_out < count))) | (~mask & (first_in < count))


def _ranks(values: Tensor, m: int, dim: int) -> Tensor:
    """The place of each entry in its group, from 0 for the largest; the lower index first on a tie."""
    groups = values.unflatten(dim, (-1, m))
    return groups.argsort(dim=dim + 1, descending=True, stable=True).argsort(dim=dim + 1).flatten(dim, dim + 1)
