"""Many token sequences of different lengths in one flat tensor, so that a batch is one gather in memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor


class Packed:
    """Sequence ``i`` is ``values[starts[i] : starts[i] + lengths[i]]``.

    Args:
        values: int32, in memory or the content of a file that is mapped into it.
        starts, lengths: int64 ``[count]``.
        release: gives memory back that looking at ``values`` has filled; called now and then.
    """

    dtype = torch.int32

    def __init__(self, values: Tensor, starts: Tensor, lengths: Tensor, release: Callable[[], None] | None = None):
        self.values = values
        self.starts = starts
        self.lengths = lengths
        self._release = release
        self._looked_at = 0  # sequences, since memory was released

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
        return cls(values, lengths.cumsum(0) - lengths, lengths)

    @classmethod
    def joined(cls, parts: Sequence[Packed]) -> Packed:
        """One of several, each as :meth:`of` and :meth:`from_lengths` make them."""
        values, lengths = ([getattr(part, name) for part in parts] for name in ("values", "lengths"))
        return cls.from_lengths(torch.cat(values), torch.cat(lengths))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> list[int]:
        start = self.starts[index]
        return self.values[start : start + self.lengths[index]].tolist()

    def padded(self, chosen: Tensor, fill: int, multiple: int) -> Tensor:
        """The ``chosen`` sequences (int64 ``[B]``) as int64 ``[B, L]``: ``fill`` behind each one's end.

        L is the longest one's length, rounded up to a multiple of ``multiple``.
        """
        lengths = self.lengths[chosen]
        width = -(-int(lengths.max()) // multiple) * multiple
        positions = torch.arange(width)
        inside = positions < lengths[:, None]
        # Past a row's end any index will do that exists: what it finds there is replaced.
        places = (self.starts[chosen, None] + positions).clamp_(max=len(self.values) - 1)
        rows = self.values[places].long().masked_fill_(~inside, fill)
        self._looked_at += len(chosen)
        if self._release is not None and self._looked_at >= _RELEASED_AFTER:
            self._release()
            self._looked_at = 0
        return rows

    @property
    def shape(self) -> tuple[int]:
        """Of what :meth:`pieces` gives in all."""
        return (int(self.lengths.sum()),)

    def pieces(self) -> Iterator[Tensor]:
        """The sequences one after the other, int32, in pieces as they lie in ``values``."""
        ends = self.starts + self.lengths
        breaks = (self.starts[1:] != ends[:-1]).nonzero().flatten() + 1
        firsts = [0, *breaks.tolist()] if len(self) else []
        for first, end in zip(firsts, [*firsts[1:], len(self)], strict=True) if firsts else ():
            yield self.values[self.starts[first] : ends[end - 1]]
            if self._release is not None:
                self._release()


# The system maps more of a file than the place that is looked at: we saw 300 KiB, so some 75 MiB for so many sequences.
_RELEASED_AFTER = 256


def _tensor(numbers: array[int], dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(numbers, dtype=dtype).clone() if numbers else torch.empty(0, dtype=dtype)
