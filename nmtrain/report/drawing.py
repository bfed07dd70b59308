"""Figures for other processes to draw: the one that reads and writes a report does without matplotlib."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pandas as pd

from nmtrain.report.sections import Group, Section


@dataclass(frozen=True)
class Drawing:
    """A finished figure. ``data`` holds what is drawn; ``svg`` is the figure itself, for the page."""

    slug: str
    title: str
    caption: str
    data: pd.DataFrame
    svg: bytes
    paths: list[Path]


@contextmanager
def drawing_processes() -> Iterator[Executor]:
    """Processes to draw in; what they import is imported meanwhile, by a server that they are forked from.

    Forked from this process they would have nothing to import, but threads of pyarrow must not be forked.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nmtrain.report.noise_figures"])
    with _safe_path():
        forkserver.ensure_running()
    with ProcessPoolExecutor(mp_context=context) as pool:
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


def draw_training(section: Section, curves: pd.DataFrame, folder: Path) -> Drawing:
    """See `figures.draw_training`."""
    from nmtrain.report import figures

    return figures.draw_training(section, curves, folder)


def draw_quality(group: Group, section: str, folder: Path) -> Drawing:
    """See `figures.draw_quality`."""
    from nmtrain.report import figures

    return figures.draw_quality(group, section, folder)


def draw_cost(group: Group, section: str, folder: Path) -> Drawing:
    """See `figures.draw_cost`."""
    from nmtrain.report import figures

    return figures.draw_cost(group, section, folder)


def draw_noise(group: Group, section: str, pattern: str, noise: pd.DataFrame, folder: Path) -> Drawing:
    """See `noise_figures.draw_noise`."""
    from nmtrain.report import noise_figures

    return noise_figures.draw_noise(group, section, pattern, noise, folder)
