"""What a reader must know before trusting the numbers: runs that do not count, lines that were dropped, mixtures."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from nmtrain.report.folders import name_some
from nmtrain.report.headline import headline_of

_NOT_COUNTED = {
    "failed": "failed",
    "running": "still running, or were killed while running",
    "preempted": "were preempted and not resumed",
    "unreadable": "could not be read",
}


def notices(runs: pd.DataFrame) -> list[str]:
    """One sentence per kind of irregularity, with the run folders that it concerns."""
    said = [f"{int(runs['counted'].sum())} of {len(runs)} runs are finished and counted."]
    left_out = runs[~runs["counted"]]
    for status, found in left_out.groupby("status"):
        what = _NOT_COUNTED.get(str(status), f"have the status {status}")
        said.append(f"Not counted, {what}: {_with_reasons(found)}.")
    for column, what in (
        ("dropped_lines", "Lines of records that were broken off (a killed process leaves such) and dropped"),
        ("not_finite_lines", "Lines of records that hold a NaN or an infinity"),
    ):
        found = runs[runs[column] > 0]
        if len(found):
            said.append(f"{what}: {int(found[column].sum())}, in {name_some(list(found['folder']))}.")
    counted = runs[runs["counted"]]
    bare = counted[counted["metric_lines"].fillna(0) == 0]
    if len(bare):
        said.append(
            f"Counted, but without lines in metrics.jsonl, and so in no curve: {name_some(list(bare['folder']))}."
        )
    gaps = counted[counted["noise_missing"] > 0]
    if len(gaps):
        lacking = f"{int(gaps['noise_missing'].sum())} noise measurements"
        said.append(f"Counted, but lacking {lacking} that their configs ask for: {name_some(list(gaps['folder']))}.")
    lost = counted[counted["quality"].astype(float).isna()]
    for name, found in lost.groupby("headline"):
        what = f"a final {headline_of(str(name)).label} that is NaN or missing"
        said.append(f"Finished with {what}: {name_some(list(found['folder']))}.")
    return [*said, *_mixtures(counted)]


def _with_reasons(runs: pd.DataFrame) -> str:
    names = zip(runs["folder"], runs["reason"], strict=True)
    return name_some([f"{folder} ({reason})" if pd.notna(reason) else folder for folder, reason in names])


def _mixtures(counted: pd.DataFrame) -> Iterable[str]:
    """Runs that are averaged or compared although they are not quite alike."""
    versions = counted["code"].value_counts().sort_index()
    if len(versions) > 1:
        listed = "; ".join(f"{code} ({count} runs)" for code, count in versions.items())
        yield f"Trained by {len(versions)} versions of the code: {listed}."
    names = ["model", "data", "sparsity", "label"]
    for _, cell in counted[["cell", "folder", "code", "seed", *names]].groupby("cell", sort=False):
        name = " ".join(cell[names].iloc[0].dropna().astype(str))
        if cell["code"].nunique() > 1:
            codes = cell.groupby("code")["folder"]
            listed = "; ".join(f"{code}: {name_some(list(folders))}" for code, folders in codes)
            yield f"Same config, different code versions ({name}): {listed}."
        twice = cell[cell.duplicated("seed", keep=False)]
        if len(twice):
            yield f"The same seed was run more than once ({name}) and counts once: {name_some(list(twice['folder']))}."
