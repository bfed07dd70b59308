"""Span corruption, the pre-training task of T5 (Raffel et al., 2020, section 3.1.4): gaps in, what was there out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nmtrain.data.text.batches import Pairs, TextBatch
from nmtrain.data.text.ragged import Packed
from nmtrain.data.text.span_counts import corrupted_counts
from nmtrain.data.text.tokens import Tokenizer


class SpanCorruption:
    """Windows of text whose gaps are drawn anew in each batch.

    Each span of tokens that is taken out is replaced by a sentinel of its own; the target is, for each sentinel, itself
    and the tokens it stands for. An input begins with a token that is kept and ends with a gap.

    Args:
        windows: with their end tokens.

    Raises:
        ValueError: where the tokenizer has too few sentinels.
    """

    def __init__(self, windows: Packed, tokenizer: Tokenizer, noise_density: float, mean_span: float) -> None:
        self._windows = windows
        self.pad, self._end = tokenizer.pad, tokenizer.end
        lengths = windows.lengths - 1  # without the end
        by_length = [corrupted_counts(n, noise_density, mean_span) for n in range(int(lengths.max()) + 1)]
        self._counts = torch.tensor(by_length)  # int64 [longest + 1, 2], by length: tokens taken out, spans
        noise, spans = self._counts[lengths].unbind(dim=1)
        self.lengths = torch.stack([lengths - noise + spans + 1, noise + spans + 1], dim=1)
        most = max(spans for _, spans in by_length)
        self._sentinels = torch.tensor([tokenizer.sentinel(i) for i in range(most)], dtype=torch.int32)

    def batch(self, chosen: Tensor, draw: int) -> TextBatch:
        """See :meth:`nmtrain.data.text.batches.Examples.batch`."""
        return self.corrupted(chosen, draw).batch(torch.arange(len(chosen)))

    def tensors(self) -> Mapping[str, Tensor | Packed]:
        """See :meth:`nmtrain.data.text.batches.Examples.tensors`."""
        return {"windows": self._windows, "lengths": self.lengths}

    def corrupted(self, chosen: Tensor, draw: int) -> Pairs:
        """The windows ``chosen`` (int64 ``[B]``) with gaps that depend on ``draw`` alone."""
        generator = torch.Generator().manual_seed(draw)
        tokens = self._windows.padded(chosen, self.pad, 1)
        length = self._windows.lengths[chosen, None] - 1
        noise, spans = self._counts[length].unbind(dim=2)  # each [B, 1]
        kept_parts = _random_parts(length - noise, spans, generator)
        noise_parts = _random_parts(noise, spans, generator)
        # Kept and taken parts alternate. `kept` and `taken` count the tokens up to the end of each part.
        kept, taken = kept_parts.cumsum(1), noise_parts.cumsum(1)
        ends = torch.stack([kept + taken - noise_parts, kept + taken], dim=2).flatten(1)
        position = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
        part = torch.searchsorted(ends, position, right=True)
        inside = position < length
        is_noise = (part % 2 == 1) & inside
        span = (part // 2).clamp_(max=kept.shape[1] - 1)

        index = torch.arange(kept.shape[1]).expand_as(kept)
        is_span = index < spans
        sentinels = self._sentinels[: kept.shape[1]].expand(len(chosen), -1)
        taken_before = taken - noise_parts
        inputs = _Rows(self.lengths[chosen, 0], self._end)
        inputs.put(tokens, position - taken_before.gather(1, span) + span, inside & ~is_noise)
        inputs.put(sentinels, kept + index, is_span)
        targets = _Rows(self.lengths[chosen, 1], self._end)
        targets.put(tokens, position - kept.gather(1, span) + span + 1, is_noise)
        targets.put(sentinels, taken_before + index, is_span)
        return Pairs(inputs.packed, targets.packed, self.pad)


class _Rows:
    """Rows of known lengths that end with ``end`` and are filled bit by bit."""

    def __init__(self, lengths: Tensor, end: int) -> None:
        self.packed = Packed.from_lengths(torch.full((int(lengths.sum()),), end, dtype=torch.int32), lengths)

    def put(self, values: Tensor, columns: Tensor, where: Tensor) -> None:
        """Set ``values`` at their ``columns``, all ``[B, L]``, of each row, ``where`` true."""
        self.packed.values[(self.packed.starts[:, None] + columns)[where]] = values[where].int()


def _random_parts(total: Tensor, count: Tensor, generator: torch.Generator) -> Tensor:
    """Lengths ``[B, K]`` of ``count[i]`` parts, none empty, that add up to ``total[i]``: every way is equally likely.

    ``total`` and ``count`` are ``[B, 1]``; K is the largest count, and missing parts have length 0.
    """
    most = max(int(count.max()), 1)
    place = torch.arange(max(int(total.max()), 1))
    may_begin = (place > 0) & (place < total)  # a part, other than the first
    order = torch.rand(may_begin.shape, generator=generator).masked_fill_(~may_begin, 2.0)
    begins = torch.zeros_like(total).expand(may_begin.shape).contiguous()
    begins.scatter_(1, order.topk(most - 1, largest=False).indices, (torch.arange(most - 1) < count - 1).long())
    parts = total.new_zeros(len(total), most)
    return parts.scatter_add_(1, begins.cumsum(1), (place < total).long())
