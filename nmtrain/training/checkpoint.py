"""Checkpoints: whole or not at all, checked by content, the newest ones kept; written while training goes on."""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


class CheckpointWriter:
    """Saves checkpoints of one run, one at a time, in a thread: training waits for no more than a copy of the content.

    An error of the thread is raised by the next call.

    Args:
        folder: of the checkpoints.
        keep: how many.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def begin(self, update: int, content: dict[str, Any]) -> None:
        """Begin to save ``content`` as it is now, once the checkpoint before is whole."""
        self.finish()
        self._thread = threading.Thread(target=self._save, args=(update, _copied(content)), name="nmtrain-checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Wait until what was begun is whole."""
        self.wait()
        self._thread = None
        self.check()

    def wait(self, most: float | None = None) -> None:
        """The same for ``most`` seconds, whatever came of it."""
        if self._thread is not None:
            self._thread.join(most)

    def check(self) -> None:
        """Raise what a save that has ended failed by."""
        if (error := self._error) is not None:
            self._error = None
            raise error

    def _save(self, update: int, content: dict[str, Any]) -> None:
        try:
            save_checkpoint(self._folder, update, content, self._keep)
        except Exception as error:
            self._error = error


def _copied(content: Any) -> Any:
    """The same on the CPU, with tensors of its own."""
    if isinstance(content, Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        found = copy.copy(content)  # a state dict has more than its entries
        found.update({key: _copied(value) for key, value in content.items()})
        return found
    if isinstance(content, list | tuple):
        return type(content)(map(_copied, content))
    return content


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
