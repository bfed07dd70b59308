"""Figures of the headline metric against cost, and what all figures share: saving, legends, axes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from nmtrain.report.compare.cost import on_front, ordered_results
from nmtrain.report.compare.equal_flops import evaluations
from nmtrain.report.compare.quality import table_title
from nmtrain.report.compare.sections import DENSE, Group, Result, Section, columns_of, finished, patterns_of
from nmtrain.report.compare.table import si_prefix
from nmtrain.report.draw.drawing import Drawing
from nmtrain.report.draw.style import RC, line_style
from nmtrain.report.read.headline import Headline

WIDTH = 5.2  # inches: a text column in print, and legible when a phone shrinks it
_LEGEND_LINE = 0.17  # inches
_MARKERS_PER_LINE = 6

# Nothing that changes from one call to the next enters a file.
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save(figure: Figure, slug: str, title: str, caption: str, data: pd.DataFrame, folder: Path) -> Drawing:
    """Write ``folder/slug.{png,svg,pdf,csv}``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in _METADATA.items():
        paths.append(folder / f"{slug}.{kind}")
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
        paths[-1].write_bytes(content.getvalue())
    paths.append(folder / f"{slug}.csv")
    data.to_csv(paths[-1], index=False)
    return Drawing(slug, title, caption, data, (folder / f"{slug}.svg").read_bytes(), paths)


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the report's style, whatever the user's matplotlibrc says. Also a decorator."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def panels(
    rows: int,
    columns: int,
    row_height: float,
    legend: Sequence[Line2D],
    *,
    wspace: float,
    left: float = 0.6,
    sharex: bool = True,
    sharey: bool = False,
) -> tuple[Figure, Any]:
    """A figure of ``rows`` by ``columns`` axes, ``row_height`` inches each, with the legend below them."""
    legend_columns = 2 if max((len(str(line.get_label())) for line in legend), default=0) > 24 else 3
    below = 0.55 + _LEGEND_LINE * -(-len(legend) // legend_columns)
    above = 0.25
    height = rows * row_height + above + below
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    figure.subplots_adjust(
        left=left / WIDTH,
        right=1 - 0.1 / WIDTH,
        bottom=below / height,
        top=1 - above / height,
        wspace=wspace,
        hspace=0.25,
    )
    figure.legend(handles=legend, loc="lower center", ncols=legend_columns, handlelength=3.2, fontsize=7)
    return figure, axes


def legend_lines(columns: Sequence[tuple[str, str]]) -> list[Line2D]:
    return [Line2D([], [], **line_style(column, columns)) for column in columns]


def markevery(points: int) -> int:
    """Draw about six markers on a line, however many points it has."""
    return max(1, points // _MARKERS_PER_LINE)


def mean_over_seeds(frame: pd.DataFrame, by: list[str], values: list[str]) -> pd.DataFrame:
    """Mean of each of ``values`` per ``by``, and the number of runs ``n``. A NaN in one run shows as NaN: a gap."""
    grouped = frame.groupby(by, sort=False, dropna=False)
    means = grouped[values].mean().where(grouped[values].count().eq(grouped.size(), axis=0))
    return means.assign(n=grouped.size()).reset_index()


@styled()
def draw_training(section: Section, curves: pd.DataFrame, folder: Path) -> Drawing:
    """The headline metric along training against the FLOPs spent so far: panels by pattern, curves by recipe."""
    runs = finished(section.runs)
    columns, patterns = columns_of(runs), patterns_of(runs) or [DENSE]
    headline = section.headline
    data = _training_data(section, curves)
    factor, prefix = si_prefix(data["training_flops"].max())
    wide = min(2, len(patterns))
    figure, axes = panels(-(-len(patterns) // wide), wide, 1.7, legend_lines(columns), wspace=0.08, sharey=True)
    for ax, pattern in zip(axes.flat, patterns, strict=False):
        for column in columns:
            drawn = data[(data["recipe"] == column[1]) & data["pattern"].isin([pattern, DENSE])]
            for _, curve in drawn.groupby("length", sort=False):
                _draw_curve(ax, curve, factor, headline, line_style(column, columns))
        ax.set_title(pattern, loc="left")
    for ax in axes[:, 0]:
        ax.set_ylabel(headline.axis)
    axes[0, 0].set_ylim(**_limits(data, headline))
    label_x(axes, len(patterns), f"training compute / {prefix}FLOPs")
    caption = (
        f"{headline.title} on the {headline.split} split against the training FLOPs spent until then: mean over seeds; "
        "the last point of a curve is the final, projected model, with its 95 % interval where there are seeds "
        "enough. Along the way the model that trains is evaluated, which in decay phases is denser than its pattern. "
        f"The axis {'ends' if headline.lower_is_better else 'starts'} where the recipes begin to differ; all points "
        "are in the data."
    )
    caption += _lost([result for group in section.groups for result in ordered_results(group)])
    title = f"{headline.title} and training FLOPs: {section.name}"
    return save(figure, f"{section.slug}-training", title, caption, data, folder)


def _training_data(section: Section, curves: pd.DataFrame) -> pd.DataFrame:
    """The mean curves; ``half_width`` of the final value stands at the last point of each."""
    name = section.headline.name
    points = evaluations(curves)[["folder", "update", "flops", "quality"]].rename(columns={"quality": name})
    by = ["pattern", "recipe", "length", "update"]
    drawn = []
    for group in section.groups:
        if not group.has_results:
            continue
        runs = finished(group.runs)
        runs = runs.assign(pattern=runs["sparsity"].fillna(DENSE), recipe=runs["label"])
        found = points.merge(runs[["folder", "pattern", "recipe", "updates"]], on="folder").assign(length=group.title)
        # Seeds that a budget has end at different updates: their last points are one.
        ends = found.groupby(["pattern", "recipe"])["updates"].transform("max")
        found["update"] = found["update"].where(found["update"] < found["updates"], ends)
        means = mean_over_seeds(found, by, ["flops", name]).rename(columns={"flops": "training_flops"})
        final = [
            (result.pattern, result.label, group.title, result.runs["updates"].max(), result.quality.half_width)
            for result in group.results.values()
            if len(result.finished)
        ]
        drawn.append(means.merge(pd.DataFrame(final, columns=[*by, "half_width"]), on=by, how="left"))
    return pd.concat(drawn).sort_values(by, kind="stable", ignore_index=True)


def _limits(data: pd.DataFrame, headline: Headline) -> dict[str, float]:
    """Where the axis stops on its worse side: final values decide, not the first steps away from chance."""
    final = headline.scale * data.groupby(["pattern", "recipe", "length"])[headline.name].last()
    if not final.notna().any():
        return {}
    room = max(3.0 if headline.percent else 0.1 * abs(final.mean()), 2 * (final.max() - final.min()))
    everything = headline.scale * data[headline.name]
    if not headline.lower_is_better:
        return {"bottom": float(max(final.min() - room, everything.min()))}
    top = float(min(final.max() + room, everything.max()))
    best = float(everything.min())  # said too: matplotlib's own margin is a share of the whole fall from the start
    if best == top:
        return {}
    return {"top": top, "bottom": best - 0.05 * (top - best)}


def _draw_curve(ax: Axes, curve: pd.DataFrame, factor: float, headline: Headline, style: dict[str, Any]) -> None:
    x, y = curve["training_flops"] / factor, headline.scale * curve[headline.name]
    ax.plot(x, y, markevery=markevery(len(curve)), **style)
    last = curve["half_width"].notna()
    if last.any():
        half_width = headline.scale * curve["half_width"][last]
        ax.errorbar(x[last], y[last], half_width, color=style["color"], capsize=2, linestyle="")


def label_x(axes: Any, used: int, label: str) -> None:
    """Label the x axis of the lowest panel of each column, and leave out the panels after the first ``used``."""
    wide = axes.shape[1]
    for ax in axes.flat[used:]:
        ax.set_axis_off()
    for ax in axes.flat[max(0, used - wide) : used]:
        ax.set_xlabel(label)
        ax.tick_params(labelbottom=True)


def _lost(results: Sequence[Result]) -> str:
    """What a figure does not show of the seeds that were lost."""
    named = [
        f"{result.label}{'' if result.pattern == DENSE else f' at {result.pattern}'} ({result.scores.lost_text})"
        for result in results
        if result.scores.lost
    ]
    return f" Not in it are the lost seeds of {', '.join(named)}." if named else ""


@styled()
def draw_quality(group: Group, section: str, folder: Path) -> Drawing:
    """The final headline metric over the patterns, densest first, a line per recipe; dense is a level across them."""
    columns, patterns, headline = group.columns, group.patterns, group.headline
    rows = [
        {
            "pattern": pattern,
            "recipe": label,
            group.headline.name: result.quality.mean,
            "half_width": result.quality.half_width,
            "n": result.quality.n,
        }
        for variant, label in columns
        for pattern in patterns
        if (result := group.result(pattern, variant, label)) is not None
    ]
    data = pd.DataFrame(rows)
    figure, axes = panels(1, 1, 2.3, legend_lines(columns), wspace=0)
    ax = axes[0, 0]
    for i, column in enumerate(columns):
        drawn = data[data["recipe"] == column[1]]
        aside = 0.05 * (i - (len(columns) - 1) / 2)  # so that intervals do not cover each other
        places = [patterns.index(pattern) + aside for pattern in drawn["pattern"]]
        y, half_width = (headline.scale * drawn[name] for name in (headline.name, "half_width"))
        ax.errorbar(places, y, half_width, capsize=2, **line_style(column, columns))
    ax.set_xticks(range(len(patterns)), patterns)
    ax.set_xlabel("pattern N:M")
    ax.set_ylabel(headline.axis)
    caption = (
        f"Final {headline.label} of the projected model (mean over seeds, bars: 95 % intervals; no bar: n = 1). A "
        "dense model has no pattern: it is the same at each. What differs is tested in the tables: bars that meet do "
        "not decide it."
    )
    caption += _lost(ordered_results(group))
    title = table_title(f"{headline.title} by pattern", section, group)
    return save(figure, f"{group.slug}-patterns", title, caption, data, folder)


@styled()
def draw_cost(group: Group, section: str, folder: Path) -> Drawing:
    """The final headline metric against inference FLOPs and bytes, a point per pattern and recipe, and the fronts."""
    columns, headline = group.columns, group.headline
    data = _cost_data(group)
    figure, axes = panels(1, 2, 2.3, legend_lines(columns), wspace=0.08, sharex=False, sharey=True)
    for ax, cost, what, unit in (
        (axes[0, 0], "inference_flops", "inference per sample", "FLOPs"),
        (axes[0, 1], "bytes", "size of the model", "B"),
    ):
        factor, prefix = si_prefix(data[cost].max())
        for column in columns:
            drawn = data[data["recipe"] == column[1]]
            style = line_style(column, columns) | {"linewidth": 0.6}
            y, half_width = (headline.scale * drawn[name] for name in (headline.name, "half_width"))
            ax.errorbar(drawn[cost] / factor, y, half_width, capsize=2, **style)
        front = data[data[f"{cost}_front"]].sort_values(cost)
        reached = headline.scale * front[headline.name]
        ax.plot(
            front[cost] / factor, reached, drawstyle="steps-post", color="#BBBBBB", lw=4, marker="o", ms=11, zorder=0
        )
        ax.set_xscale("log")
        ax.set_xticks(log_ticks(data[cost] / factor))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlabel(f"{what} / {prefix}{unit}")
    axes[0, 0].set_ylabel(headline.axis)
    caption = (
        f"Final {headline.label} (mean over seeds, bars: 95 % intervals; no bar: n = 1) against what inference "
        "costs where pruned weights are skipped. Thin lines join the patterns of a recipe; the broad grey line "
        "and the grey discs are the Pareto front of the means."
    )
    caption += _lost(ordered_results(group))
    title = table_title(f"{headline.title} and inference cost", section, group)
    return save(figure, f"{group.slug}-inference", title, caption, data, folder)


def log_ticks(values: pd.Series) -> list[float]:
    """From the smallest to the largest, evenly on a logarithmic axis, so that no label meets the next: two digits."""
    return sorted({float(f"{tick:.2g}") for tick in np.geomspace(values.min(), values.max(), 4)})


def _cost_data(group: Group) -> pd.DataFrame:
    results = [result for result in ordered_results(group) if len(result.finished)]
    fronts = {cost: on_front(group, cost) for cost in ("inference_flops", "bytes")}
    return pd.DataFrame(
        {
            "pattern": result.pattern,
            "recipe": result.label,
            group.headline.name: result.quality.mean,
            "half_width": result.quality.half_width,
            "n": result.quality.n,
            **{cost: result.mean(cost) for cost in fronts},
            **{f"{cost}_front": result.anchor in front for cost, front in fronts.items()},
        }
        for result in results
    )
