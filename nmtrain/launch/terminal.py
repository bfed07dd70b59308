"""What a person at the terminal sees of one run: its plan before, its summary after."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from nmtrain.report.compare.table import rate
from nmtrain.report.read.headline import DEFAULT, headline_of
from nmtrain.report.read.split import WORDS, metrics_on

if TYPE_CHECKING:
    from nmtrain.config.check import Config
    from nmtrain.training.plan import Plan

COST_NOTE = "FLOPs: what hardware that skips every pruned weight would execute; 1 multiply-accumulate = 2 FLOPs"

_MUCH_WAITING = 0.1  # of the time of training, waiting included
TEACHER = "FLOPs of the teacher, which come on top"
ACTIVE = "active parameters, average over training"


def show_summary(summary: dict[str, Any], folder: Path, split: str) -> None:
    """The closing table of a run; ``split`` is what it was evaluated on."""
    flops, size, seconds = summary["flops"], summary["bytes"], summary["seconds"]
    table = Table(show_header=False, title=" ".join(filter(None, [summary["recipe"]["variant"], summary["sparsity"]])))
    table.add_column(style="bold")
    table.add_column()
    headline = headline_of(summary.get("headline", DEFAULT))
    metrics = metrics_on(split, summary["metrics"])
    scored = {"projected model": metrics[headline.name]}
    if (averaged := metrics.get(f"ema_{headline.name}")) is not None:
        scored["averaged weights"] = averaged
    if best := summary.get("best"):
        scored[f"best, after update {best['update']}"] = best["value"]
    for what, value in scored.items():
        table.add_row(f"{WORDS[split]} {headline.label}, {what}", headline.text(value) + headline.unit)
    table.add_row("density of the sparse tensors", f"{summary['density']:.4f}")
    table.add_row("training FLOPs", _beside_dense(flops["training"], flops["training_dense"], si))
    if "teacher" in flops:
        table.add_row(TEACHER, si(flops["teacher"]))
    if "active_share" in summary:  # not in that of an earlier version
        table.add_row(ACTIVE, f"{summary['active_share']:.4f}")
    table.add_row("inference FLOPs per sample", _beside_dense(flops["inference"], flops["inference_dense"], si))
    table.add_row("bytes of the model", _beside_dense(size["sparse"], size["dense"], si))
    table.add_row(
        "seconds", f"{seconds['total']:.1f} (training {seconds['train']:.1f}, waiting for data {seconds['data']:.1f})"
    )
    if throughput := summary.get("throughput"):
        table.add_row("throughput", rate(throughput["per_second"], throughput["unit"]))
    console = terminal()
    console.print(table)
    console.print(COST_NOTE, style="dim", soft_wrap=True)
    console.print(f"report: {report_command(folder)}", soft_wrap=True, markup=False)
    console.print(f"run folder: {folder}", soft_wrap=True, markup=False)


def show_waiting(seconds: dict[str, float], data: dict[str, Any]) -> None:
    """A line where training waited long for data that processes read ahead, and what to change."""
    if "workers" not in data or seconds["data"] <= _MUCH_WAITING * (whole := seconds["data"] + seconds["train"]):
        return
    from nmtrain.data.images.files.ahead import cores, workers_for

    workers, most = workers_for(data["workers"]), cores()
    told = f"warning: waiting for data took {seconds['data'] / whole:.0%} of the time of training"
    if workers < most:
        told += f"; raise data.workers: {workers} now, and {most} cores are here"
    else:
        told += f", though {workers} processes read it on {most} cores (data.workers); smaller files are read sooner"
    terminal().print(told, soft_wrap=True, markup=False)


def report_command(run: Path) -> str:
    """What reports on a run and those beside it, as a shell takes it."""
    return shlex.join(["nmtrain", "report", str(run.parent)])


def show_plan(plan: Plan) -> None:
    """What --dry-run prints: phases, sparse tensors, cost, memory."""
    from nmtrain.training.memory import memory_of_each

    config = plan.config
    console = terminal()
    console.print(f"{config.run_folder}", style="bold", soft_wrap=True, markup=False)
    paid = "at least " if config.train.flops is not None and plan.by_length is not None else ""
    console.print(
        f"{paid}{config.total_updates} updates of {config.train.batch_size} samples"
        f" ({config.total_updates / config.updates_per_epoch:.2f} epochs)"
    )
    if (batch := config.optim.lr_batch) is not None:
        given = f"optim.lr={config.values['optim']['lr']:g} for {batch} samples"
        console.print(f"highest learning rate {config.optim.lr:g} ({given})", markup=False)
    _show_phases(console, config)
    if plan.tensors:
        table = Table("sparse tensor", "role", "shape", "axis", "phases")
        table.columns[0].overflow = "fold"  # a name that is cut short is no name
        for tensor in plan.tensors:
            patterns = " ".join(pattern for _, pattern in plan.phases_of(tensor))
            shape = " x ".join(map(str, tensor.shape))
            table.add_row(tensor.label.replace("[", r"\["), tensor.role, shape, tensor.axis, patterns)
        console.print(table)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
    table = Table(show_header=False)
    table.add_row("density of the sparse tensors", f"{plan.density:.4f}")
    for amount, flops in _training_flops(plan).items():
        table.add_row(amount, _beside_dense(flops["training"], flops["training_dense"], si))
    if "teacher" in plan.flops:
        table.add_row(TEACHER, si(plan.flops["teacher"]))
    table.add_row(ACTIVE, _active_share(plan))
    inference = _beside_dense(plan.flops["inference"], plan.flops["inference_dense"], si)
    table.add_row("inference FLOPs per sample", inference)
    table.add_row("bytes of the model", _beside_dense(plan.bytes["sparse"], plan.bytes["dense"], si))
    launch = plan.config.launch
    memory = memory_of_each(plan.memory, launch)
    parts = ", ".join(f"{name} {si(size)}" for name, size in memory.items())
    of_each = "" if launch.world == 1 else f", each of {launch.world} processes"
    table.add_row(f"memory while training, bytes{of_each}", f"about {si(sum(memory.values()))} ({parts})")
    if plan.config.train.gradient_checkpointing:
        table.add_row("spared by gradient checkpointing", f"{si(plan.spared)} of activations")
    console.print(table)
    console.print(COST_NOTE, style="dim", soft_wrap=True)
    if plan.by_length is not None:
        console.print(
            "Every sample counts as the longest here; a run counts their lengths", style="dim", soft_wrap=True
        )


def _show_phases(console: Console, config: Config) -> None:
    for target, recipe in config.recipes.items():
        table = Table(
            "first update", "pattern", "decay D", "gradient rule", "penalty", title=f"{recipe.variant} {target}"
        )
        for first, state in recipe.phases(config.total_updates):
            decaying = "from 1" if state.decay > 0 else "0"
            dense = state.pattern is None
            row = (
                ("dense", "", "", "") if dense else (str(state.pattern), decaying, state.gradient, f"{state.penalty:g}")
            )
            table.add_row(str(first), *row)
        console.print(table)
    if between := config.recipe.switch_between(config.total_updates):
        bounds = f"not before update {between[0]}, and at {between[1]}, as shown, at the latest"
        console.print(f"Where the dense phase ends is found in training: {bounds}", soft_wrap=True)


def _training_flops(plan: Plan) -> dict[str, dict[str, Any]]:
    """The FLOPs of the plan, or at least and at most, by what to call them."""
    if (between := plan.config.recipe.switch_between(plan.config.total_updates)) is None:
        return {"training FLOPs": plan.flops}
    return {"training FLOPs, at least": plan.switched(between[0]).flops, "training FLOPs, at most": plan.flops}


def _active_share(plan: Plan) -> str:
    between = plan.config.recipe.switch_between(plan.config.total_updates)
    least = f"{plan.switched(between[0]).active_share:.4f} to " if between else ""
    return f"{least}{plan.active_share:.4f}"


def terminal() -> Console:
    """As wide as the terminal; a pipe or a file has no width, and gets rows that are not broken."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _beside_dense(value: float, dense: float, write: Any) -> str:
    return f"{write(value)} of {write(dense)} dense ({value / dense:.3f})"


def si(value: float) -> str:
    """Three digits and the SI prefix."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5:
            return f"{value:.3g} {prefix}".rstrip()
        value /= 1000
    return f"{value:.3g} Z"
