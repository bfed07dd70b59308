"""Pairs of texts in two languages, from two files whose lines correspond or from a data set with columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nmtrain.data.seen import once
from nmtrain.data.splits import Table, examples, fingerprint, text_of
from nmtrain.data.utf8 import text_size
from nmtrain.errors import DataError


@dataclass(frozen=True)
class ParallelFiles:
    """Plain text files, such as train.en and train.de."""

    source: Path
    target: Path

    @property
    def files(self) -> tuple[Path, Path]:
        return self.source, self.target

    def count(self) -> int:
        """The number of pairs.

        Raises:
            ValueError: where a file cannot be read or is empty, or the two have different numbers of lines.
        """
        counts = []
        for file in (self.source, self.target):
            try:
                counts.append(_line_count(file))
            except (OSError, ValueError) as error:
                raise ValueError(f"data.path: {file} cannot be read: {error}") from error
        if counts[0] != counts[1]:
            raise ValueError(f"data.path: {self.source} has {counts[0]} lines and {self.target} has {counts[1]}")
        if not counts[0]:
            raise ValueError(f"data.path: there is no line in {self.source}")
        return counts[0]

    def texts(self, size: int) -> Iterator[tuple[str, str]]:
        """``size`` pairs at equal distances: all, where ``size`` is their number."""
        chosen = spread(self.count(), size)
        wanted = next(chosen, None)
        for index, pair in enumerate(zip(_lines(self.source), _lines(self.target), strict=True)):
            if index == wanted:
                yield pair
                wanted = next(chosen, None)

    def fingerprint(self) -> str:
        """Of the files' content."""
        digest = hashlib.blake2b(digest_size=16)
        for file in (self.source, self.target):
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class ParallelColumns:
    """A table with a column ``translation`` of both languages, or with a column for each language.

    Args:
        what: the beginning of messages.
    """

    table: Table
    source: str
    target: str
    what: str

    def texts(self, size: int) -> Iterator[tuple[str, str]]:
        """See :meth:`ParallelFiles.texts`.

        Raises:
            DataError: where there is neither kind of column, or a text is missing.
        """
        total = len(self.table)
        both = "translation" in self.table.column_names
        columns = ("translation",) if both else (self.source, self.target)
        chosen = None if size == total else list(spread(total, size))
        values = examples(self.table, columns, self.what, chosen)
        for number, value in zip(spread(total, size), values, strict=True):
            if both:
                pair = value[0] if isinstance(value[0], dict) else {}
                value = (pair.get(self.source), pair.get(self.target))
            yield self._checked(number, *value)

    def _checked(self, number: int, source: object, target: object) -> tuple[str, str]:
        for language, text, other in ((self.source, source, target), (self.target, target, source)):
            if text is None:
                raise DataError(
                    f"{self.what}: there is a pair without a text in {language!r}: {other!r} (example {number})"
                )
        what = f"{self.what}: example {number}"
        return text_of(source, f"{what}, {self.source!r},"), text_of(target, f"{what}, {self.target!r},")

    def fingerprint(self) -> str:
        """See :func:`nmtrain.data.splits.fingerprint`."""
        return fingerprint(self.table)


def spread(total: int, size: int) -> Iterator[int]:
    """``size`` of the numbers from 0 to ``total`` - 1, at equal distances."""
    return (number * total // size for number in range(size))


@once
def _line_count(file: Path) -> int:
    """Of a file that is checked to be text."""
    text_size(file)
    return sum(1 for _ in _lines(file))


def _lines(file: Path) -> Iterator[str]:
    with open(file, encoding="utf-8-sig", newline="\n") as lines:  # no other character ends a line in these files
        for line in lines:
            yield line.rstrip("\r\n")
