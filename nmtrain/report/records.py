"""Reading metrics.jsonl and noise.jsonl: only the lines that a report draws, so that 1,000 runs take seconds."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What `json.dumps` writes. A line in another spelling is still read, only slower.
_TRAIN_SPLIT = b'"split": "train"'
_TENSOR_MEAN = b'"tensor": "mean"'
_NOT_FINITE = (b"NaN", b"Infinity", b'"loss": null')


@dataclass(frozen=True)
class Metrics:
    """What a report takes from one metrics.jsonl.

    Attributes:
        points: the evaluations (splits ``val`` and ``final``), in file order.
        lines: lines in the file, the dropped ones included.
        dropped: numbers (from 1) of lines that are no whole JSON object: a killed process leaves its last line so.
        not_finite: lines that hold a NaN, an infinity or a null loss.
        strict_from: first logged update from which on the run trained at its target pattern with D = 0; None where
            the records do not show one.
    """

    points: list[dict[str, Any]]
    lines: int
    dropped: list[int]
    not_finite: int
    strict_from: int | None


@dataclass(frozen=True)
class Noise:
    """The lines of one noise.jsonl that are averages over tensors; `dropped` as in `Metrics`."""

    points: list[dict[str, Any]]
    dropped: list[int]
    not_finite: int


def read_metrics(path: Path, target: str | None) -> Metrics:
    """Read a metrics.jsonl; ``target`` is the run's pattern, None for a dense run."""
    content = path.read_bytes()
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    train: list[bytes] = []
    points: list[dict[str, Any]] = []
    dropped: list[int] = []
    for number, line in enumerate(lines, start=1):
        # A training line is kept unread, if it is whole: parsing a million of them would take most of the time.
        if _TRAIN_SPLIT in line and line.endswith(b"}") and line.count(b"{") == 1:
            train.append(line)
            continue
        record = _parse(line)
        if record is None:
            dropped.append(number)
        elif record.get("split") == "train":
            train.append(line)
        else:
            points.append(record)
    not_finite = sum(map(_not_finite, lines)) if _not_finite(content) else 0
    return Metrics(points, len(lines), dropped, not_finite, _strict_from(train, target))


def read_noise(path: Path) -> Noise:
    """Read the averages over tensors from a noise.jsonl, without parsing the lines of single tensors."""
    content = path.read_bytes()
    points: list[dict[str, Any]] = []
    dropped: list[int] = []
    not_finite = 0
    for at, line in _lines_with(content, _TENSOR_MEAN):
        record = _parse(line)
        if record is None:
            dropped.append(content.count(b"\n", 0, at) + 1)
        else:
            points.append(record)
            not_finite += _not_finite(line)
    last = content[content.rfind(b"\n") + 1 :]
    if last and _TENSOR_MEAN not in last and _parse(last) is None:
        dropped.append(content.count(b"\n") + 1)
    return Noise(points, dropped, not_finite)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line, None if there is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _lines_with(content: bytes, word: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each line that holds ``word``."""
    at = content.find(word)
    while at >= 0:
        start = content.rfind(b"\n", 0, at) + 1
        end = content.find(b"\n", at)
        end = len(content) if end < 0 else end
        yield start, content[start:end]
        at = content.find(word, end)


def _not_finite(content: bytes) -> bool:
    return any(word in content for word in _NOT_FINITE)


def _strict_from(train: list[bytes], target: str | None) -> int | None:
    """Bisect: every recipe ends at its target, so "strictly there" is false, then true."""
    if target is None:
        return 0

    def strict(line: bytes) -> bool:
        record = json.loads(line)
        return record.get("pattern") == target and record.get("decay") == 0

    first = bisect_left(train, True, key=strict)
    return json.loads(train[first])["update"] if first < len(train) else None
