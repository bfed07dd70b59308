"""A finished figure, as pages show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Drawing:
    """A finished figure. ``data`` holds what is drawn; ``svg`` is the figure itself, for the page."""

    slug: str
    title: str
    caption: str
    data: pd.DataFrame
    svg: bytes
    paths: list[Path]
