"""The figures of the study, from its records: accuracy against training FLOPs, and against noise, at 1:32.

    python scripts/study_figures.py results/study

They are written as FOLDER/figures/*.svg and *.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from study_answers import ALL, BEDS, BRIEF, DENSE, SR_STE, STRAIGHT, Records, on_test, run_noise

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
        cells = tuned.groupby(["label", "group"])
        means, shares = cells["points"].mean(), cells["training_flops"].mean() / dense
        sr_ste = tuned[tuned["label"] == SR_STE]["points"].mean()
        others = at_1_of_32(on_test(get.parts["methods"]), bed)
        others = others[~others["label"].isin(tuned["label"])]
        for _, run in others.iterrows():
            ax.plot(run["training_flops"] / dense, run["points"], ".", color="#999999", markersize=4, zorder=1)
            x = run["training_flops"] / dense
            note(ax, x, run["points"], run["label"], "#777777", "left" if 0.25 < x < 0.48 else "right")
        for (label, _), runs in cells:
            colour, marker, _ = look(runs["variant"].iloc[0])
            mean = estimate(list(runs["points"]))
            x = runs["training_flops"].mean() / dense
            length = runs["updates"].mean()  # of one budget, seeds of text differ by a few
            fill = "none" if length != updates else FILLS.get(label, colour)
            ax.errorbar(x, mean.mean, mean.half_width, color=colour, marker=marker, mfc=fill, capsize=2, zorder=2)
            name = SHORT.get(label, label)
            if length != updates:
                name = f"{label.replace('exponential', 'exp.')}, {length / updates:.2g} \N{MULTIPLICATION SIGN} updates"
            beside = means[(shares - x).abs() < 0.02]
            if 0.3 < x < 0.48 and mean.mean > sr_ste + 1:
                place = "above left"
            else:
                above = beside[beside > mean.mean + 1e-9]
                place = "below" if len(above) and (above.min() < mean.mean + 1.5 or len(above) > 2) else "right"
            note(ax, x, mean.mean, name, colour, place)
        ax.set(title=TITLES[bed], xlabel="training FLOPs / those of dense training", ylabel=AXES[bed], xlim=(0, 1.4))
    save(figure, get, "flops")


def accuracy_against_noise(get: Records) -> None:
    """A dot for each tuned run."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), layout="constrained")
    for ax, (bed, updates) in zip(axes, BEDS.items(), strict=True):
        runs = pd.concat(run_noise(get.parts[part], "second_moment_mean") for part in ("tuned", "brief"))
        runs = runs[(runs["data"] == bed) & (runs["sparsity"] == "1:32") & (runs["updates"] == updates)]
        for label, own in runs.groupby("label"):
            colour, marker, _ = look(own["variant"].iloc[0])
            fill = FILLS.get(label, colour)
            name = SHORT.get(label, label)
            ax.plot(np.exp(own["noise"]), own["points"], marker, color=colour, mfc=fill, label=name)
        ax.set(title=TITLES[bed], xlabel="Adam's second moment, geometric mean over training", ylabel=AXES[bed])
        ax.set_xscale("log")
        ax.legend(fontsize=7)
    save(figure, get, "noise")


def at_1_of_32(runs: pd.DataFrame, bed: str) -> pd.DataFrame:
    own = runs[runs["data"] == bed]
    return own[(own["label"] == DENSE) | ((own["sparsity"] == "1:32") & (own["roles"] == ALL))]


PLACES = {  # of a name beside its point
    "right": {"xytext": (5, 2)},
    "left": {"xytext": (-5, -3), "ha": "right"},
    "above left": {"xytext": (-5, 4), "ha": "right"},
    "below": {"xytext": (5, -9)},
}


def note(ax: Axes, x: float, y: float, text: str, colour: str, place: str) -> None:
    ax.annotate(text, (x, y), textcoords="offset points", fontsize=6.5, color=colour, **PLACES[place])


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
