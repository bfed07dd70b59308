"""How far a run is, where someone watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(total: int, done: int, shown: bool = True) -> Iterator[Any]:
    """A progress bar where someone watches; elsewhere the log lines of the evaluations are enough."""
    columns = (TextColumn("update"), MofNCompleteColumn(), BarColumn(bar_width=None), TimeRemainingColumn())
    with Progress(*columns, disable=not (shown and sys.stdout.isatty())) as bar:
        task = bar.add_task("update", total=total, completed=done)
        yield lambda done: bar.update(task, completed=done)
