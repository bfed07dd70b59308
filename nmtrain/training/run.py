"""A run from its config to its summary: start or resume, train, project, verify, export, record."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from nmtrain.config.check import Config
from nmtrain.data.images.batches import ImageBatches
from nmtrain.errors import ConfigError, DataError
from nmtrain.runs.folder import RunFolder, write_whole
from nmtrain.runs.loaded import LOADED
from nmtrain.runs.starts import Owner
from nmtrain.runs.sweeps import code_digest
from nmtrain.runs.weights import BEST, EMA, LAST, Weights
from nmtrain.sparsity import NMPattern, remove_sparsity, sparsify_model, stock_state_dict, verify_sparsity
from nmtrain.training.checkpoint import drop_checkpoints, load_checkpoint
from nmtrain.training.disk import require_space
from nmtrain.training.distribution.ranks import ALONE, Ranks
from nmtrain.training.distribution.replicas import with_batch_norm
from nmtrain.training.environment import (
    describe_environment,
    environments_before,
    package_versions,
    require_device,
    warn_of_variables,
    without_accelerate_variables,
)
from nmtrain.training.export import save_weights
from nmtrain.training.kept import keep_images, keep_model
from nmtrain.training.loading import load_same_task
from nmtrain.training.loop import Trainer, final_states
from nmtrain.training.plan import Plan, make_plan
from nmtrain.training.progress import progress
from nmtrain.training.signals import end_of_job, stop_requests
from nmtrain.training.start import start_digest, starting_model
from nmtrain.training.status import logged_to, status_kept
from nmtrain.training.summary import Used, summarize, whole_run
from nmtrain.training.teacher import load_teacher, teacher_digest

logger = logging.getLogger(__name__)
_FOR_A_CHECKPOINT = 20.0  # seconds, where another rank has failed; the ranks are to be gone within a minute


def run(config: Config, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train one run, or go on with it, or do nothing if it is finished; returns its summary.

    Args:
        ranks: that train it together. The first one holds the folder and writes to it.

    Raises:
        ConfigError: for what only shapes can show.
        RunFolderError: if the folder cannot be written; RunHeld if another process trains the run.
        TrainingError: if training fails; the folder says ``failed`` and keeps what was made.
        Stopped: after Ctrl-C or SIGTERM; the folder says ``preempted`` and the same command goes on.
    """
    require_device(config.train.device)
    values = {key: value for key, value in config.values.items() if key not in ("launch", "cluster")}
    plugins = {plugin.name: plugin.hash for plugin in LOADED}
    ranks.require_same({**values, "nmtrain": code_digest(), "plugins": plugins, "versions": package_versions()})
    plan = make_plan(config)
    if config.launch.strategy == "fsdp" and ranks.world == 1:
        raise ConfigError(["launch.strategy=fsdp: has no effect with one process; name launch.gpus, or use torchrun"])
    device = ranks.begin(config.train, config.launch.timeout)
    if (summary := ranks.of_first(lambda: finished_before(config, RunFolder(config.run_folder)))) is not None:
        return summary
    with _held(plan) if ranks.is_first else _scratch() as (folder, owner):
        # By another process meanwhile:
        if (summary := ranks.of_first(lambda: finished_before(config, folder))) is not None:
            return summary
        if owner and config.force:
            owner.forget_before()
            folder.clear()
        with logged_to(folder / "train.log"), status_kept(folder, ranks), without_accelerate_variables():
            return _train(plan, folder, owner, ranks, device)


@contextmanager
def _held(plan: Plan) -> Iterator[tuple[RunFolder, Owner | None]]:
    """The run's folder, held against other processes."""
    folder = RunFolder(plan.config.run_folder)
    require_space(plan)
    folder.prepare()
    with folder.locked() as owner:
        yield folder, owner


@contextmanager
def _scratch() -> Iterator[tuple[RunFolder, Owner | None]]:
    """For a rank that has nothing to write: what it writes all the same is thrown away."""
    with tempfile.TemporaryDirectory(prefix="nmtrain-rank-") as path:
        folder = RunFolder(Path(path))
        folder.prepare()
        yield folder, None


def finished_before(config: Config, folder: RunFolder) -> dict[str, Any] | None:
    """The summary of a run that is finished and not to be repeated."""
    if config.force or folder.state != "finished":
        return None
    logger.info("%s is finished already; force=true repeats it", folder.path)
    if missing := _not_measured(config, folder):
        logger.warning("its gradient noise was not measured by the masks of %s", ", ".join(missing))
    summary: dict[str, Any] = folder.read_json("summary.json")
    return summary


def _not_measured(config: Config, folder: RunFolder) -> list[str]:
    """The patterns by whose masks a finished run should have measured, and did not."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    measured = {NMPattern.parse(pattern) for pattern in values["measure"].get("patterns") or [values["sparsity"]]}
    asked = config.measured_patterns if config.measure.patterns else []
    return [str(pattern) for pattern in asked if pattern not in measured]


def _train(plan: Plan, folder: RunFolder, owner: Owner | None, ranks: Ranks, device: torch.device) -> dict[str, Any]:
    started = time.perf_counter()
    folder.set_status("running")
    with _said_once(ranks):
        for warning in plan.warnings:
            logger.warning(warning)
        trainer = _start(plan, folder, ranks, device)
    if owner:
        owner.begins(trainer.done, trainer.total)
    before = sum(trainer.seconds.values())
    summary = None
    try:
        with (
            stop_requests(end_of_job(), together=ranks.world > 1) as stop,
            progress(trainer.total, trainer.done, ranks.is_first) as advance,
            ranks.failing(lambda _: trainer.checkpoints.wait(_FOR_A_CHECKPOINT)),
        ):
            for done in trainer.train(stop):
                if owner:
                    owner.reached(done)
                advance(done)
        trainer.control.update(final_states(trainer.config))
        metrics = trainer.evaluate("final")
        used = whole_run(trainer, before + time.perf_counter() - started)
        weights = _gathered(trainer)
        summary = ranks.of_first(lambda: _finish(trainer, *weights, metrics, used))
        if not plan.config.train.keep_after:
            drop_checkpoints(folder / "checkpoints")
    finally:
        trainer.close(summary)
    return summary


@contextmanager
def _said_once(ranks: Ranks) -> Iterator[None]:
    """Inside, all ranks find the same to warn of, and the first one says it."""
    if not ranks.is_first:
        logging.disable(logging.WARNING)
    try:
        yield
    finally:
        if not ranks.is_first:
            logging.disable(logging.NOTSET)


def _start(plan: Plan, folder: RunFolder, ranks: Ranks, device: torch.device) -> Trainer:
    """Model, data and optimizer as the config says, or as the newest checkpoint left them."""
    config = plan.config
    content = yaml.safe_dump(config.values, sort_keys=False).encode()
    write_whole(folder / "config.yaml", lambda file: file.write(content))
    checkpoint = load_checkpoint(config.run_folder / "checkpoints", ranks)
    if checkpoint and (update := checkpoint.get("switched_at")) is not None:
        plan = plan.switched(update)
    environment = describe_environment(device, bool(config.train.compile))
    if ranks.world > 1:
        environment["ranks"] = ranks.world
    environment["recipe"] = config.recipe.record()  # for reports without the plug-in that it may be of
    warn_of_variables(environment)
    if checkpoint and (last := folder.environment):
        environment["before"] = environments_before(last, environment)
    else:
        folder.write_json("environment.json", environment)

    torch.manual_seed(config.seed)
    try:
        model = starting_model(config, checkpoint).to(device)
    except ValueError as error:  # of a checkpoint's weights, which the plan does not read
        raise ConfigError(str(error).splitlines()) from error
    model = with_batch_norm(ranks, model, config.train, device)
    sparsify_model(model, plan.rules)
    before = checkpoint.get("data", {}) if checkpoint else {}
    task, environment["data"] = load_same_task(config, model, device, ranks, before, _refuse_other_data)
    environment["data"] |= start_digest(config, before, _refuse_other_data)
    environment["data"] |= teacher_digest(config, before, _refuse_other_data)
    ranks.require_same({"digest of": environment["data"]})
    task.teacher = load_teacher(config, task.data, device)
    folder.write_json("environment.json", environment)
    if isinstance(task.data, ImageBatches):
        keep_images(folder, task.data)
    keep_model(folder, config)
    if (lengths := task.lengths()) is not None:
        plan = plan.with_lengths(lengths)
    total = plan.config.total_updates
    if checkpoint and config.train.flops is not None and checkpoint["total"] != total:
        told = f"paid for {checkpoint['total']} updates when this run began, and for {total} now"
        raise ConfigError([f"train.flops={config.train.flops:g}: {told}; force=true starts the run from nothing"])
    folder.write_json("sparse_tensors.json", plan.sparse_tensors_json())
    trainer = Trainer(plan, model, task, ranks, folder, checkpoint, environment["data"])
    logger.info("%s %s", f"resuming at update {trainer.done} of" if checkpoint else "training", folder.path)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return trainer


def _refuse_other_data(change: str) -> None:
    raise DataError(f"{change}; put back what was there, or force=true starts the run from nothing")


def _gathered(trainer: Trainer) -> tuple[nn.Module, dict[Weights, dict[str, Tensor]]]:
    """The model, whole, as it was evaluated in the end, and other weights to save beside its own; all ranks call it."""
    others = {}
    if trainer.average:
        with trainer.average.in_place():
            state = stock_state_dict(trainer.replicas.whole_model())
            others[EMA] = {name: tensor.clone() for name, tensor in state.items()}
    if trainer.best and trainer.best.weights:
        others[BEST] = trainer.best.weights
    return trainer.replicas.whole_model(), others


def _finish(
    trainer: Trainer,
    model: nn.Module,
    others: dict[Weights, dict[str, Tensor]],
    metrics: dict[str, float],
    used: Used,
) -> dict[str, Any]:
    """Project to the exact target what was scored, check it group by group and save it; returns the summary.

    So with the averaged weights, by the same masks; those that were best are projected since they were scored.
    """
    remove_sparsity(model)
    zeros = verify_sparsity(model, trainer.plan.rules)
    if zeros:
        logger.info("%d kept weights are exactly zero: their groups have fewer than N non-zero weights", zeros)
    save_weights(model, trainer.folder / LAST.file)
    for kind, weights in others.items():
        model.load_state_dict(weights)
        verify_sparsity(model, trainer.plan.rules)
        save_weights(model, trainer.folder / kind.file)
    summary = summarize(trainer, metrics, used) | {"kept_zeros": zeros}
    trainer.folder.write_json("summary.json", summary)
    trainer.folder.set_status("finished")
    return summary
