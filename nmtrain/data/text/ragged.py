"""Many token sequences of different lengths in two flat tensors, so that a batch is one gather in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Packed:
    """Sequence ``i`` is ``values[offsets[i] : offsets[i + 1]]``.

    Args:
        values: int32 ``[total]``, all sequences one after the other.
        offsets: int64 ``[count + 1]``, from 0 to ``total``.
    """

    def __init__(self, values: Tensor, offsets: Tensor) -> None:
        self.values = values
        self.offsets = offsets
        self.lengths = offsets.diff()  # int64 [count]

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> Packed:
        """Pack sequences of ids, without holding more than one of them as a list."""
        values, lengths = array("i"), array("q")
        for sequence in sequences:
            values.extend(sequence)
            lengths.append(len(sequence))
        return cls.from_lengths(_tensor(values, torch.int32), _tensor(lengths, torch.int64))

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Packed:
        """Pack ``values`` that already lie one after the other; ``lengths`` is int64 ``[count]``."""
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> list[int]:
        return self.values[self.offsets[index] : self.offsets[index + 1]].tolist()

    def padded(self, chosen: Tensor, fill: int, multiple: int) -> Tensor:
        """The ``chosen`` sequences (int64 ``[B]``) as int64 ``[B, L]``: ``fill`` behind each one's end.

        L is the longest one's length, rounded up to a multiple of ``multiple``.
        """
        return pad(self.values, self.offsets[chosen], self.lengths[chosen], fill, multiple)


def pad(values: Tensor, starts: Tensor, lengths: Tensor, fill: int, multiple: int) -> Tensor:
    """Rows ``values[starts[i] : starts[i] + lengths[i]]`` as int64 ``[B, L]``, see :meth:`Packed.padded`."""
    width = -(-int(lengths.max()) // multiple) * multiple
    positions = torch.arange(width)
    inside = positions < lengths[:, None]
    # Past a row's end any index will do that exists: what it finds there is replaced.
    places = (starts[:, None] + positions).clamp_(max=len(values) - 1)
    return values[places].long().masked_fill_(~inside, fill)


def _tensor(numbers: array[int], dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(numbers, dtype=dtype).clone() if numbers else torch.empty(0, dtype=dtype)
