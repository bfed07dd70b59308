"""Reading metrics.jsonl and noise.jsonl: only the lines that a report draws, so that 1,000 runs take seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What `json.dumps` writes. A line in another spelling is still read, only slower.
_TRAIN_SPLIT = b'"split": "train"'
_EVALUATION_SPLITS = (b'"split": "val"', b'"split": "test"', b'"split": "final"')
_SCHEDULE = re.compile(rb'"(?:pattern|decay)":\s*[^,}]*[,}]')
_TENSOR_MEAN = b'"tensor": "mean"'


@dataclass(frozen=True)
class Metrics:
    """What a report takes from one metrics.jsonl.

    Attributes:
        points: the evaluations (splits ``val`` or ``test``, and ``final``), in file order.
        lines: lines in the file, the dropped ones included.
        dropped: numbers (from 1) of lines that are no whole JSON object: a killed process leaves its last line so.
        not_finite: lines that hold a NaN, an infinity, a null loss or, if of an evaluation, any null.
        strict_from: first logged update from which the run trained to its end at its target pattern with D = 0; None
            where the records do not show one.
    """

    points: list[dict[str, Any]]
    lines: int
    dropped: list[int]
    not_finite: int
    strict_from: int | None


@dataclass(frozen=True)
class Noise:
    """The lines of one noise.jsonl that are averages over tensors; ``dropped`` as in `Metrics`."""

    points: list[dict[str, Any]]
    dropped: list[int]
    not_finite: int


def read_metrics(path: Path, target: str | None) -> Metrics:
    """Read a metrics.jsonl; ``target`` is the run's pattern, None for a dense run."""
    content = path.read_bytes()
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    not_finite = sum(map(_not_finite, lines)) if _not_finite(content) else 0
    points = _plain_points(content, lines)
    if points is not None:
        return Metrics(points, len(lines), [], not_finite + _nulls(points), _strict_from(lines, target))
    train: list[bytes] = []
    points, dropped = [], []
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None:
            dropped.append(number)
        elif record.get("split") == "train":
            train.append(line)
        else:
            points.append(record)
    return Metrics(points, len(lines), dropped, not_finite + _nulls(points), _strict_from(train, target))


def _nulls(points: list[dict[str, Any]]) -> int:
    """Evaluations with a metric that is null; a null loss is counted by `_not_finite`."""
    return sum(None in point.values() and point.get("loss") is not None for point in points)


def _plain_points(content: bytes, lines: list[bytes]) -> list[dict[str, Any]] | None:
    """The evaluations of a file as a run leaves it, None for any other: half-written, in another spelling.

    No line is looked at by itself but those of the evaluations: for a million lines even that would take seconds.
    """
    whole = content.count(b"{") == content.count(b"}\n{") + 1 == len(lines)
    if not (whole and lines[0].startswith(b"{") and lines[-1].endswith(b"}")):
        return None
    found = sorted(evaluation for split in _EVALUATION_SPLITS for evaluation in _lines_with(content, split))
    if content.count(_TRAIN_SPLIT) + len(found) != len(lines):
        return None
    records = [record for record in _parse_all([line for _, line in found]) if record is not None]
    return records if len(records) == len(found) else None


def read_noise(path: Path) -> Noise:
    """Read the averages over tensors from a noise.jsonl, without parsing the lines of single tensors."""
    content = path.read_bytes()
    found = list(_lines_with(content, _TENSOR_MEAN))
    points: list[dict[str, Any]] = []
    dropped: list[int] = []
    for (at, _), record in zip(found, _parse_all([line for _, line in found]), strict=True):
        if record is None:
            dropped.append(content.count(b"\n", 0, at) + 1)
        else:
            points.append(record)
    last = content[content.rfind(b"\n") + 1 :]
    if last and _TENSOR_MEAN not in last and _parse(last) is None:
        dropped.append(content.count(b"\n") + 1)
    not_finite = sum(_not_finite(line) for _, line in found if _parse(line)) if _not_finite(content) else 0
    return Noise(points, dropped, not_finite)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line, None if there is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _parse_all(lines: list[bytes]) -> list[dict[str, Any] | None]:
    """`_parse` of each line; whole lines are read as one array, in half of the time."""
    try:
        records = json.loads(b"[%s]" % b",".join(lines))
    except ValueError:
        records = []
    if len(records) == len(lines) and all(isinstance(record, dict) for record in records):
        return records
    return [_parse(line) for line in lines]


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
    # Single letters are found much faster than words, and capital ones are rare in records.
    words = (b"NaN", b"Infinity")
    return any(word[:1] in content and word in content for word in words) or b'"loss": null' in content


def _strict_from(lines: list[bytes], target: str | None) -> int | None:
    """Of the last strict stretch: a schedule may go back and forth, as that of AC/DC does.

    From the end on, lines that spell pattern and D as one that was parsed are not parsed.
    """
    if target is None:
        return 0
    first: bytes | None = None
    spelled: list[bytes] = []
    for line in reversed(lines):
        if b'"train"' not in line:  # evaluations stand between
            continue
        if not spelled or any(part not in line for part in spelled):
            record = _parse(line)
            if record is None or record.get("pattern") != target or record.get("decay") != 0:
                break
            spelled = _SCHEDULE.findall(line)
        first = line
    record = None if first is None else _parse(first)
    return None if record is None else record["update"]
