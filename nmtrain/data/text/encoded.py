"""Texts that are turned into tokens once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from nmtrain.data.cache import cached, default_cache_folder
from nmtrain.data.text.batches import encode, frame
from nmtrain.data.text.ragged import Packed
from nmtrain.data.text.tokens import Tokenizer


def encoded(
    texts: Callable[[], Iterable[str]],
    tokenizer: Tokenizer,
    longest: int,
    name: str,
    content: dict[str, object],
    cache_dir: str | None,
) -> tuple[Packed, Tensor]:
    """What :func:`nmtrain.data.text.batches.encode` makes of ``texts()``, from the cache if it is there.

    Args:
        name: the beginning of the cache file's name.
        content: everything that determines the texts, JSON-serializable.
        cache_dir: where the file is kept; None is the user's cache folder.
    """

    def make() -> dict[str, Tensor]:
        packed, cut = encode(texts(), tokenizer, longest)
        return {"values": packed.values, "offsets": packed.offsets, "cut": cut.to(torch.uint8)}

    stored = _cached(make, tokenizer, longest, name, content, cache_dir)
    return Packed(stored["values"], stored["offsets"]), stored["cut"].bool()


def framed(
    texts: Callable[[], Iterable[tuple[str, ...]]],
    tokenizer: Tokenizer,
    longest: int,
    name: str,
    content: dict[str, object],
    cache_dir: str | None,
) -> tuple[Packed, Packed | None, Tensor]:
    """What :func:`nmtrain.data.text.batches.frame` makes of ``texts()``, as :func:`encoded`."""

    def make() -> dict[str, Tensor]:
        packed, types, cut = frame(texts(), tokenizer, longest)
        kept = {} if types is None else {"types": types.values}
        return kept | {"values": packed.values, "offsets": packed.offsets, "cut": cut.to(torch.uint8)}

    stored = _cached(make, tokenizer, longest, name, content | {"framed": True}, cache_dir)
    types = Packed(stored["types"], stored["offsets"]) if "types" in stored else None
    return Packed(stored["values"], stored["offsets"]), types, stored["cut"].bool()


def _cached(
    make: Callable[[], dict[str, Tensor]],
    tokenizer: Tokenizer,
    longest: int,
    name: str,
    content: dict[str, object],
    cache_dir: str | None,
) -> dict[str, Tensor]:
    key = content | {"tokenizer": tokenizer.fingerprint, "longest": longest}
    folder = default_cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
    return cached(make, name, key, folder)
