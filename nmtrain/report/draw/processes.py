"""Processes that draw and help to read. This module imports nothing large: they start before what they work for."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmtrain.report.draw.drawing import Drawing

# What drawing imports; the last ones matplotlib itself imports on their first use.
_PRELOAD = (
    "nmtrain.report.draw.noise_figures",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "fontTools.subset",
)


def start_server() -> None:
    """Start the server that `drawing_processes` are forked from, if it does not run yet; it imports what they need.

    Forked from this process they would have nothing to import, but threads of pyarrow must not be forked.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOAD))
    with _safe_path():
        forkserver.ensure_running()


@contextmanager
def drawing_processes() -> Iterator[Executor]:
    """A pool of processes to draw in."""
    start_server()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("forkserver")) as pool:
        yield pool


def submit(pool: Executor, draw: Callable[..., Drawing], *arguments: Any) -> Future[Drawing]:
    """Have ``pool`` call ``draw(*arguments)``.

    They are pickled here and now. The pool would do so in a thread of its own, while this one goes on to fill in the
    cached properties of the same objects.
    """
    return pool.submit(_draw, pickle.dumps((draw, arguments)))


def _draw(job: bytes) -> Drawing:
    draw, arguments = pickle.loads(job)
    drawing: Drawing = draw(*arguments)
    return drawing


@contextmanager
def _safe_path() -> Iterator[None]:
    """Python processes started meanwhile do not import from the current folder: it may hold another ``nmtrain``."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
