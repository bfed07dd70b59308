"""How far a sweep is that a launcher trains in other processes, told where it was started."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nmtrain.launch.grid import Job
from nmtrain.launch.status import duration, run_status
from nmtrain.runs.starts import clock_of

logger = logging.getLogger(__name__)
_LOOK = 10.0  # seconds between two looks


@contextmanager
def progress_told(jobs: Sequence[Job]) -> Iterator[None]:
    """Say each time that another number of ``jobs`` is finished or failed, and how long the rest will take."""
    over = threading.Event()
    arguments = (jobs, over, _states(jobs).count("finished"))
    watch = threading.Thread(target=_watch, args=arguments, name="progress", daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(jobs: Sequence[Job], over: threading.Event, first: int) -> None:
    """``first`` runs were finished before."""
    began, said = time.monotonic(), ""
    while not over.wait(_LOOK):
        states = _states(jobs)
        line = counted(states)
        if line != said:
            left = time_left(time.monotonic() - began, states.count("finished") - first, states)
            logger.info("%s%s", line, f", about {duration(left)} left" if left is not None else "")
        said = line


def counted(states: Sequence[str]) -> str:
    """``3 of 12 runs finished, 1 failed, 2 running``."""
    told = [f"{states.count('finished')} of {len(states)} runs finished"]
    told += [f"{states.count(state)} {state}" for state in ("failed", "running") if state in states]
    return ", ".join(told)


def time_left(seconds: float, finished: int, states: Sequence[str]) -> float | None:
    """Seconds, if the rest takes as long as those did that finished in ``seconds``; None before the first has."""
    left = sum(state not in ("finished", "failed") for state in states)
    return seconds / finished * left if finished else None


def _states(jobs: Sequence[Job]) -> list[str]:
    now = clock_of(jobs[0].config.run_folder.parent)
    return [run_status(job.config.run_folder, now).state for job in jobs]
