"""`nmtrain status`: a line for each run, from the ends of its files. Imports nothing heavy."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmtrain.errors import UsageError
from nmtrain.report.read.folders import common_folder, search_run_folders
from nmtrain.report.read.headline import headline_of, is_known
from nmtrain.runs.starts import Start, clock_of, is_alive, read_start, start_files
from nmtrain.runs.sweeps import sweeps_beside

GONE = "gone"  # the state of a run that says it is running, and whose process is no more
PLANNED = "planned"  # and of one that a sweep has not begun
_ORDER = ("running", GONE, "failed", "preempted", PLANNED, "unreadable", "finished")
_TAIL = 16 * 1024  # bytes of metrics.jsonl, in which an evaluation stands
_EVERY = 2.0  # seconds between two looks of --watch
_HEAD = ("run", "state", "updates", "metric", "updates/s", "left", "where", "restarts")


@dataclass(frozen=True)
class RunStatus:
    """What one run has come to. ``start`` is its last one, ``restarts`` how often it was begun again."""

    path: Path
    state: str
    reason: str | None = None
    done: int | None = None
    total: int | None = None
    metric: str = ""
    start: Start | None = None
    restarts: int = 0

    @property
    def per_second(self) -> float | None:
        """Updates a second of the start that is under way, evaluations included; None by a clock that was set back."""
        if self.state != "running" or self.start is None or self.start.done <= self.start.first:
            return None
        seconds = time.time() - self.start.began
        return (self.start.done - self.start.first) / seconds if seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        if self.per_second is None or self.start is None or self.start.total is None:
            return None
        return (self.start.total - self.start.done) / self.per_second


def show_status(folders: Sequence[Path], watch: bool) -> None:
    """Print the runs under ``folders`` and those that sweeps there plan; with ``watch`` again and again, until Ctrl-C.

    Raises:
        ReportError: if a folder does not exist or cannot be listed.
        UsageError: if there is neither run nor sweep.
    """
    if not watch:
        print("\n".join(_lines(run_statuses(folders))))
        return
    while True:
        size = shutil.get_terminal_size()
        lines = _lines(run_statuses(folders))
        shown = lines if len(lines) < size.lines else [*lines[: size.lines - 3], "...", lines[-1]]
        sys.stdout.write(
            "\033[H\033[2J" * sys.stdout.isatty() + "\n".join(line[: size.columns] for line in shown) + "\n"
        )
        sys.stdout.flush()
        time.sleep(_EVERY)


def run_statuses(folders: Sequence[Path]) -> list[RunStatus]:
    """The runs under ``folders`` and the planned ones, those that train first. Raises as `show_status`."""
    paths = search_run_folders(folders)
    now = {folder: clock_of(folder) for folder in {path.parent for path in paths}}
    found = {path: run_status(path, now[path.parent]) for path in paths}
    for file, sweep in sweeps_beside([*paths, *(folder.resolve() / "any" for folder in folders)]).items():
        for run in sweep.runs:
            path = file.parent.parent / run.run
            found.setdefault(path, RunStatus(path, PLANNED))
    if not found:
        raise UsageError(f"{', '.join(map(str, folders))}: there is neither a run folder nor a sweep")
    return sorted(found.values(), key=lambda status: (_ORDER.index(status.state), status.path))


def run_status(path: Path, now: float) -> RunStatus:
    """What the files of one run say."""
    state, reason = _state(path)
    files = start_files(path)
    start = read_start(files[-1]) if files else None
    if state == "running" and not (files and is_alive(files[-1], now)):
        state = GONE
    done, metric = _last_records(path / "metrics.jsonl")
    total = start.total if start else None
    if start and state == "running":
        done = max(start.done, done or 0)
    return RunStatus(path, state, reason, done, total, metric, start, max(0, len(files) - 1))


def _state(path: Path) -> tuple[str, str | None]:
    try:
        status = json.loads((path / "status.json").read_bytes())
        state, reason = status["state"], status.get("reason")
        return (state if state in _ORDER else "unreadable"), reason
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "unreadable", "status.json is missing or damaged"


def _last_records(file: Path) -> tuple[int | None, str]:
    """The update of the last whole line, and the metric of the last evaluation that the file's end has."""
    try:
        with open(file, "rb") as records:
            records.seek(max(0, file.stat().st_size - _TAIL))
            lines = records.read().splitlines()
    except OSError:
        return None, ""
    done = None
    for line in reversed(lines):
        try:
            record = json.loads(line)
            done = record["update"] if done is None else done
            evaluated = record["split"] != "train"
        except (ValueError, KeyError, TypeError):  # cut off by the seek, or by a kill
            continue
        if evaluated:
            return done, _metric(record)
    return done, ""


def _metric(record: dict[str, Any]) -> str:
    name = next((name for name in record if is_known(name) and name != "loss"), "loss")
    if not isinstance(value := record.get(name), int | float):
        return ""
    headline = headline_of(name)
    return f"{headline.label} {headline.text(value)}{headline.unit}"


def _lines(found: Sequence[RunStatus]) -> list[str]:
    """A table as wide as it must be, reasons below their runs, and the sum of all."""
    base = common_folder(found)
    rows = [_HEAD, *(_row(status, base) for status in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, status in zip(rows, (None, *found), strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if status and status.reason and status.state != "finished":
            lines.append(f"    {printable(status.reason)}")
    counts = Counter(status.state for status in found)
    rest = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state] and state != "finished")
    return [*lines, f"{counts['finished']} of {len(found)} runs finished" + (f"; {rest}" if rest else "")]


def _row(status: RunStatus, base: Path) -> tuple[str, ...]:
    done = "" if status.done is None else f"{status.done}" + (f" of {status.total}" if status.total else "")
    speed, left = status.per_second, status.seconds_left
    where = ""
    if status.start and status.state in ("running", GONE):
        where = f"{status.start.host}:{status.start.pid}" + (f" job {status.start.job}" if status.start.job else "")
    return (
        printable(status.path.relative_to(base).as_posix()),
        status.state,
        done,
        status.metric,
        "" if speed is None else f"{speed:.3g}",
        "" if left is None else duration(left),
        printable(where),
        str(status.restarts or ""),
    )


def duration(seconds: float) -> str:
    """``3 s``, ``12 min``, ``5.2 h``, ``3.1 d``."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / size:.{0 if size < 3600 else 1}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def printable(text: str) -> str:
    """One line that no terminal takes for a command, whatever a run says of itself."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
