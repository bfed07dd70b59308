"""Which rows of each weight this process keeps, where several processes share the weights of one model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.rules import SparseTensor

Rows = tuple[int, int] | None  # (first, last + 1) of a weight; None is all


class Shards:
    """All rows of every weight: what a process keeps that is alone, or that trains a copy of the model."""

    def place(self, name: str, rows: Rows) -> Rows:
        """Where ``rows`` of the weight lie in what is kept of it."""
        return rows

    def holds_groups(self, tensor: SparseTensor, pattern: NMPattern) -> bool:
        """Whether every process keeps whole groups of the pattern."""
        return True

    def own(self, whole: Tensor, name: str, rows: Rows = None) -> Tensor:
        """What this process keeps of ``whole``, which has a value for each entry of the weight's ``rows``. A view of it
        may be what is returned: to keep it, clone it."""
        return whole

    def whole(self, part: Tensor, name: str, rows: Rows = None) -> Tensor:
        """The inverse of `own`, on every process; all call it in the same order."""
        return part

    def for_first(self, part: Tensor, name: str, rows: Rows = None) -> Tensor:
        """The same to be saved: on the first process alone, and there on the CPU; elsewhere without an entry."""
        return part

    def summed(self, value: Tensor) -> Tensor:
        """The sum over all processes of what each has of its own rows, the same bits on each."""
        return value


WHOLE = Shards()


class RowShards(Shards):
    """Runs of rows as FSDP2 deals them out: each process has ``ceil(rows / world)``, the last ones what is left.

    Args:
        lengths: the rows of every weight, by all of its names in the stock model.
        group: of all processes, on the weights' device.
    """

    def __init__(self, lengths: Mapping[str, int], rank: int, world: int, group: dist.ProcessGroup) -> None:
        self._lengths, self._rank, self._world, self._group = lengths, rank, world, group

    def __deepcopy__(self, memo: dict[int, Any]) -> RowShards:
        return self  # a group cannot be copied, and nothing here changes

    def _bounds(self, name: str, rows: Rows) -> list[tuple[int, int]]:
        """For each process the rows that it keeps, counted from the first of ``rows``."""
        length = self._lengths[name]
        size = -(-length // self._world)
        first, last = rows or (0, length)
        cuts = [min(max(rank * size, first), last) - first for rank in range(self._world + 1)]
        cuts[-1] = last - first
        return list(pairwise(cuts))

    def place(self, name: str, rows: Rows) -> Rows:
        if rows is None:
            return None
        first, last = self._bounds(name, rows)[self._rank]
        before = rows[0] + first - self._bounds(name, None)[self._rank][0] if first < last else 0
        return before, before + last - first

    def holds_groups(self, tensor: SparseTensor, pattern: NMPattern) -> bool:
        if tensor.axis == "input":
            return True
        return all(cut % pattern.m == 0 for bounds in self._bounds(tensor.name, tensor.rows) for cut in bounds)

    def own(self, whole: Tensor, name: str, rows: Rows = None) -> Tensor:
        first, last = self._bounds(name, rows)[self._rank]
        return whole[first:last]

    def whole(self, part: Tensor, name: str, rows: Rows = None) -> Tensor:
        bounds = self._bounds(name, rows)
        most = max(last - first for first, last in bounds)
        # Processes can gather pieces of one size alone, and not all of them bools.
        given = part.view(torch.uint8) if part.dtype == torch.bool else part
        padded = given.new_zeros(most, *given.shape[1:])
        padded[: len(given)] = given
        pieces = [torch.empty_like(padded) for _ in range(self._world)]
        dist.all_gather(pieces, padded, group=self._group)
        kept = [piece[: last - first] for piece, (first, last) in zip(pieces, bounds, strict=True)]
        return torch.cat(kept).view(part.dtype)

    def for_first(self, part: Tensor, name: str, rows: Rows = None) -> Tensor:
        whole = self.whole(part, name, rows)
        return whole.cpu() if self._rank == 0 else whole[:0].cpu()

    def summed(self, value: Tensor) -> Tensor:
        dist.all_reduce(value := value.clone(), group=self._group)
        return value
