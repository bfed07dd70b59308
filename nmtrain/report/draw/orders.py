"""Figures for other processes to draw: the one that reads and writes a report does without matplotlib."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nmtrain.report.compare.sections import Group, Section
from nmtrain.report.draw.drawing import Drawing


def draw_training(section: Section, curves: pd.DataFrame, folder: Path) -> Drawing:
    """See `figures.draw_training`."""
    from nmtrain.report.draw import figures

    return figures.draw_training(section, curves, folder)


def draw_quality(group: Group, section: str, folder: Path) -> Drawing:
    """See `figures.draw_quality`."""
    from nmtrain.report.draw import figures

    return figures.draw_quality(group, section, folder)


def draw_cost(group: Group, section: str, folder: Path) -> Drawing:
    """See `figures.draw_cost`."""
    from nmtrain.report.draw import figures

    return figures.draw_cost(group, section, folder)


def draw_noise(group: Group, section: str, pattern: str, noise: pd.DataFrame, folder: Path) -> Drawing:
    """See `noise_figures.draw_noise`."""
    from nmtrain.report.draw import noise_figures

    return noise_figures.draw_noise(group, section, pattern, noise, folder)
