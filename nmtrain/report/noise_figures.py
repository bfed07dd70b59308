"""Gradient noise and mask churn over the updates, with the schedule under them: one figure per pattern."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from nmtrain.report.accuracy import table_title
from nmtrain.report.figures import Drawing, legend_lines, markevery, mean_over_seeds, panels, save, styled
from nmtrain.report.sections import DENSE, Group, columns_of
from nmtrain.report.style import line_style
from nmtrain.sparsity.pattern import NMPattern

# A figure takes most of a second; a report draws the sparsest patterns and says which it leaves to the data.
MOST_FIGURES = 3

# Two panels per row: (column of the data, label of its y axis, logarithmic).
_METRICS = (
    ("second_moment_var", "second-moment variance / grad⁴"),
    ("grad_noise", "gradient noise / grad²"),
    ("second_moment_var/kept", "kept: second-moment var."),
    ("second_moment_var/pruned", "pruned: second-moment var."),
    ("grad_noise/kept", "kept: gradient noise"),
    ("grad_noise/pruned", "pruned: gradient noise"),
    ("flip_rate", "flip rate / per update"),
    ("sad", "SAD / entries"),
)
_SCHEDULE = (
    ("pattern_density", "density N/M"),
    ("group_size", "group size M"),
    ("decay", "decay factor D"),
    ("decay", "decay factor D"),
)
_SAME_SCALE = ((2, 3), (4, 5))  # kept against pruned


def patterns_with_noise(group: Group, noise: pd.DataFrame) -> list[str]:
    """The group's patterns that have noise records, sparsest first."""
    recorded = group.runs[group.runs["folder"].isin(noise["folder"])]
    return [pattern for pattern in reversed(group.patterns) if (recorded["sparsity"] == pattern).any()]


@styled()
def draw_noise(group: Group, section: str, pattern: str, noise: pd.DataFrame, folder: Path) -> Drawing:
    """All recipes at one pattern, dense beside them: noise, kept against pruned, mask churn, pattern and D."""
    runs = group.runs[(group.runs["sparsity"] == pattern) | (group.runs["recipe"] == DENSE)]
    runs = runs[runs["folder"].isin(noise["folder"])]
    columns = columns_of(runs)
    data = _noise_data(runs, noise)
    rows = (*_METRICS, *_SCHEDULE)
    figure, axes = panels(len(rows) // 2, 2, 1.25, legend_lines(columns), wspace=0.36)
    for (metric, label), ax in zip(rows, axes.flat, strict=True):
        for column in columns:
            _draw_metric(ax, data[data["recipe"] == column[1]], metric, line_style(column, columns))
        ax.set_ylabel(label, fontsize=6.5)
    for ax in axes.flat[: len(_METRICS)]:
        _set_log(ax)
    for left, right in _SAME_SCALE:
        axes.flat[left].sharey(axes.flat[right])
    for column, ax in itertools.product(columns, axes.flat):
        for update in _phase_changes(data[data["recipe"] == column[1]]):
            ax.axvline(update, color=line_style(column, columns)["color"], linewidth=0.5, alpha=0.5, zorder=0)
    axes.flat[-4].set_yscale("log", base=2)
    axes.flat[-3].set_yscale("log", base=2)
    for ax in axes[-1]:
        ax.set_xlabel("optimizer update")
    title = table_title(f"Gradient noise at {pattern}", section, group)
    slug = f"{group.slug}-noise-{NMPattern.parse(pattern).n}of{NMPattern.parse(pattern).m}"
    return save(figure, slug, title, _caption(runs, pattern), data, folder)


def _noise_data(runs: pd.DataFrame, noise: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds per recipe and update, with the schedule as numbers."""
    metrics = [metric for metric, _ in _METRICS]
    points = noise.reindex(columns=["folder", "update", "pattern", "decay", *metrics])
    points = points.merge(runs[["folder", "label"]].rename(columns={"label": "recipe"}), on="folder")
    points["pattern"] = points["pattern"].fillna(DENSE)
    points["decay"] = points["decay"].fillna(0.0)
    recorded = [metric for metric in metrics if points[metric].notna().any()]
    data = mean_over_seeds(points, ["recipe", "update", "pattern", "decay"], recorded).reindex(
        columns=["recipe", "update", "pattern", "decay", "n", *metrics]
    )
    patterns = {pattern: None if pattern == DENSE else NMPattern.parse(pattern) for pattern in data["pattern"].unique()}
    data["pattern_density"] = [1.0 if (p := patterns[name]) is None else p.density for name in data["pattern"]]
    data["group_size"] = [float("nan") if (p := patterns[name]) is None else float(p.m) for name in data["pattern"]]
    return data.sort_values(["recipe", "update"], kind="stable", ignore_index=True)


def _draw_metric(ax: Axes, data: pd.DataFrame, metric: str, style: dict[str, Any]) -> None:
    if metric in dict(_SCHEDULE):
        style = style | {"drawstyle": "steps-post", "marker": ""}
    ax.plot(data["update"], data[metric].astype(float), markevery=markevery(len(data)), **style)


def _set_log(ax: Axes) -> None:
    """Powers of ten, few and plain: a tick label set as mathematics takes longer than the curves."""
    if not any(line.get_ydata().size and pd.notna(line.get_ydata()).any() for line in ax.lines):
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color="#666666")
        ax.set_yticks([])
        return
    ax.set_yscale("log", nonpositive="clip")
    ax.yaxis.set_major_locator(LogLocator(numticks=4))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-3 else f"{value:.0e}"))


def _phase_changes(data: pd.DataFrame) -> list[float]:
    """Updates at which the pattern in force became another."""
    changed = data["pattern"].ne(data["pattern"].shift())
    return list(data["update"][changed][1:])


def _caption(runs: pd.DataFrame, pattern: str) -> str:
    counts = runs.groupby("label")["seed"].nunique()
    seeds = f"n = {counts.min()}" if counts.min() == counts.max() else f"n = {counts.min()} to {counts.max()}"
    caption = (
        f"Averages over the sparse tensors and over seeds ({seeds}), by optimizer update. Below: the pattern in force "
        "(density N/M and group size M) and the decay factor D; thin vertical lines mark a recipe's change of pattern. "
        "Values of 0 lie below a logarithmic axis."
    )
    others = sorted(set(runs[runs["recipe"] == DENSE]["noise_pattern"]) - {pattern})
    if others:
        caption += f" Kept, pruned, flip rate and SAD of dense training use the mask of {', '.join(others)}."
    return caption
