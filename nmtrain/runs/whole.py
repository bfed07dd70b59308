"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from nmtrain.errors import RunFolderError


def write_whole(path: Path, write: Callable[[BinaryIO], object], writer: str = "") -> None:
    """Write a file so that it is there whole or not at all: temporary name, fsync, rename.

    Args:
        writer: tells processes apart that may write it at once.
    """
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_beside_runs(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is no run's own. Raises RunFolderError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1) + "\n"
        write_whole(path, lambda file: file.write(text.encode()), writer=f"-{socket.gethostname()}-{os.getpid()}")
    except OSError as error:
        raise RunFolderError(
            f"results_dir={path.parent.parent}: {path.relative_to(path.parent.parent)} cannot be written"
            f" ({error.strerror}); nothing already written is lost; name a folder that can, or repeat the command then"
        ) from error
