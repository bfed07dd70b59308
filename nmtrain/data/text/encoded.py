"""Texts as tokens, in blocks, so that no more than one of them is in memory as lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from nmtrain.data.text.arrow import Block, Table, stored
from nmtrain.data.text.ragged import Packed
from nmtrain.data.text.tokens import Tokenizer

_AT_ONCE = 1000
_T = TypeVar("_T")


def encode(texts: Iterable[tuple[str, ...]], tokenizer: Tokenizer, longest: dict[str, int]) -> Iterator[Block]:
    """Texts as tokens with the end token.

    Args:
        texts: of each row, one for each column.
        longest: of each column by its name, the most tokens of a text, the end token included; longer ones are cut.
    """
    for some in _blocks(texts):
        block: Block = {"cut": [False] * len(some)}
        for (name, most), column in zip(longest.items(), zip(*some, strict=True), strict=True):
            rows = tokenizer.encode(column)
            block["cut"] = [cut or len(row) >= most for cut, row in zip(block["cut"], rows, strict=True)]
            block[name] = [[*row[: most - 1], tokenizer.end] for row in rows]
        yield block


def frame(texts: Iterable[tuple[str, ...]], tokenizer: Tokenizer, longest: int) -> Iterator[Block]:
    """What :meth:`Tokenizer.frame` makes of texts, as ``inputs`` and, where it gives any, their ``types``."""
    for some in _blocks(texts):
        framed = tokenizer.frame(some, longest)
        types = [example.types for example in framed]
        block: Block = {"inputs": [example.ids for example in framed], "cut": [example.is_cut for example in framed]}
        yield block if None in types else block | {"types": types}


def in_memory(blocks: Iterable[Block]) -> Table:
    """A small table."""
    cut = 0
    parts: dict[str, list[Packed]] = {}
    for block in blocks:
        cut += sum(block.pop("cut"))
        for name, rows in block.items():
            parts.setdefault(name, []).append(Packed.of(rows))
    return Table({name: Packed.joined(packed) for name, packed in parts.items()}, cut)


def encoded(
    texts: Callable[[], Iterable[tuple[str, ...]]],
    tokenizer: Tokenizer,
    longest: dict[str, int],
    name: str,
    content: dict[str, object],
    cache_dir: str | None,
) -> Table:
    """What :func:`encode` makes of ``texts()``, see :func:`nmtrain.data.text.arrow.stored`.

    Args:
        content: everything that determines the texts.
    """
    key = content | {"tokenizer": tokenizer.fingerprint, "longest": longest}
    return stored(lambda: encode(texts(), tokenizer, longest), name, key, cache_dir)


def framed(
    texts: Callable[[], Iterable[tuple[str, ...]]],
    tokenizer: Tokenizer,
    longest: int,
    name: str,
    content: dict[str, object],
    cache_dir: str | None,
) -> Table:
    """What :func:`frame` makes of ``texts()``, as :func:`encoded`."""
    key = content | {"tokenizer": tokenizer.fingerprint, "framed": longest}
    return stored(lambda: frame(texts(), tokenizer, longest), name, key, cache_dir)


def _blocks(items: Iterable[_T]) -> Iterator[list[_T]]:
    remaining = iter(items)
    while some := list(islice(remaining, _AT_ONCE)):
        yield some
