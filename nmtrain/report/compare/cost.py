"""What a result costs: FLOPs, bytes, measured seconds and memory, with the Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from nmtrain.report.compare.quality import pattern_cell, run_marks, signature_note, table_title
from nmtrain.report.compare.sections import DENSE, Group, Result, finished, median_of
from nmtrain.report.compare.statistics import pareto_front
from nmtrain.report.compare.table import NOTHING, TRAINING_FLOPS, Cell, Table, percent, quantity, rate, seconds
from nmtrain.report.read.headline import Headline


def ordered_results(group: Group) -> list[Result]:
    """Every result once: the dense ones, then by pattern and column."""
    places = [(DENSE, column) for column in group.columns] + [
        (p, column) for p in group.patterns for column in group.columns
    ]
    found = [group.results.get((pattern, label)) for pattern, (_, label) in places]
    return [result for result in found if result is not None]


def on_front(group: Group, cost: str) -> set[str]:
    """Anchors of the results whose mean no other reaches at the same or a lower mean ``cost``."""
    results = ordered_results(group)
    means = [result.quality.mean if result.scores.rankable else math.nan for result in results]
    gains = [group.headline.gain(mean) for mean in means]
    return {results[i].anchor for i in pareto_front([result.mean(cost) for result in results], gains)}


def cost_table(group: Group, section: str) -> Table:
    """One row per result: the headline metric beside FLOPs, bytes, measured seconds and memory; the Pareto fronts.

    What was measured belongs to a device: a result from several has a row for each.
    """
    results = [result for result in ordered_results(group) if len(result.finished)]
    fronts = {cost: on_front(group, cost) for cost in ("inference_flops", "bytes")}
    devices = sorted(finished(group.runs)["device"].dropna().astype(str).unique())
    rows = [
        _cost_row(result, runs, f"on {device}" if len(devices) > 1 else "", group.headline, fronts)
        for result in results
        for device, runs in result.finished.groupby("device", dropna=False)
    ]
    apart = (
        " Those of a row were measured on the device that it names; all else in it is of the whole result, whatever "
        "trained it."
    )
    of_training = " of the split evaluated in training" if results[0].runs["afterwards"].any() else ""
    notes = [
        TRAINING_FLOPS + " In brackets: part of what dense training of the same length takes.",
        "Active: the share of all parameters that the forward used, averaged over the updates. Of a sparse tensor that "
        "is every entry while it is dense or D > 0, else the kept ones. Runs of earlier versions did not record it.",
        f"Inference FLOPs are per sample{of_training}. Bytes: of the model with its sparse tensors as kept values and "
        "indices; on disk: of model.safetensors, zeros included. Density: kept part of those tensors. "
        "Seconds, throughput and peak memory: medians over seeds, measured on: "
        f"{', '.join(devices) or 'an unrecorded device'}."
        f"{apart if len(devices) > 1 else ''}",
        "Bold: on the Pareto front, no other row is as good at that cost or below (by means, whatever n).",
        *signature_note(group.runs),
    ]
    head = (
        *("pattern", "recipe", group.headline.axis, "training FLOPs", "active / %", "measured training", "throughput"),
        *("inference FLOPs", "bytes", "density / %", "peak memory"),
    )
    return Table(f"{group.slug}-cost", table_title("Cost", section, group), head, rows, stub=2, notes=notes)


def _cost_row(
    result: Result, runs: pd.DataFrame, device: str, headline: Headline, fronts: dict[str, set[str]]
) -> list[Cell]:
    """``runs``: those of the result that were trained on one device."""
    text, detail = result.scores.text(headline)
    mean = result.quality.mean if result.quality.n else None

    def number(shown: str, column: str, detail: str = "") -> Cell:
        best, value = result.anchor in fronts.get(column, ()), result.mean(column)
        return NOTHING if math.isnan(value) else Cell(shown, detail, value, best, anchor=result.anchor)

    def measured(column: str, write: Callable[[float], str], detail: str = "") -> Cell:
        value = median_of(runs, column)
        return NOTHING if math.isnan(value) else Cell(write(value), detail, value, anchor=result.anchor)

    flops, dense = result.mean("training_flops"), result.mean("training_flops_dense")
    per_update = f"{seconds(median_of(runs, 'seconds_per_update'))} per update"
    exported = result.mean("bytes_exported")
    on_disk = "" if math.isnan(exported) else f"{quantity(exported, 'B')} on disk"
    unit = str(runs["throughput_unit"].iloc[0])
    marks = run_marks(result.scores, result.runs)
    return [
        pattern_cell(result.pattern),
        Cell(result.label, device, value=result.label),
        Cell(text, detail, mean, marks=marks, anchor=result.anchor),
        number(quantity(flops, "FLOPs"), "training_flops", f"({percent(flops / dense, 0)} %)" if dense else ""),
        number(percent(result.mean("active_share")), "active_share"),
        measured("seconds_train", seconds, per_update),
        measured("throughput", lambda value: rate(value, unit)),
        number(quantity(result.mean("inference_flops"), "FLOPs"), "inference_flops"),
        number(quantity(result.mean("bytes"), "B"), "bytes", on_disk),
        number(percent(result.mean("density")), "density"),
        measured("peak_memory_bytes", lambda value: quantity(value, "B")),
    ]
