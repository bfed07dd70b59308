"""Which N entries of every group of M are kept: the ones of largest magnitude, the lower index first on a tie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtrain.sparsity.pattern import NMPattern

Axis = Literal["input", "output"]

# Entries handled at once. On a CPU a piece and what is made from it stay in the cache (measured with
# scripts/bench_step.py: 2**19 beats 2**17 and the whole tensor); elsewhere a piece only bounds the peak memory.
_CPU_PIECE = 2**19
_DEVICE_PIECE = 2**26
# Up to this size, calling an operation costs more than what it does to the entries.
_SMALL = 2**17
_DEVICE_SMALL = 2**24  # a GPU takes a few microseconds for each operation of its many, however little there is to do
_COUNTED = 2**24  # the largest number that float32 counts up to
# Up to this M a selection network of element-wise maxima and minima beats torch.topk, whose cost per entry is high; for
# N = 1 it beats torch.amax as long as a group is shorter than what amax vectorises. So do pools along rows.
_NETWORK_LIMIT = 32
_AMAX_START = 16
_POOL_LIMIT = 16


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
    """Of each (mask, weight), write `nm_mask` of the weight into the mask. Small ones are ranked as one matrix."""
    together: list[tuple[Tensor, Tensor]] = []
    size = 0
    for mask, weight in pairs:
        if weight.numel() > (_SMALL if weight.device.type == "cpu" else _DEVICE_SMALL):
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
    ranked = nm_mask(torch.cat([groups.reshape(-1, pattern.m) for _, groups in grouped]), pattern)
    for (mask, _), own in zip(grouped, ranked.split([mask.numel() // pattern.m for mask, _ in grouped]), strict=True):
        mask.copy_(own.view(mask.shape))


def _piece_mask(weight: Tensor, pattern: NMPattern, dim: int) -> Tensor:
    groups = weight.abs().unflatten(dim, (-1, pattern.m))
    entries = dim + 1  # the dimension that holds the M entries of one group
    threshold = _nth_largest(groups, pattern.n, entries)
    if weight.device.type == "cpu" and not torch.compiler.is_compiling():
        # Comparisons that write floats are vectorised, those that write bools are not. Without ties the threshold alone
        # keeps exactly N; to count costs a hundredth of ranking the ties, but would make a device wait for its host.
        kept = groups.ge_(threshold)
        is_counted = kept.numel() <= _COUNTED
        if is_counted and int(kept.sum(dtype=torch.float32)) * pattern.m == kept.numel() * pattern.n:
            return kept.bool().flatten(dim, entries)
        groups = weight.abs().unflatten(dim, (-1, pattern.m))
    above = groups > threshold
    level = groups == threshold
    room = pattern.n - above.sum(entries, keepdim=True, dtype=torch.int32)
    mask = above | (level & (level.cumsum(entries, dtype=torch.int32) <= room))
    return mask.flatten(dim, entries)


def _nth_largest(groups: Tensor, n: int, dim: int) -> Tensor:
    """The n-th largest entry of each group along ``dim``, which is kept with length 1."""
    m = groups.shape[dim]
    eager_cpu = groups.device.type == "cpu" and not torch.compiler.is_compiling()
    if n == 1 and m <= _POOL_LIMIT and dim == groups.dim() - 1 and eager_cpu:
        return F.max_pool1d(groups.flatten(1), m, m).unsqueeze(-1)
    if n == 1 and m >= _AMAX_START:
        return groups.amax(dim, keepdim=True)
    if m > _NETWORK_LIMIT:
        return groups.topk(n, dim, sorted=False).values.amin(dim, keepdim=True)
    entries = list(groups.movedim(dim, 0).contiguous().unbind())  # what lies in one piece is vectorised
    for i, j, larger, smaller in _selection_network(m, n):
        a, b = entries[i], entries[j]
        if larger:
            entries[i] = torch.maximum(a, b)
        if smaller:
            entries[j] = torch.minimum(a, b)
    return entries[n - 1].unsqueeze(dim)


@torch.compiler.assume_constant_result  # Dynamo would trace into it otherwise, with a warning about the cache
def _selection_network(m: int, n: int) -> tuple[tuple[int, int, bool, bool], ...]:
    return _batcher_network(m, n)


@cache
def _batcher_network(m: int, n: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Comparators ``(i, j, larger is used, smaller is used)`` that bring the n-th largest of m entries to place n - 1.

    Batcher's odd-even merge sort (Knuth, vol. 3, 5.2.2M), without the outputs that the n-th place does not depend on.
    """
    comparators = []
    size = 1
    while size < m:
        step = size
        while step >= 1:
            for start in range(step % size, m - step, 2 * step):
                for i in range(start, min(start + step, m - step)):
                    if i // (2 * size) == (i + step) // (2 * size):
                        comparators.append((i, i + step))
            step //= 2
        size *= 2
    needed = {n - 1}
    used = []
    for i, j in reversed(comparators):
        if i in needed or j in needed:
            used.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(used))
