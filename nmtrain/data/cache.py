"""Tensors that are slow to make, kept on disk. A cache file is used only if it is provably what was written."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_log = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/nmtrain``, or ``~/.cache/nmtrain``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nmtrain"


def cached(
    make: Callable[[], dict[str, Tensor]], name: str, content: dict[str, object], folder: Path
) -> dict[str, Tensor]:
    """What ``make()`` returns, from ``folder`` if it is there, else made and stored.

    Args:
        content: everything that determines the result, JSON-serializable; its hash names the file.

    A damaged file is made anew; a folder that cannot be written is done without. Both log a warning.
    """
    key = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
    path = folder / f"{name}-{key}.safetensors"
    tensors = _read(path)
    if tensors is None:
        tensors = make()
        _write(tensors, path)
    return tensors


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            stored = (file.metadata() or {}).get("checksum")
    except (OSError, SafetensorError) as error:
        _log.warning("cache file %s cannot be read (%s); making its content anew", path, error)
        return None
    if stored != checksum(tensors):
        _log.warning("cache file %s is damaged (wrong checksum); making its content anew", path)
        return None
    return tensors


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    """Whole or not at all: several runs of a sweep may write the same file, and any of them may be killed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(save(tensors, {"checksum": checksum(tensors)}))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot write the cache file %s (%s); going on without", path, error)


class InPieces(Protocol):
    """A tensor that is not in one place."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> Sequence[int]: ...

    def pieces(self) -> Iterator[Tensor]:
        """Its values, in order."""


def checksum(tensors: Mapping[str, Tensor | InPieces]) -> str:
    """A hash of all names, types, shapes and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        for piece in (tensor,) if isinstance(tensor, Tensor) else tensor.pieces():
            digest.update(piece.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
