"""What a reader must know before trusting the numbers: runs that do not count, lines that were dropped, mixtures."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from nmtrain.report.read.folders import name_some
from nmtrain.report.read.frame import OUTRANKED, TUNING
from nmtrain.report.read.grouping import pattern_order
from nmtrain.report.read.headline import headline_of
from nmtrain.report.read.identity import method_of
from nmtrain.report.read.split import WORDS

_NOT_COUNTED = {
    "failed": "failed",
    "running": "still running, or were killed while running",
    "preempted": "were preempted and not resumed",
    "unreadable": "could not be read",
    TUNING: "were for tuning, and stand in its table",
    OUTRANKED: "were tuned over a narrower grid than others like them, with fewer seeds, or to a lower score",
}
_MANY = 0.05  # of a model's answers, that are no label


def notices(runs: pd.DataFrame) -> list[str]:
    """One sentence per kind of irregularity, with the run folders that it concerns."""
    trained = runs[~runs["afterwards"]]
    said = [f"{int(trained['counted'].sum())} of {len(trained)} runs are finished and counted."]
    left_out = trained[~trained["counted"]]
    for status, found in left_out.groupby("status"):
        what = _NOT_COUNTED.get(str(status), f"have the status {status}")
        said.append(f"Not counted, {what}: {_with_reasons(found)}.")
    for column, what in (
        ("dropped_lines", "Lines of records that were broken off (a killed process leaves such) and dropped"),
        ("not_finite_lines", "Lines of records that hold a NaN or an infinity"),
    ):
        found = trained[trained[column] > 0]
        if len(found):
            said.append(f"{what}: {int(found[column].sum())}, in {name_some(list(found['folder']))}.")
    said += _on_test(runs)
    counted = runs[runs["counted"]]
    chosen = counted[counted["as_given"].isin(set(counted["group"]))]
    if len(chosen):
        said.append(
            "Their values were chosen by tuning, and they stand in its table alone, not in that of runs to which the "
            f"same values were given: {name_some(list(chosen['folder']))}."
        )
    bare = trained[trained["counted"] & (trained["metric_lines"].fillna(0) == 0)]
    if len(bare):
        said.append(
            f"Counted, but without lines in metrics.jsonl, and so in no curve: {name_some(list(bare['folder']))}."
        )
    gaps = counted[counted["noise_missing"] > 0]
    if len(gaps):
        lacking = f"{int(gaps['noise_missing'].sum())} noise measurements"
        said.append(f"Counted, but lacking {lacking} that their configs ask for: {name_some(list(gaps['folder']))}.")
    said += _other_masks(counted[~counted["afterwards"] & counted["measured_every"].notna()])
    lost = counted[counted["quality"].astype(float).isna()]
    for (split, name), found in lost.groupby(["split", "headline"], sort=False):
        what = f"a final {WORDS[split]} {headline_of(name).label} that is NaN or missing"
        said.append(f"Finished with {what}: {name_some(list(found['folder']))}.")
    astray = counted[counted["no_label"] > _MANY]
    if len(astray):
        shares = zip(astray["folder"], astray["no_label"], strict=True)
        listed = name_some([f"{folder} ({100 * share:.1f} %)" for folder, share in shares])
        said.append(f"More than {100 * _MANY:.0f} % of the answers are no label: {listed}.")
    wrong = trained[trained["counted"] & (trained["penalty_times"] > 1)]
    if len(wrong):
        said.append(
            "Trained by a version that added the penalty of SR-STE once per micro-batch, where once per update is "
            f"right: {_repeated(wrong)}. Repeat them (force=true); they are marked ¶."
        )
    return [*said, *dict.fromkeys(_mixtures(counted)), *_signatures(counted)]


def _on_test(runs: pd.DataFrame) -> Iterable[str]:
    """What of the test split cannot be told, or not of all runs."""
    faults = runs[runs["test_fault"].notna() & ~runs["afterwards"]]
    if len(faults):
        listed = [f"{folder} ({why})" for folder, why in zip(faults["folder"], faults["test_fault"], strict=True)]
        yield f"Not counted on the test split, since test/metrics.json cannot be used: {name_some(listed)}."
    missing = runs[runs["afterwards"] & ~runs["counted"] & runs["lost"].isna() & runs["test_fault"].isna()]
    if len(missing):
        yield (
            "Not evaluated on the test split, as others like them are (nmtrain eval RUN data.evaluate=test does it): "
            f"{name_some(list(missing['folder']))}."
        )


def _other_masks(measured: pd.DataFrame) -> Iterable[str]:
    """Dense runs whose noise was not split by the mask of each pattern that they stand beside."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for _, runs in measured.groupby("dense_group", sort=False):
        wanted = {*runs["sparsity"].dropna()}
        dense = runs[runs["sparsity"].isna()]
        for folder, own in zip(dense["folder"], dense["noise_pattern"].str.split(", "), strict=True):
            if missing := sorted(wanted.difference(own), key=pattern_order):
                every = sorted(wanted.union(own), key=pattern_order)
                lacking.setdefault((", ".join(missing), ",".join(every)), []).append(folder)
    for (absent, patterns), folders in lacking.items():
        yield (
            f"Dense, and without noise by the masks of {absent}, which others beside them have "
            f"(measure.patterns=[{patterns}] force=true repeats them): {name_some(folders)}."
        )


def _repeated(runs: pd.DataFrame) -> str:
    times = zip(runs["folder"], runs["penalty_times"], strict=True)
    return name_some([f"{folder} ({count:.0f} times the penalty)" for folder, count in times])


def _with_reasons(runs: pd.DataFrame) -> str:
    names = zip(runs["folder"], runs["reason"], strict=True)
    return name_some([f"{folder} ({reason})" if pd.notna(reason) else folder for folder, reason in names])


def _mixtures(counted: pd.DataFrame) -> Iterable[str]:
    """Runs that are averaged or compared although they are not quite alike."""
    versions = counted["code"][~counted["afterwards"]].value_counts().sort_index()
    if len(versions) > 1:
        listed = "; ".join(f"{code} ({count} runs)" for code, count in versions.items())
        yield f"Trained by {len(versions)} versions of the code: {listed}."
    for column, what, then in (
        ("libraries", "sets of library versions or variables", ""),
        ("device", "devices", " What was measured stands apart, the final values do not"),
    ):
        yield from _compared(counted, column, what, then)
    names = ["model", "data", "sparsity", "label"]
    both = zip(counted["code"], counted["plugins"], strict=True)
    counted = counted.assign(code=[f"{code}, {plugins}" if pd.notna(plugins) else code for code, plugins in both])
    for _, cell in counted[["cell", "folder", "code", "seed", *names]].groupby("cell", sort=False):
        name = " ".join(cell[names].iloc[0].dropna().astype(str))
        if cell["code"].nunique() > 1:
            codes = cell.groupby("code")["folder"]
            listed = "; ".join(f"{code}: {name_some(list(folders))}" for code, folders in codes)
            yield f"Same config, different code versions ({name}): {listed}."
        twice = cell[cell.duplicated("seed", keep=False)]
        if len(twice):
            yield f"The same seed was run more than once ({name}) and counts once: {name_some(list(twice['folder']))}."


def _compared(counted: pd.DataFrame, column: str, what: str, then: str) -> Iterable[str]:
    """Sections whose runs were trained by several of ``column``, with the runs of each."""
    known = counted[[column, "dense_family", "folder", "model", "data"]].fillna({column: "unrecorded"})
    for _, runs in known.groupby("dense_family", sort=False):
        if runs[column].nunique() > 1:
            told = {text: ", ".join(parts) for text, parts in _telling(sorted(runs[column].unique())).items()}
            folders = runs.groupby(column)["folder"]
            listed = "; ".join(f"{told[text] or text}: {name_some(list(found))}" for text, found in folders)
            name = f"{runs['model'].iloc[0]} on {runs['data'].iloc[0]}"
            yield f"Compared, though trained by {len(folders)} {what} ({name}): {listed}.{then}{'.' if then else ''}"


def _telling(texts: list[str]) -> dict[str, list[str]]:
    """Of each list in words, the parts that are not in all of them."""
    parts = {text: text.split(", ") for text in texts}
    common = set.intersection(*map(set, parts.values()))
    return {text: [part for part in found if part not in common] for text, found in parts.items()}


def _signatures(counted: pd.DataFrame) -> Iterable[str]:
    """Runs of one setting that were scored in several ways stand in tables of their own."""
    known = counted[counted["signature"].notna()]
    known = known.assign(method=known["signature"].map(method_of))
    for (model, data, _, _), runs in known.groupby(["model", "data", "split", "headline"], sort=False):
        if runs["method"].nunique() > 1:
            folders = runs.groupby("method")["folder"]
            listed = "; ".join(f"{method}: {name_some(list(found))}" for method, found in folders)
            yield f"Scored by several signatures of sacreBLEU, which do not compare ({model} on {data}): {listed}."
