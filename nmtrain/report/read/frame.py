"""The data frames that every table and figure of a report comes from.

``runs`` has one row per run folder, ``curves`` one per evaluation, ``noise`` one per noise measurement (the average
over tensors). ``runs`` holds every folder that was found, and those that were evaluated on the test split after
training once more, ``afterwards``; ``counted`` says which rows have results, ``lost`` how a run failed whose seed is
missing from its cell. ``quality`` is the value, on ``split``, of the metric that ``headline`` names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from nmtrain.report.read import provenance
from nmtrain.report.read.defaults import shipped_options
from nmtrain.report.read.flat import Flat, flatten, without
from nmtrain.report.read.folders import RunFolder, common_folder, lookup
from nmtrain.report.read.grouping import column_labels, pattern_text
from nmtrain.report.read.headline import DEFAULT
from nmtrain.report.read.identity import identify, noise_patterns, signature_of
from nmtrain.report.read.schedule import strict_from
from nmtrain.report.read.split import by_split, metrics_on, split_of
from nmtrain.report.read.tunings import Tunings, read_tunings
from nmtrain.runs.tuning import Tuning

# The status of a run that only chose values, and of one whose values a wider grid has replaced.
TUNING, OUTRANKED = "tuning", "another tuning counts"

# Columns of `runs` that are read off summary.json as they are.
_SUMMARY = {
    "updates": "updates",
    "epochs": "epochs",
    "training_flops": "flops.training",
    "training_flops_dense": "flops.training_dense",
    "inference_flops": "flops.inference",
    "inference_flops_dense": "flops.inference_dense",
    "bytes_dense": "bytes.dense",
    "bytes_sparse": "bytes.sparse",
    "density": "density",
    "seconds": "seconds.total",
    "seconds_train": "seconds.train",
    "seconds_eval": "seconds.eval",
    "seconds_data": "seconds.data",
}
_NUMBERS = [
    *_SUMMARY,
    *("quality", "loss", "seconds_per_update", "throughput", "padding", "bytes", "bytes_exported", "peak_memory_bytes"),
    *("active_share", "no_label", "penalty_times", "measured_every", "measured_window"),
    *("seed", "metric_lines", "strict_from", "switched_at"),
]
_CURVES = ("update", "epoch", "split", "flops")


@dataclass(frozen=True)
class Frames:
    """The frames; ``settings``: what the config of each group (by its key) says; and what was tuned.

    ``metrics`` has the rows of ``runs``, and a column for every metric that one of them recorded on its split.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    curves: pd.DataFrame
    noise: pd.DataFrame
    settings: dict[str, Flat]
    tunings: list[Tuning]

    @property
    def trained(self) -> pd.DataFrame:
        """The row of each run folder."""
        return self.runs[~self.runs["afterwards"]]

    def write(self, folder: Path) -> list[Path]:
        """Save each frame as CSV and Parquet; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name in ("runs", "curves", "noise"):
            table = pyarrow.Table.from_pandas(getattr(self, name), preserve_index=False)
            paths += [folder / f"{name}.csv", folder / f"{name}.parquet"]
            # A tenth of the time that pandas takes to write numbers as text.
            pyarrow.csv.write_csv(table, paths[-2], pyarrow.csv.WriteOptions(quoting_style="needed"))
            pyarrow.parquet.write_table(table, paths[-1])
        return paths


def build_frames(folders: Sequence[RunFolder]) -> Frames:
    """One set of frames from run folders, in their order."""
    base = common_folder(folders)
    tunings = read_tunings(folder.path for folder in folders)
    folders = by_split(folders)
    identities, settings = identify(folders, tunings)
    rows = [_row(folder, base) | identity for folder, identity in zip(folders, identities, strict=True)]
    for row, folder in zip(rows, folders, strict=True):
        if folder.path in tunings.trials and (row["counted"] or row.get("lost")):
            row |= {"status": TUNING, "counted": False, "lost": None}
    _place(rows, folders, tunings)
    runs = pd.DataFrame([{column: row.get(column) for column in COLUMNS} for row in rows])
    runs[_NUMBERS] = runs[_NUMBERS].apply(pd.to_numeric)  # columns of Nones too
    metrics = pd.DataFrame([row.get("metrics") or {} for row in rows]).astype(float)
    return Frames(runs, metrics, _curves(folders, runs), _noise(folders, runs["folder"]), settings, tunings.records)


def _place(rows: list[dict[str, Any]], folders: Sequence[RunFolder], tunings: Tunings) -> None:
    """Give each run that counts, or is lost, the label of its column and its cell."""
    placed = [
        (row, tunings.options(folder.path, _recipe_options(folder.config)))
        for row, folder in zip(rows, folders, strict=True)
        if row["counted"] or row.get("lost")
    ]
    recipes = [(row["recipe"], row["variant"], row["gradient"], options) for row, options in placed]
    default = {recipe: shipped_options(recipe) for recipe, _, _, _ in recipes}
    for (row, _), label in zip(placed, column_labels(recipes, default), strict=True):
        row["label"] = label
        row["cell"] = f"cell-{row['group']}-{slug(row['sparsity'] or 'dense')}-{slug(label)}"
    _set_aside_outranked(rows, folders, tunings)
    finished = {(row["cell"], row["seed"]) for row, _ in placed if row["counted"]}
    for row, _ in placed:
        if row["lost"] and (row["cell"], row["seed"]) in finished:  # repeated in another folder
            row |= {"lost": None, "label": None, "cell": None}


def _set_aside_outranked(rows: list[dict[str, Any]], folders: Sequence[RunFolder], tunings: Tunings) -> None:
    """Take out of each cell the runs whose values came from another tuning than the one that counts."""
    cells: dict[str, list[tuple[dict[str, Any], Path]]] = defaultdict(list)
    for row, folder in zip(rows, folders, strict=True):
        if row.get("cell"):
            cells[row["cell"]].append((row, folder.path))
    for own in cells.values():
        outranked = tunings.outranked([path for _, path in own])
        for row in (row for row, path in own if path in outranked):
            row |= {"status": OUTRANKED, "counted": False, "lost": None, "label": None, "cell": None}


def slug(text: str) -> str:
    """A name for files and anchors: ``1:32`` gives ``1of32``, other signs become hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace(":", "of")).strip("-")


def _row(folder: RunFolder, base: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": folder.path.name,
        "folder": folder.path.relative_to(base).as_posix(),
        "status": folder.status,
        # A failure names its log by full path, and may have several lines.
        "reason": folder.reason and " ".join(folder.reason.replace(f"{base}/", "").split()),
        "afterwards": folder.afterwards,
        "test_fault": folder.test_fault,
        "counted": folder.summary is not None,
        "code": provenance.code(folder.environment),
        "plugins": provenance.plugins(folder.config, folder.environment),
        "libraries": provenance.libraries(folder.environment),
        "device": provenance.device(folder.environment),
        "noise_missing": _noise_missing(folder),
        "strict_from": strict_from(folder),
    }
    if folder.summary is not None:
        row |= _results(folder.summary, split_of(folder.config))
        row["penalty_times"] = provenance.penalty_times(folder.config, folder.summary, folder.environment)
    if folder.metrics is not None:
        row["metric_lines"] = folder.metrics.lines
    measure = folder.config.get("measure") or {}
    row |= {"measured_every": measure.get("every"), "measured_window": measure.get("window")}
    records = [records for records in (folder.metrics, folder.noise) if records is not None]
    row["dropped_lines"] = sum(len(record.dropped) for record in records)
    row["not_finite_lines"] = sum(record.not_finite for record in records)
    return row


def _results(summary: dict[str, Any], split: str) -> dict[str, Any]:
    metrics = metrics_on(split, summary["metrics"])
    sparse = summary["sparsity"] is not None
    throughput = summary.get("throughput") or {}
    return {
        **{column: lookup(summary, key) for column, key in _SUMMARY.items()},
        "quality": metrics.get(summary.get("headline", DEFAULT)),
        "loss": metrics.get("loss"),
        "bytes": summary["bytes"]["sparse" if sparse else "dense"],
        "bytes_exported": summary["bytes"].get("exported"),
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        "seconds_per_update": summary["seconds"]["train"] / summary["updates"],
        "throughput": throughput.get("per_second"),
        "throughput_unit": throughput.get("unit"),
        "padding": summary.get("padding"),
        "active_share": summary.get("active_share"),
        "no_label": _no_label(metrics),
        "metrics": metrics,
        "signature": signature_of(summary),
        "switched_at": summary.get("switched_at"),
    }


def _no_label(metrics: dict[str, Any]) -> float | None:
    """The largest share of answers, over the sets of the split, that are no label."""
    shares = [share for name, share in metrics.items() if name.startswith("invalid") and share is not None]
    return max(shares, default=None)


def _noise_missing(folder: RunFolder) -> int:
    """Measurements of a finished run that its config asks for and its records do not hold."""
    every = (folder.config.get("measure") or {}).get("every")
    if folder.summary is None or not every or folder.afterwards:
        return 0
    recorded = 0 if folder.noise is None else len(folder.noise.points)
    asked = folder.summary["updates"] // every * len(noise_patterns(folder.config))
    return max(0, int(asked - recorded))


def _recipe_options(config: dict[str, Any]) -> Flat:
    """What the config says of the recipe, and what was not to be said when it was written."""
    options = shipped_options(config["recipe"]["name"]) | flatten(config["recipe"])
    return without(options, ("name", "gradient"))


def _curves(folders: Sequence[RunFolder], runs: pd.DataFrame) -> pd.DataFrame:
    rows = [
        (name, *(point.get(column) for column in (*_CURVES, headline, "loss")))
        for name, headline, folder in zip(runs["folder"], runs["headline"], folders, strict=True)
        if folder.metrics is not None
        for point in folder.metrics.points
    ]
    curves = pd.DataFrame(rows, columns=["folder", *_CURVES, "quality", "loss"])
    return curves.astype(dict.fromkeys(("epoch", "flops", "quality", "loss"), float))


def _noise(folders: Sequence[RunFolder], names: pd.Series) -> pd.DataFrame:
    rows = [
        {"folder": name, "sparsity": own} | point  # lines of earlier versions do not say what they were measured for
        for name, folder in zip(names, folders, strict=True)
        if folder.noise is not None
        for own in [pattern_text(folder.config["sparsity"])]
        for point in folder.noise.points
    ]
    return pd.DataFrame(rows, columns=None if rows else ["folder", "sparsity", "update", "pattern", "decay"])


COLUMNS = (
    "run",
    "folder",
    "status",
    "reason",
    "afterwards",
    "test_fault",
    "counted",
    "lost",
    "model",
    "data",
    "split",
    "roles",
    "sparsity",
    "target_density",
    "noise_pattern",
    "recipe",
    "variant",
    "gradient",
    "label",
    "seed",
    "headline",
    "quality",
    "loss",
    *_SUMMARY,
    "active_share",
    "seconds_per_update",
    "throughput",
    "throughput_unit",
    "padding",
    "no_label",
    "signature",
    "bytes",
    "bytes_exported",
    "peak_memory_bytes",
    "device",
    "code",
    "plugins",
    "libraries",
    "penalty_times",
    "metric_lines",
    "dropped_lines",
    "not_finite_lines",
    "noise_missing",
    "measured_every",
    "measured_window",
    "strict_from",
    "switched_at",
    "group",
    "family",
    "dense_group",
    "dense_family",
    "as_given",
    "cell",
)
