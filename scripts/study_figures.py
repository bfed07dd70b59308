"""The figures of the study, from its records: accuracy against training FLOPs, and against noise, at 1:32.

    python scripts/study_figures.py results/study

They are written as FOLDER/figures/*.svg and *.png.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox
from study_answers import ALL, BEDS, BRIEF, DENSE, STRAIGHT, Records, on_test, run_noise

from nmtrain.report.compare.statistics import estimate
from nmtrain.report.draw.style import RC, look

TITLES = {
    "g2p": "language: words to phonemes, T5 of width 64",
    "glyphs": "vision: 200 glyphs, ViT of width 64",
}
AXES = {"g2p": "words right on test / %", "glyphs": "images right on test / %"}
FILLS = {STRAIGHT: "none", BRIEF: "#A6DCCB"}
SHORT = {STRAIGHT: "MDGF exp., straight-through", BRIEF: "brief MDGF"}


def accuracy_against_flops(get: Records) -> None:
    """Tuned recipes with the interval of their mean, and other methods at one learning rate, one seed each, as dots."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.9), layout="constrained")
    for ax, (bed, updates) in zip(axes, BEDS.items(), strict=True):
        tuned = at_1_of_32(pd.concat([on_test(get.parts[part]) for part in ("tuned", "brief")]), bed)
        dense = tuned[tuned["label"] == DENSE]["training_flops"].median()
        points = []
        for (label, _), runs in tuned.groupby(["label", "group"]):
            colour, marker, _ = look(runs["variant"].iloc[0])
            mean = estimate(list(runs["points"]))
            share, length = runs["training_flops"].mean() / dense, runs["updates"].mean() / updates
            full = abs(length - 1) < 0.01  # of one budget, seeds of text differ by a few updates
            fill = FILLS.get(label, colour) if full else "none"
            ax.errorbar(share, mean.mean, mean.half_width, color=colour, marker=marker, mfc=fill, capsize=2, zorder=2)
            name = SHORT.get(label, label)
            if not full:
                name = f"{label.replace('exponential', 'exp.')}, {length:.2g} \N{MULTIPLICATION SIGN} updates"
            points.append(Point(share, mean.mean, mean.half_width, name, colour))
        others = at_1_of_32(on_test(get.parts["methods"]), bed)
        for _, run in others[~others["label"].isin(tuned["label"])].iterrows():
            share = run["training_flops"] / dense
            ax.plot(share, run["points"], ".", color="#999999", markersize=4, zorder=1)
            points.append(Point(share, run["points"], 0.0, run["label"], "#777777"))
        ax.set(title=TITLES[bed], xlabel="training FLOPs / those of dense training", ylabel=AXES[bed], xlim=(0, 1.5))
        name_points(ax, points)
    save(figure, get, "flops")


def accuracy_against_noise(get: Records) -> None:
    """A dot for each tuned run."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.2), layout="constrained")
    names: dict[str, Artist] = {}
    for ax, (bed, updates) in zip(axes, BEDS.items(), strict=True):
        runs = pd.concat(run_noise(get.parts[part], "second_moment_mean") for part in ("tuned", "brief"))
        runs = runs[(runs["data"] == bed) & (runs["sparsity"] == "1:32") & (runs["updates"] == updates)]
        for label, own in runs.groupby("label"):
            colour, marker, _ = look(own["variant"].iloc[0])
            fill = FILLS.get(label, colour)
            name = SHORT.get(label, label)
            (names[name],) = ax.plot(np.exp(own["noise"]), own["points"], marker, color=colour, mfc=fill)
        ax.set(title=TITLES[bed], xlabel="Adam's second moment, geometric mean over training", ylabel=AXES[bed])
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(LogLocator(subs=(2, 4, 6)))
    figure.legend(names.values(), names, loc="outside lower center", ncols=4, fontsize=7)
    save(figure, get, "noise")


def at_1_of_32(runs: pd.DataFrame, bed: str) -> pd.DataFrame:
    own = runs[runs["data"] == bed]
    return own[(own["label"] == DENSE) | ((own["sparsity"] == "1:32") & (own["roles"] == ALL))]


@dataclass(frozen=True)
class Point:
    """What a figure shows, in its units, with half of the interval, and how it is called there."""

    x: float
    y: float
    half_width: float
    name: str
    colour: str


SIDES = (  # of a point, the best one first, in points: where its name begins or ends
    *((5, 2, "left"), (-5, 2, "right"), (5, -3, "left"), (-5, -3, "right")),
    *((5, -8, "left"), (-5, -8, "right"), (5, 7, "left"), (-5, 7, "right")),
)


def name_points(ax: Axes, points: Sequence[Point]) -> None:
    """Each name at that side of its point where it covers least of the others, of names before it, and of the edge."""
    ax.figure.canvas.draw()  # from here on, places in the picture are final
    reach = ax.figure.dpi / 20
    taken = []
    for point in points:
        low, high = ax.transData.transform([(point.x, point.y + sign * point.half_width) for sign in (-1, 1)])
        taken.append(Bbox([low - reach, high + reach]))
    for point in points:
        tried = [
            ax.annotate(
                point.name,
                (point.x, point.y),
                (x, y),
                textcoords="offset points",
                fontsize=6.5,
                ha=align,
                color=point.colour,
                in_layout=False,
            )
            for x, y, align in SIDES
        ]
        boxes = [text.get_window_extent() for text in tried]
        covered = [
            sum(shared(box, other) for other in taken) + area(box) * (1 + 0.02 * place) - shared(box, ax.bbox)
            for place, box in enumerate(boxes)
        ]
        best = int(np.argmin(covered))
        taken.append(boxes[best])
        for text in (text for number, text in enumerate(tried) if number != best):
            text.remove()


def area(box: Bbox) -> float:
    return float(box.width * box.height)


def shared(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else area(both)


def save(figure: plt.Figure, get: Records, name: str) -> None:
    folder = get.root / "figures"
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=160)


if __name__ == "__main__":
    records = Records(Path(sys.argv[1]))
    with plt.rc_context(RC):
        accuracy_against_flops(records)
        accuracy_against_noise(records)
