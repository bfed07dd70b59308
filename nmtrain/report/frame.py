"""The data frames that every table and figure of a report comes from.

``runs`` has one row per run folder, ``curves`` one per evaluation, ``noise`` one per noise measurement (the average
over tensors). ``runs`` holds every folder that was found; ``counted`` says which rows have results. ``quality`` is the
value of the metric that ``headline`` names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from nmtrain.report.folders import RunFolder, common_folder, lookup
from nmtrain.report.grouping import Flat, column_labels, data_label, density_of, flatten, keys_of, setting_of, without
from nmtrain.report.headline import DEFAULT

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
    *("seed", "metric_lines", "strict_from"),
]
_CURVES = ("update", "epoch", "split", "flops")


@dataclass(frozen=True)
class Frames:
    """The frames, and ``settings``: what the config of each group (by its key) says."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    noise: pd.DataFrame
    settings: dict[str, Flat]

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
    settings: dict[str, Flat] = {}
    rows = [_row(folder, base, settings) for folder in folders]
    counted = [row for row in rows if row["counted"]]
    options = [_recipe_options(folder.config) for folder in folders if folder.summary is not None]
    recipes = [
        (row["recipe"], row["variant"], row["gradient"], given) for row, given in zip(counted, options, strict=True)
    ]
    for row, label in zip(counted, column_labels(recipes), strict=True):
        row["label"] = label
        row["cell"] = f"cell-{row['group']}-{slug(row['sparsity'] or 'dense')}-{slug(label)}"
    runs = pd.DataFrame(rows)
    runs[_NUMBERS] = runs[_NUMBERS].apply(pd.to_numeric)  # columns of Nones too
    return Frames(runs, _curves(folders, runs), _noise(folders, runs["folder"]), settings)


def slug(text: str) -> str:
    """A name for files and anchors: ``1:32`` gives ``1of32``, other signs become hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace(":", "of")).strip("-")


def _row(folder: RunFolder, base: Path, settings: dict[str, Flat]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": folder.path.name,
        "folder": folder.path.relative_to(base).as_posix(),
        "status": folder.status,
        # A failure names its log by full path, and may have several lines.
        "reason": folder.reason and " ".join(folder.reason.replace(f"{base}/", "").split()),
        "counted": folder.summary is not None,
        "code": _code(folder.environment),
        "device": folder.environment.get("device"),
    }
    row |= _identity(folder, settings) if folder.config else {}
    row |= _results(folder.summary) if folder.summary is not None else {}
    if folder.metrics is not None:
        row["metric_lines"] = folder.metrics.lines
        row["strict_from"] = folder.metrics.strict_from
    row["noise_missing"] = _noise_missing(folder)
    records = [records for records in (folder.metrics, folder.noise) if records is not None]
    row["dropped_lines"] = sum(len(record.dropped) for record in records)
    row["not_finite_lines"] = sum(record.not_finite for record in records)
    return {column: row.get(column) for column in COLUMNS}


def _identity(folder: RunFolder, settings: dict[str, Flat]) -> dict[str, Any]:
    """What the run is, from its config; a finished run's summary knows the variant and the gradient rule too."""
    config, summary = folder.config, folder.summary or {}
    is_dense = config["recipe"]["name"] == "dense"
    headline = summary.get("headline", DEFAULT)
    setting = setting_of(config, headline)
    keys = keys_of(setting, is_dense)
    settings.setdefault(keys.group, setting)
    sparsity = None if is_dense else config["sparsity"]
    recipe = summary.get("recipe", config["recipe"])
    return {
        "model": config["model"]["name"],
        "data": data_label(config["data"]),
        "roles": None if is_dense else "+".join(summary.get("roles", config["mask"]["roles"])),
        "sparsity": sparsity,
        "target_density": density_of(sparsity),
        "noise_pattern": config["sparsity"],  # dense runs too are measured with a mask, this one
        "recipe": recipe["name"],
        "variant": recipe.get("variant"),
        "gradient": recipe.get("gradient"),
        "seed": config["seed"],
        "headline": headline,
        **vars(keys),
    }


def _results(summary: dict[str, Any]) -> dict[str, Any]:
    sparse = summary["sparsity"] is not None
    throughput = summary.get("throughput") or {}
    return {
        **{column: lookup(summary, key) for column, key in _SUMMARY.items()},
        "quality": summary["metrics"].get(f"val/{summary.get('headline', DEFAULT)}"),
        "loss": summary["metrics"].get("val/loss"),
        "bytes": summary["bytes"]["sparse" if sparse else "dense"],
        "bytes_exported": summary["bytes"].get("exported"),
        "peak_memory_bytes": summary.get("peak_memory_bytes"),
        "seconds_per_update": summary["seconds"]["train"] / summary["updates"],
        "throughput": throughput.get("per_second"),
        "throughput_unit": throughput.get("unit"),
        "padding": summary.get("padding"),
    }


def _code(environment: dict[str, Any]) -> str:
    """Version and commit that trained the run; all of them, in order, where it was resumed with other code."""
    trained_by = [_one_code(one) for one in (*environment.get("before", ()), environment)]
    return ", then ".join(code for code, _ in groupby(trained_by))


def _one_code(environment: dict[str, Any]) -> str:
    version = environment.get("versions", {}).get("nmtrain")
    commit = environment.get("git_commit")
    parts = [part for part in (version, commit and f"commit {commit}") if part]
    return ", ".join(parts) or "unknown"


def _noise_missing(folder: RunFolder) -> int:
    """Measurements of a finished run that its config asks for and its records do not hold."""
    every = (folder.config.get("measure") or {}).get("every")
    if folder.summary is None or not every:
        return 0
    recorded = 0 if folder.noise is None else len(folder.noise.points)
    return max(0, int(folder.summary["updates"] // every - recorded))


def _recipe_options(config: dict[str, Any]) -> Flat:
    return without(flatten(config["recipe"]), ("name", "gradient"))


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
        {"folder": name} | point
        for name, folder in zip(names, folders, strict=True)
        if folder.noise is not None
        for point in folder.noise.points
    ]
    return pd.DataFrame(rows, columns=None if rows else ["folder", "update", "pattern", "decay"])


COLUMNS = (
    "run",
    "folder",
    "status",
    "reason",
    "counted",
    "model",
    "data",
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
    "seconds_per_update",
    "throughput",
    "throughput_unit",
    "padding",
    "bytes",
    "bytes_exported",
    "peak_memory_bytes",
    "device",
    "code",
    "metric_lines",
    "dropped_lines",
    "not_finite_lines",
    "noise_missing",
    "strict_from",
    "group",
    "family",
    "dense_group",
    "dense_family",
    "cell",
)
