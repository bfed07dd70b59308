"""Stop requests: signals and a time limit end a run after the update that is under way, with a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

from nmtrain.runs.starts import this_process

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
_TIME_LIMIT = 1000
_MARGIN = 60.0  # seconds before a time limit in which a run saves where it is; at most a tenth of the time there is


class StopRequest:
    """Whether training is to stop.

    Args:
        until: when by the clock it must have stopped; None for no limit.
    """

    signal: signal.Signals | None = None

    def __init__(self, until: float | None = None) -> None:
        now = time.time()
        self._until = None if until is None else until - min(_MARGIN, (until - now) / 10)

    @property
    def number(self) -> int:
        """Of the signal that asks to stop, or one above all signals for the time limit; 0 to go on."""
        if self.signal is not None:
            return self.signal
        return _TIME_LIMIT if self._until is not None and time.time() >= self._until else 0


def asked_by(number: int) -> str:
    """The name of a signal, or "time limit"."""
    return "time limit" if number == _TIME_LIMIT else signal.Signals(number).name


@contextmanager
def stop_requests(until: float | None = None, together: bool = False) -> Iterator[StopRequest]:
    """Note the first of `SIGNALS` instead of dying from it; after it SIGINT and SIGTERM take their usual effect.

    Args:
        until: as of `StopRequest`.
        together: in one of several processes, which ends with the run. Whoever started them passes signals on that each
            may have got already, and ends the others by SIGTERM where one fails: that kills none which is saving, or
            which is to tell of the failure, unless SIGINT came before.
    """
    request = StopRequest(until)
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    before: dict[signal.Signals, Any] = {}

    def restore(*numbers: signal.Signals) -> None:
        for number in numbers:
            signal.signal(number, before[number])

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = request.signal or signal.Signals(number)
        restore(signal.SIGINT, *([] if together and number != signal.SIGINT else [signal.SIGTERM]))

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield request
    except BaseException:
        if not together:
            restore(*SIGNALS)
        raise
    restore(*SIGNALS)


def end_of_job() -> float | None:
    """When SLURM ends the job of this process, by the clock; None where there is no limit or no job."""
    if (job := this_process().job) is None:
        return None
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(end)
    try:
        told = subprocess.run(["squeue", "-h", "-j", job, "-o", "%e"], capture_output=True, text=True, timeout=20)
        return datetime.fromisoformat(told.stdout.strip()).timestamp()
    except (OSError, subprocess.SubprocessError, ValueError):  # "NONE", or no squeue on this node
        return None
