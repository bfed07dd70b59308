"""Gradient noise and mask churn over the updates, with the schedule under them: one figure per pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from nmtrain.report.compare.quality import table_title
from nmtrain.report.compare.sections import DENSE, Group, columns_of
from nmtrain.report.draw.drawing import Drawing
from nmtrain.report.draw.figures import (
    label_x,
    legend_lines,
    markevery,
    mean_over_seeds,
    panels,
    save,
    styled,
)
from nmtrain.report.draw.style import line_style
from nmtrain.sparsity.pattern import NMPattern

# Two panels per row: (column of the data, label of its y axis, logarithmic).
_METRICS = (
    ("second_moment_var", "var. of second\nmoment / grad⁴"),
    ("grad_noise", "gradient noise\n/ grad²"),
    ("second_moment_var/kept", "kept: var. of\nsec. mom. / grad⁴"),
    ("second_moment_var/pruned", "pruned: var. of\nsec. mom. / grad⁴"),
    ("grad_noise/kept", "kept: gradient\nnoise / grad²"),
    ("grad_noise/pruned", "pruned: gradient\nnoise / grad²"),
    ("flip_rate", "flip rate\n/ per update"),
    ("sad", "SAD / entries"),
)
_SCHEDULE = (
    ("pattern_density", "density N/M"),
    ("group_size", "group size M"),
    ("decay", "decay factor D"),
)
_SAME_SCALE = ((2, 3), (4, 5))  # kept against pruned


@styled()
def draw_noise(group: Group, section: str, pattern: str, noise: pd.DataFrame, folder: Path) -> Drawing:
    """All recipes at one pattern, dense beside them: noise, kept against pruned, mask churn, pattern and D.

    ``noise``: what `noise_at` gives.
    """
    masks = noise.drop_duplicates("folder").set_index("folder")["sparsity"]
    runs = group.runs[group.runs["folder"].isin(masks.index)]
    runs = _told_apart(runs.assign(noise_pattern=runs["folder"].map(masks)))
    columns = columns_of(runs)
    data = _noise_data(runs, noise)
    rows = (*_METRICS, *_SCHEDULE)
    figure, axes = panels(-(-len(rows) // 2), 2, 1.1, legend_lines(columns), wspace=0.5, left=0.78)
    for (metric, label), ax in zip(rows, axes.flat, strict=False):
        for column in columns:
            _draw_metric(ax, data[data["recipe"] == column[1]], metric, line_style(column, columns))
        ax.set_ylabel(label, fontsize=6.5)
        ax.yaxis.set_label_coords(-0.27, 0.5)  # aligned; searching for the place would take a third of the time
        ax.grid(visible=False, axis="x")  # the phases' lines are what the eye is to follow
    for (metric, _), ax in zip(_METRICS, axes.flat, strict=False):
        _set_log(ax, recorded=data[metric].notna().any())
    for left, right in _SAME_SCALE:
        _equalise(axes.flat[left], axes.flat[right])
    for place, (metric, _) in enumerate(_SCHEDULE[:2], start=len(_METRICS)):
        if data[metric].notna().any():  # dense runs alone have no group size
            _set_powers_of_two(axes.flat[place])
    _mark_phases(axes.flat[: len(rows)], data, columns)
    label_x(axes, len(rows), "optimizer update")
    title = table_title(f"Gradient noise at {pattern}", section, group)
    slug = f"{group.slug}-noise-{NMPattern.parse(pattern).n}of{NMPattern.parse(pattern).m}"
    return save(figure, slug, title, _caption(runs, pattern, data["n"]), data, folder)


def _told_apart(runs: pd.DataFrame) -> pd.DataFrame:
    """``runs`` with a label of its own for each way of measuring: other ways do not average to anything.

    SAD counts the changes since the last measurement; dense runs are measured with the mask of some pattern.
    """
    label = runs["label"].copy()
    dense = runs["recipe"] == DENSE
    if runs.loc[dense, "noise_pattern"].nunique() > 1:
        label[dense] += ", mask of " + runs.loc[dense, "noise_pattern"]
    for column, said in (("measured_every", ", every {:.0f}"), ("measured_window", ", window {:.0f}")):
        if runs[column].nunique() > 1:
            label += runs[column].map(said.format, na_action="ignore").fillna("")
    return runs.assign(label=label)


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
        style = style | {"drawstyle": "default" if metric == "decay" else "steps-post", "marker": ""}
    ax.plot(data["update"], data[metric].astype(float), markevery=markevery(len(data)), **style)


def _set_log(ax: Axes, recorded: bool) -> None:
    """Powers of ten, few and plain: a tick label set as mathematics takes longer than the curves."""
    if not recorded:
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color="#666666")
        ax.set_yticks([])
        return
    ax.set_yscale("log", nonpositive="clip")
    ax.yaxis.set_major_locator(LogLocator(numticks=4))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-3 else f"{value:.0e}"))


def _equalise(one: Axes, other: Axes) -> None:
    """Give two panels that are to be compared the same y axis."""
    limits = [limit for ax in (one, other) for limit in ax.get_ylim()]
    for ax in (one, other):
        ax.set_ylim(min(limits), max(limits))


def _set_powers_of_two(ax: Axes) -> None:
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_locator(LogLocator(base=2, numticks=5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))


def _mark_phases(axes: Iterable[Axes], data: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> None:
    """A thin line through every panel where a recipe's pattern in force became another."""
    marks = []
    for column in columns:
        drawn = data[data["recipe"] == column[1]]
        changed = drawn["pattern"].ne(drawn["pattern"].shift())
        marks += [(update, line_style(column, columns)["color"]) for update in drawn["update"][changed][1:]]
    for ax in axes:
        colours = [colour for _, colour in marks]
        ax.vlines([update for update, _ in marks], 0, 1, colours, transform=ax.get_xaxis_transform(), lw=0.5, zorder=0)


def _caption(runs: pd.DataFrame, pattern: str, counts: pd.Series) -> str:
    seeds = f"n = {counts.min()}" if counts.min() == counts.max() else f"n = {counts.min()} to {counts.max()}"
    caption = (
        f"Averages over the sparse tensors and over seeds ({seeds}), by optimizer update. Below: the pattern in force "
        "(density N/M and group size M) and the decay factor D; thin vertical lines mark a recipe's change of pattern. "
        "Values of 0 lie below a logarithmic axis."
    )
    if runs["measured_every"].nunique() > 1:
        caption += " Compare SAD only between runs that were measured equally often: it counts since the last time."
    others = sorted(set(runs[runs["recipe"] == DENSE]["noise_pattern"]) - {pattern})
    if others:
        caption += f" Kept, pruned, flip rate and SAD of dense training use the mask of {', '.join(others)}."
    return caption
