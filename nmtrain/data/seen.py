"""What was found in a file is remembered while the file stays as it is: a sweep plans many runs of the same ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


def once(look: Callable[[Path], _T]) -> Callable[[Path], _T]:
    """``look`` at each file once, and again where it is another file, or of another size or time of change."""

    @cache
    def seen(file: Path, *state: int) -> _T:
        return look(file)

    @wraps(look)
    def looked(file: Path) -> _T:
        found = os.stat(file)
        return seen(file.absolute(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    return looked
