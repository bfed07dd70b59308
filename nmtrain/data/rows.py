"""CSV and JSON files whose texts stay as they are written.

Readers that guess types make no text of ``null``, a time stamp of ``2019-01-01`` and 7 of ``007``; this one does not.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nmtrain.data.seen import once
from nmtrain.data.utf8 import text_size
from nmtrain.errors import DataError

csv.field_size_limit(2**31 - 1)  # Python's own limit is 131,072 characters to a field: a long document has more

_NUMBERS = ("label",)  # the columns of CSV whose fields are numbers; every other field is text

Row = dict[str, Any]


@dataclass(frozen=True)
class FileRows:
    """The rows of one or more files of one ``format``: "csv", with a header, or "json", lines or one list of objects.

    A missing value is None: an empty field of CSV; null, or no such key, of JSON.
    """

    format: str
    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[Row]:
        """Read the files row by row.

        Raises:
            DataError: naming the file and the line that cannot be read.
        """
        for file in self.files:
            with _named(file):
                yield from _READERS[self.format](file)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        total = 0
        for file in self.files:
            with _named(file):
                total += count_rows(self.format, file)
        return total

    @cached_property
    def column_names(self) -> list[str]:
        """Of the first row."""
        return list(next(iter(self), {}))

    @property
    def fingerprint(self) -> str:
        """Of the files' content."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
        return digest.hexdigest()


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """What is wrong with a file, with its name."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DataError(f"data.path: {file} cannot be read: {error}") from error


def count_rows(format: str, file: Path) -> int:
    """How many rows a file has, all of which is checked to be text.

    Raises:
        ValueError, OSError: where it is none, or cannot be taken apart.
    """
    return _COUNTERS[format](file)


@once
def _csv_count(file: Path) -> int:
    text_size(file)
    return sum(1 for _ in _csv_rows(file))


@once
def _json_count(file: Path) -> int:
    text_size(file)
    items = _json_list(file)
    return sum(1 for _ in _json_lines(file)) if items is None else len(items)


def _csv_rows(file: Path) -> Iterator[Row]:
    records = _csv_records(file)
    _, header = next(records, (0, []))
    if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise ValueError(f"the header has {', '.join(twice)} more than once")
    for line, fields in records:
        if len(fields) != len(header):
            raise ValueError(f"line {line}: has {len(fields)} fields, and the header {len(header)}")
        row: Row = dict(zip(header, (field or None for field in fields), strict=True))
        yield row | {name: _number(row[name]) for name in _NUMBERS if name in row}


def _csv_records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The header and each row as fields, with the number of its last line; blank lines are none."""
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error


def _number(field: str | None) -> int | float | str | None:
    """A field as a number, where it is one."""
    for kind in (int, float):
        try:
            return field if field is None else kind(field)
        except ValueError:
            continue
    return field


def _json_rows(file: Path) -> Iterator[Row]:
    items = _json_list(file)
    for place, item in _json_lines(file) if items is None else enumerate(items, 1):
        where = f"line {place}" if items is None else f"item {place}"
        try:
            row = json.loads(item) if items is None else item
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: {error.msg} (column {error.colno})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: is no object")
        yield row


def _json_list(file: Path) -> list[Any] | None:
    """All of a file that is one list; None of one that has a row to a line."""
    _, first = next(_json_lines(file), (0, ""))
    if not first.lstrip().startswith("["):
        return None
    items: list[Any] = json.loads(file.read_text(encoding="utf-8-sig"))
    return items


def _json_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines with something on them, and their numbers."""
    with open(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {"csv": _csv_rows, "json": _json_rows}
_COUNTERS = {"csv": _csv_count, "json": _json_count}
