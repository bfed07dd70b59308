"""The run folder: what is in it, written so that a kill at any moment leaves it readable."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from nmtrain.errors import RunFolderError
from nmtrain.runs.starts import FOLDER, Owner
from nmtrain.runs.whole import write_whole

logger = logging.getLogger(__name__)
State = Literal["running", "finished", "failed", "preempted"]
NOT_FINITE = re.compile(r"loss is -?(nan|inf)|not finite", re.IGNORECASE)  # what `TrainingError` says then


def why_not_writable(path: Path) -> str | None:
    """Why a folder cannot be written or made, None if it can be; touches nothing."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.lexists(folder))
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing}: permission denied"


class RunFolder:
    """One run's folder (architecture.md, "run folder"). Only the process that holds the lock writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def name(self) -> str:
        return self.path.name

    def prepare(self) -> None:
        """Make the folder. Raises RunFolderError where it cannot be written."""
        try:
            (self / "checkpoints").mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix=".writable-", dir=self.path):  # others may try it too
                pass
        except OSError as error:
            raise RunFolderError(
                f"results_dir={self.path.parent}: cannot be written ({error.strerror}); name a folder that can"
            ) from error

    def clear(self) -> None:
        """Remove everything that a run leaves, so that it starts anew."""
        for entry in self.path.iterdir():
            if entry.name != FOLDER:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        (self / "checkpoints").mkdir()

    @contextmanager
    def locked(self) -> Iterator[Owner]:
        """Hold the run against other processes, on any machine; that of a process that is gone is taken over.

        Raises:
            RunHeld: naming the process that trains it.
            RunFolderError: if the folder cannot be written.
        """
        try:
            owner = Owner(self.path)
        except OSError as error:
            raise RunFolderError(f"{self.path / FOLDER}: cannot be written ({error.strerror})") from error
        try:
            yield owner
        finally:
            owner.release()

    def write_json(self, name: str, content: Any) -> None:
        write_whole(self / name, lambda file: file.write(json.dumps(content, indent=1).encode() + b"\n"))

    def read_json(self, name: str) -> Any:
        """The content of a JSON file of the run. Raises RunFolderError, naming the file, if it cannot be read."""
        try:
            return json.loads((self / name).read_text())
        except OSError as error:
            raise RunFolderError(f"{self / name}: {error.strerror}; is {self.path} a run folder?") from None
        except ValueError as error:
            raise RunFolderError(f"{self / name}: is damaged ({error}); force=true repeats the run") from None

    @property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json, empty where there is none. Raises RunFolderError if it cannot be read."""
        if not (self / "environment.json").exists():
            return {}
        environment: dict[str, Any] = self.read_json("environment.json")
        return environment

    def set_status(self, state: State, reason: str | None = None) -> None:
        self.write_json("status.json", {"state": state, "reason": reason})

    @property
    def state(self) -> State | None:
        """The state as last written, None before the first start. A killed run still says ``running``.

        Raises:
            RunFolderError: if it cannot be read.
        """
        if not (self / "status.json").exists():
            return None
        status = self.read_json("status.json")
        if not isinstance(status, dict) or status.get("state") not in get_args(State):
            raise RunFolderError(f"{self / 'status.json'}: is damaged (it names no state); force=true repeats the run")
        state: State = status["state"]
        return state

    @property
    def state_or_none(self) -> State | None:
        """The state, None also where it cannot be read."""
        try:
            return self.state
        except RunFolderError:
            return None

    @property
    def diverged(self) -> bool:
        """Whether the run failed because its loss or weights were no longer finite: repeated, it would again."""
        return self.state == "failed" and bool(NOT_FINITE.search(self.read_json("status.json").get("reason") or ""))

    def require_finished(self) -> None:
        """Raises RunFolderError unless the run is finished."""
        state = self.state
        if state is None:
            raise RunFolderError(f"{self.path}: is not a run folder; it has no status.json")
        if state != "finished":
            raise RunFolderError(f"{self.path}: the run is {state}, not finished; repeat its command to complete it")


class Records:
    """An append-only file of JSON lines: metrics.jsonl, noise.jsonl."""

    def __init__(self, path: Path, length: int) -> None:
        """Open ``path`` and drop what stands behind its first ``length`` bytes: lines after the last checkpoint.

        What should be there and is not becomes one blank line, so that the lengths in checkpoints hold.
        """
        path.touch()
        self._file = open(path, "r+b")  # noqa: SIM115 (held open for the run)
        self._file.truncate(min(length, path.stat().st_size))
        damaged = [number for number, line in enumerate(self._file, start=1) if whole_record(line) is None]
        if missing := length - self._file.tell():
            self._file.write(b" " * (missing - 1) + b"\n")
            self._file.flush()
        if damaged or missing:
            told = [f"line {number} is damaged" for number in damaged[:3]]
            told += [f"{len(damaged) - 3} more are"] * (len(damaged) > 3)
            told += [f"the last {missing} of {length} bytes are gone"] * bool(missing)
            logger.warning("%s: %s; left out where records are shown, training goes on", path, ", ".join(told))

    def append(self, record: dict[str, Any]) -> None:
        """Add one line and hand it to the system at once: a killed process loses nothing."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Make the lines last through a power failure; returns the length in bytes, for the checkpoint."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def whole_record(line: bytes) -> dict[str, Any] | None:
    """The record on a line, None where the line is damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("update"), int) else None
