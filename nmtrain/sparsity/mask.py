"""Which N entries of every group of M are kept: the ones of largest magnitude, the lower index first on a tie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, reduce
from math import gcd
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
# Up to this size, calling an operation costs more than what it does to the entries. From this number on the operations
# of a tournament are so many that it pays to bring weights together.
_SMALL = 2**17
_MANY = 3
_COUNTED = 2**24  # the largest number that float32 counts up to
# A tournament of sorted lists beats torch.topk, whose cost per entry is high, up to this M, and on a CPU up to this N.
# For N = 1 amax beats it where a group fills what is vectorised, and so do pools of consecutive entries on a CPU.
_TOURNAMENT_M = 32
_TOURNAMENT_N = 16
_AMAX_START = 16
_BLOCK = 64  # groups that are transposed at once: they stay in the fastest cache


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
    """Of each (mask, weight), write `nm_mask` of the weight into the mask. Small ones may be ranked as one matrix."""
    dim = group_dim(axis)
    small = []
    for mask, weight in pairs:
        if weight.numel() > _SMALL or min(pattern.n, pattern.m - pattern.n) < _MANY:
            mask.copy_(nm_mask(weight, pattern, axis))
        else:
            small.append([whole.unflatten(dim, (-1, pattern.m)).movedim(dim + 1, -1) for whole in (mask, weight)])
    if small:
        ranked = nm_mask(torch.cat([groups.reshape(-1, pattern.m) for _, groups in small]), pattern)
        for (mask, _), own in zip(small, ranked.split([mask.numel() // pattern.m for mask, _ in small]), strict=True):
            mask.copy_(own.view(mask.shape))


def _piece_mask(weight: Tensor, pattern: NMPattern, dim: int) -> Tensor:
    groups = weight.abs().unflatten(dim, (-1, pattern.m))
    entries = dim + 1  # the dimension that holds the M entries of one group
    if _is_eager_cpu(weight):
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


def _is_eager_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def nth(groups: Tensor, n: int, dim: int, largest: bool = True) -> Tensor:
    """The n-th largest (or smallest) entry of each group along ``dim``, which is kept with length 1."""
    m, last = groups.shape[dim], dim == groups.dim() - 1
    if n > m + 1 - n:  # fewer to look at from the other end
        n, largest = m + 1 - n, not largest
    if n == 1 and m >= _AMAX_START:
        return groups.amax(dim, keepdim=True) if largest else groups.amin(dim, keepdim=True)
    if n == 1 and largest and last and _is_eager_cpu(groups):
        return F.max_pool1d(groups.reshape(1, -1), m, m).view(*groups.shape[:-1], 1)
    if m > _TOURNAMENT_M and not (n <= _TOURNAMENT_N and _is_eager_cpu(groups)):
        values = groups.topk(n, dim, largest=largest, sorted=False).values
        return values.amin(dim, keepdim=True) if largest else values.amax(dim, keepdim=True)
    if not last:
        return _tournament(groups.movedim(dim, 0).flatten(1).unsqueeze(0), n, largest).view_as(groups.narrow(dim, 0, 1))
    count = groups.numel() // m
    block = gcd(count, _BLOCK)
    if block < _BLOCK // 4:
        block = count
    found = _tournament(groups.reshape(-1, block, m).transpose(1, 2), n, largest)
    return found.view(*groups.shape[:-1], 1)


def _tournament(groups: Tensor, n: int, largest: bool) -> Tensor:
    """The n-th largest (or smallest) along dimension 1 of ``groups`` [blocks, m, inner]: [blocks, inner]; n < m.

    The entries are dealt out to lists of a length of at least n, which are sorted. Of two sorted lists, one read
    backwards, the larger of each two entries are the largest of both, and a bitonic sequence (Knuth, vol. 3, 5.3.4), so
    that few comparisons sort it again. Lists meet in pairs until one is left.
    """
    length = _power_of_two(n)
    lists = _power_of_two(-(-groups.shape[1] // length))
    first, second = (torch.maximum, torch.minimum) if largest else (torch.minimum, torch.maximum)
    if missing := length * lists - groups.shape[1]:
        groups = F.pad(groups, (0, 0, 0, missing), value=-torch.inf if largest else torch.inf)
    # What lies in one piece is vectorised.
    ranked = list(groups.contiguous().unflatten(1, (length, lists)).unbind(1))  # of each place: [blocks, lists, inner]
    for i, j in _sorting_network(length):
        ranked[i], ranked[j] = first(ranked[i], ranked[j]), second(ranked[i], ranked[j])
    while (lists := lists // 2) >= 1:
        pairs = zip(ranked, reversed(ranked), strict=True)
        ranked = [first(one[:, :lists], other[:, lists:]) for one, other in pairs]
        if lists == 1 and n == length:
            return reduce(second, ranked).squeeze(1)
        step = length
        while (step := step // 2) >= 1:
            for i in range(length):
                if not i & step:
                    one, other = ranked[i], ranked[i + step]
                    ranked[i], ranked[i + step] = first(one, other), second(one, other)
    return ranked[n - 1].squeeze(1)


def _power_of_two(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


@torch.compiler.assume_constant_result  # Dynamo would trace into it otherwise, with a warning about the cache
def _sorting_network(length: int) -> tuple[tuple[int, int], ...]:
    return _batcher_network(length)


@cache
def _batcher_network(length: int) -> tuple[tuple[int, int], ...]:
    """Comparators that sort ``length`` entries: Batcher's odd-even merge sort (Knuth, vol. 3, 5.2.2M)."""
    comparators = []
    size = 1
    while size < length:
        step = size
        while step >= 1:
            for start in range(step % size, length - step, 2 * step):
                for i in range(start, min(start + step, length - step)):
                    if i // (2 * size) == (i + step) // (2 * size):
                        comparators.append((i, i + step))
            step //= 2
        size *= 2
    return tuple(comparators)
