"""Checkpoints: whole or not at all, checked by content, the newest ones kept."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from nmtrain.errors import ConfigError
from nmtrain.runs.folder import write_whole
from nmtrain.training.distribution.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, update: int, content: dict[str, Any], keep: int) -> Path:
    """Save ``content`` (tensors, plain containers and numbers) as of ``update`` updates done; keep the newest ones.

    The name carries the digest of the file's content, so that a rename makes data and digest appear together.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.blake2b(buffer.getbuffer(), digest_size=8).hexdigest()
    path = folder / f"{update:010d}-{digest}.pt"
    write_whole(path, lambda file: file.write(buffer.getbuffer()))
    for old in _newest_first(folder)[keep:]:
        old.unlink()
    return path


def load_checkpoint(folder: Path, ranks: Ranks = ALONE) -> dict[str, Any] | None:
    """The newest checkpoint that is intact, on the CPU, or None. Damaged ones are named in a warning and removed.

    Raises:
        ConfigError: where a rank does not see what the first one does.
    """
    path = ranks.of_first(lambda: _newest_intact(folder))
    if path is None:
        return None
    try:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(
            [f"results_dir={folder.parent.parent}: there is no {path} here; name a folder that all machines share"]
        ) from None
    return loaded


def _newest_intact(folder: Path) -> Path | None:
    for path in _newest_first(folder):
        if hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() == path.stem.partition("-")[2]:
            return path
        logger.warning("%s is damaged (its content does not match its name); going back to the one before", path)
        path.unlink()
    return None


def drop_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run that needs none any more."""
    for path in _newest_first(folder):
        path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-*.pt"), reverse=True)
