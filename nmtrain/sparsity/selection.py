"""The n-th largest entry of each group, by whatever is fastest where the groups lie."""

from __future__ import annotations

from functools import cache, reduce
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this M sorted lists and selection networks beat torch.topk, whose cost per entry is high; on a CPU, lists do up
# to this N. For N = 1 amax beats them where a group fills what is vectorised, and so do pools of consecutive entries on
# a CPU (scripts/bench_step.py masks).
_SORTED_M = 32
_SORTED_N = 16
_AMAX_START = 16
_BLOCK = 64  # groups that are transposed at once: they stay in the fastest cache


def is_eager_cpu(tensor: Tensor) -> bool:
    """Whether what is done to it is done at once, operation by operation, on a CPU."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def nth(groups: Tensor, n: int, dim: int, largest: bool = True) -> Tensor:
    """The n-th largest (or smallest) entry of each group along ``dim``, which is kept with length 1."""
    m, last = groups.shape[dim], dim == groups.dim() - 1
    if not groups.numel():  # of several processes one may keep no row of a small weight
        return groups.narrow(dim, 0, 1)
    if n > m + 1 - n:  # fewer to look at from the other end
        n, largest = m + 1 - n, not largest
    if n == 1 and m >= _AMAX_START:
        return groups.amax(dim, keepdim=True) if largest else groups.amin(dim, keepdim=True)
    if n == 1 and largest and last and is_eager_cpu(groups):
        return F.max_pool1d(groups.reshape(1, -1), m, m).view(*groups.shape[:-1], 1)
    if m > _SORTED_M and not (n <= _SORTED_N and is_eager_cpu(groups)):
        values = groups.topk(n, dim, largest=largest, sorted=False).values
        return values.amin(dim, keepdim=True) if largest else values.amax(dim, keepdim=True)
    if not is_eager_cpu(groups):
        return _by_network(groups, n, dim, largest)
    if not last:
        return _tournament(groups.movedim(dim, 0).flatten(1).unsqueeze(0), n, largest).view_as(groups.narrow(dim, 0, 1))
    count = groups.numel() // m
    block = gcd(count, _BLOCK)
    if block < _BLOCK // 4:
        block = count
    found = _tournament(groups.reshape(-1, block, m).transpose(1, 2), n, largest)
    return found.view(*groups.shape[:-1], 1)


def _by_network(groups: Tensor, n: int, dim: int, largest: bool) -> Tensor:
    """By a selection network of element-wise maxima and minima, which torch.compile makes one kernel of."""
    entries = list(groups.movedim(dim, 0).contiguous().unbind())
    first, second = (torch.maximum, torch.minimum) if largest else (torch.minimum, torch.maximum)
    for i, j, is_first_used, is_second_used in _selection_network(len(entries), n):
        a, b = entries[i], entries[j]
        if is_first_used:
            entries[i] = first(a, b)
        if is_second_used:
            entries[j] = second(a, b)
    return entries[n - 1].unsqueeze(dim)


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
def _selection_network(m: int, n: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Comparators ``(i, j, first is used, second is used)`` that bring the n-th of m entries to place n - 1.

    Those of `_sorting_network` without the outputs that the n-th place does not depend on.
    """
    needed = {n - 1}
    used = []
    for i, j in reversed(_sorting_network(m)):
        if i in needed or j in needed:
            used.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(used))


@cache
def _sorting_network(length: int) -> tuple[tuple[int, int], ...]:
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
