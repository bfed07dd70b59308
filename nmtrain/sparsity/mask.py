"""Which N entries of every group of M are kept: the ones of largest magnitude, the lower index first on a tie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from nmtrain.sparsity.compiled import compiled
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.selection import is_eager_cpu, nth

Axis = Literal["input", "output"]

# Entries handled at once. On a CPU a piece and what is made from it stay in the cache (measured with
# scripts/bench_step.py: 2**19 beats 2**17 and the whole tensor); elsewhere a piece only bounds the peak memory.
_CPU_PIECE = 2**19
_DEVICE_PIECE = 2**26
# On a CPU it pays to bring weights together up to this size, up to which calling an operation costs more than what it
# does to the entries, and from this number on of entries to find, with which the operations become many.
_SMALL = 2**17
_MANY = 3
_COMPILED = 2**22  # from here on a GPU gains more than the seconds that a kernel takes to make
_COUNTED = 2**24  # the largest number that float32 counts up to


def group_dim(axis: Axis) -> int:
    """The dimension that groups run along: 1 (``input``) or 0 (``output``), for linear and conv weights alike."""
    if axis not in get_args(Axis):
        raise ValueError(f"axis {axis!r} is unknown. Available: {list(get_args(Axis))}")
    return 1 if axis == "input" else 0


def nm_mask(weight: Tensor, pattern: NMPattern | str, axis: Axis = "input") -> Tensor:
    """The mask of a pattern (method of SR-STE, Zhou et al. 2021, with groups that never straddle a row or filter).

    Args:
        weight: ``[out, in]`` or ``[out, in/groups, *kernel]``, any floating dtype, any device.
        pattern: N:M; M must divide the axis.
        axis: ``input`` groups consecutive entries of one row (of one filter at one kernel position for a
            convolution); ``output`` groups consecutive rows (filters) at one input position.

    Returns:
        Bool tensor of the weight's shape with exactly N ones in each group. Entries are ranked by magnitude; of equal
        magnitudes the lower index wins, on every device and dtype.

    Raises:
        ValueError: if the weight has fewer than two dimensions or M does not divide the axis.
    """
    pattern = NMPattern.parse(pattern)
    dim = group_dim(axis)
    if weight.dim() < 2:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} has no {axis} axis; N:M needs [out, in, ...]")
    if weight.shape[dim] % pattern.m:
        raise ValueError(f"M = {pattern.m} of {pattern} does not divide the {axis} axis of length {weight.shape[dim]}")
    weight = weight.detach()
    if pattern.n == pattern.m:
        return torch.ones_like(weight, dtype=torch.bool)
    other = 1 - dim
    limit = _CPU_PIECE if weight.device.type == "cpu" else _DEVICE_PIECE
    length = max(1, limit * weight.shape[other] // max(1, weight.numel()))
    if torch.compiler.is_compiling() or length >= weight.shape[other]:
        return _piece_mask(weight, pattern, dim)
    mask = torch.empty_like(weight, dtype=torch.bool)
    for kept, piece in zip(mask.split(length, other), weight.split(length, other), strict=True):
        kept.copy_(_piece_mask(piece, pattern, dim))
    return mask


def write_masks(pairs: Sequence[tuple[Tensor, Tensor]], pattern: NMPattern, axis: Axis) -> None:
    """Of each (mask, weight), write `nm_mask` of the weight into the mask.

    Small ones may be ranked as one matrix, on a GPU all, since each operation takes microseconds there however little
    it has to do.
    """
    together: list[tuple[Tensor, Tensor]] = []
    size = 0
    for mask, weight in pairs:
        few = min(pattern.n, pattern.m - pattern.n) < _MANY
        if weight.device.type == "cpu" and (weight.numel() > _SMALL or few):
            mask.copy_(nm_mask(weight, pattern, axis))
            continue
        if size + weight.numel() > _DEVICE_PIECE:
            _write_together(together, pattern, axis)
            together, size = [], 0
        together.append((mask, weight))
        size += weight.numel()
    if together:
        _write_together(together, pattern, axis)


def _write_together(pairs: Sequence[tuple[Tensor, Tensor]], pattern: NMPattern, axis: Axis) -> None:
    dim = group_dim(axis)
    grouped = [[whole.unflatten(dim, (-1, pattern.m)).movedim(dim + 1, -1) for whole in pair] for pair in pairs]
    matrix = torch.cat([groups.reshape(-1, pattern.m) for _, groups in grouped])
    rank = compiled(_rows_mask) if matrix.is_cuda and matrix.numel() >= _COMPILED else nm_mask
    ranked = rank(matrix, pattern)
    for (mask, _), own in zip(grouped, ranked.split([mask.numel() // pattern.m for mask, _ in grouped]), strict=True):
        mask.copy_(own.view(mask.shape))


def _rows_mask(matrix: Tensor, pattern: NMPattern) -> Tensor:
    """`nm_mask` of [groups, M], however many."""
    return _piece_mask(matrix, pattern, 1)


def _piece_mask(weight: Tensor, pattern: NMPattern, dim: int) -> Tensor:
    groups = weight.abs().unflatten(dim, (-1, pattern.m))
    entries = dim + 1  # the dimension that holds the M entries of one group
    if is_eager_cpu(weight):
        # Comparisons that write floats are vectorised, those that write bools are not. Without ties a threshold alone
        # keeps exactly N; to count costs a hundredth of ranking the ties, but would make a device wait for its host.
        pruned = pattern.m - pattern.n
        if pattern.n <= pruned:
            kept = groups.ge_(nth(groups, pattern.n, entries))
        else:
            kept = groups.gt_(nth(groups, pruned, entries, largest=False))
        is_counted = kept.numel() <= _COUNTED
        if is_counted and int(kept.sum(dtype=torch.float32)) * pattern.m == kept.numel() * pattern.n:
            return kept.bool().flatten(dim, entries)
        groups = weight.abs().unflatten(dim, (-1, pattern.m))
    threshold = nth(groups, pattern.n, entries)
    above = groups > threshold
    level = groups == threshold
    room = pattern.n - above.sum(entries, keepdim=True, dtype=torch.int32)
    mask = above | (level & (level.cumsum(entries, dtype=torch.int32) <= room))
    return mask.flatten(dim, entries)
