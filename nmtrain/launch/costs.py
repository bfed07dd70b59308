"""What a whole sweep would cost: the one table of its dry run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from nmtrain.config.check import Config
from nmtrain.launch.cluster import at_once
from nmtrain.launch.grid import Job
from nmtrain.launch.status import duration
from nmtrain.launch.terminal import COST_NOTE, si, terminal
from nmtrain.training.disk import run_bytes
from nmtrain.training.plan import make_plan


def show_costs(jobs: Sequence[Job], combinations: int) -> None:
    """A line for each run, with its time where runs like it have finished beside it, and their sum."""
    speeds = _seconds_per_epoch(jobs[0].config.results_dir)
    console = terminal()
    table = Table("run", "state", "updates", "training FLOPs", "of dense", "memory", "disk", "time")
    table.columns[0].overflow = "fold"
    flops, disk, most, seconds, unknown, left = 0.0, 0, 0, 0.0, 0, 0
    shared: dict[str, Any] = {}
    for job in jobs:
        plan = make_plan(job.config, shared)
        config, state = plan.config, job.folder.state_or_none or "planned"
        known = speeds.get(_alike(config))
        time = None if known is None else known * config.total_updates / config.updates_per_epoch
        training, (peak, after) = plan.flops["training"], run_bytes(plan)
        table.add_row(
            job.config.run_name,
            state,
            str(config.total_updates),
            si(training),
            f"{training / plan.flops['training_dense']:.3f}",
            si(sum(plan.memory.values())),
            si(after),
            "" if time is None else duration(time),
        )
        for warning in plan.warnings:
            console.print(f"{job.config.run_name}: warning: {warning}", soft_wrap=True, markup=False)
        if state == "finished" and not job.config.force:
            continue
        left += 1
        flops, disk, most = flops + training, disk + after, max(most, peak - after)
        seconds, unknown = seconds + (time or 0), unknown + (time is None)
    console.print(table)
    sharing = at_once(jobs[0].config.cluster)
    console.print(f"{len(jobs)} runs" + (f" ({combinations} combinations)" if combinations > len(jobs) else ""))
    told = f"to train: {left} runs, {si(flops)} FLOPs, {si(disk + most * sharing)} bytes on disk at most"
    if left > unknown:
        beside = f", and {unknown} runs like which none has finished here" if unknown else ""
        told += f", about {duration(seconds / sharing)} by runs that finished here{beside}"
    console.print(told, soft_wrap=True, markup=False)
    console.print(COST_NOTE, style="dim", soft_wrap=True)


def _alike(config: Config) -> tuple[str, str, str]:
    return config.model.name, config.data["name"], config.recipe.name


def _seconds_per_epoch(results: Path) -> dict[tuple[str, str, str], float]:
    """The mean over the finished runs of each model, data and recipe."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for file in sorted(results.glob("*/summary.json")):
        try:
            summary = json.loads(file.read_bytes())
            key = (summary["model"], summary["data"], summary["recipe"]["name"])
            found.setdefault(key, []).append(summary["seconds"]["total"] / summary["epochs"])
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            continue  # which reports name
    return {key: sum(values) / len(values) for key, values in found.items()}
