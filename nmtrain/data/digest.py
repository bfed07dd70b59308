"""What the data were when a run began, in digests: files that change between a stop and its resume are noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nmtrain.errors import DataError

# The name of the digest of all examples as the run reads them, beside those of files.
EXAMPLES = "examples"
# The name of the digest of the file of weights that the run starts from. Who goes on with the run compares it.
START = "weights to start from"
# The name of the digest of the teacher's file of weights, which is compared alike.
TEACHER = "weights of the teacher"


def file_digests(paths: Iterable[Path]) -> dict[str, str]:
    """A digest of the content of each file, and of each file below a folder, by its path.

    Raises:
        DataError: naming the file that cannot be read.
    """
    digests = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                try:
                    with open(file, "rb") as content:
                        digests[str(file)] = hashlib.file_digest(content, _digest).hexdigest()
                except OSError as error:
                    raise DataError(f"data.path: {file} cannot be read: {error.strerror}") from error
    return digests


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def changed_files(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files that are not as they were: changed, new or gone."""
    return sorted(
        name for name in (before.keys() | now.keys()) - {EXAMPLES, START, TEACHER} if before.get(name) != now.get(name)
    )


def foreign_files(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files that hold what none did before, wherever they lay then."""
    return sorted(name for name, digest in now.items() if digest not in before.values())
