"""The training loop. One update reads top to bottom in `Trainer.update`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from nmtrain.config.check import Config
from nmtrain.data.seeds import mix_seed
from nmtrain.errors import Stopped, TrainingError
from nmtrain.measure import NoiseMeter
from nmtrain.models.recompute import recompute_blocks, statistics_kept
from nmtrain.runs.folder import Records, RunFolder
from nmtrain.sparsity import sparsity_control
from nmtrain.tracking import Sink, open_sink
from nmtrain.training.best import BestWeights
from nmtrain.training.checkpoint import CheckpointWriter
from nmtrain.training.distribution.ranks import Ranks
from nmtrain.training.distribution.strategy import replicas
from nmtrain.training.ema import WeightAverage
from nmtrain.training.optim import build_optimizer, learning_rate, set_learning_rate, take_step
from nmtrain.training.plan import Plan
from nmtrain.training.precision import LossScale, autocast
from nmtrain.training.signals import StopRequest, asked_by
from nmtrain.training.switch import AutoSwitch
from nmtrain.training.task import Task

logger = logging.getLogger(__name__)


class Trainer:
    """Everything of one run that changes while it trains, and what it needs to go on after a kill.

    Recipe, learning rate, batches and random numbers are pure functions of the update number, so a checkpoint holds
    no more than weights, masks, the optimizer's state, averaged and best weights where the run keeps such, the update
    number, the sums of the line being recorded, and at which update a recipe's dense phase ended that training had to
    find the end of.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        task: Task,
        ranks: Ranks,
        folder: RunFolder,
        checkpoint: dict[str, Any] | None,
        data: dict[str, str],
    ) -> None:
        self.plan, self.config, self.folder, self.task = plan, plan.config, folder, task
        self.data = data  # digests, see `data_digests`
        self.ranks = ranks
        self.device = next(model.parameters()).device
        self.total = plan.config.total_updates
        if checkpoint:
            model.load_state_dict(checkpoint["model"])
            remembered = checkpoint.get("remembered", {})  # checkpoints of before have none
            control = sparsity_control(model)
            control.remembered = {label: left.to(self.device) for label, left in remembered.items()}
        self.normalizing = recompute_blocks(model) if plan.config.train.gradient_checkpointing else []
        self.replicas = replicas(ranks, model, compiled(model, plan.config.train.compile), self.config)
        self.model, shards = self.replicas.kept, self.replicas.shards
        self.control = sparsity_control(self.model)
        self.optimizer = build_optimizer(self.model, plan.config.optim)
        self.loss_scale = LossScale(self.device, plan.config.train.precision)
        ema = plan.config.train.ema
        self.average = None if ema is None else WeightAverage(self.model, ema, shards)
        self.best = BestWeights(task.headline) if plan.config.train.keep_best else None
        self.done = 0  # updates
        self.loss_sum = torch.zeros((), device=self.device)  # over the updates since the last line
        self.loss_count = 0
        self.seconds = {"train": 0.0, "eval": 0.0, "data": 0.0}
        self.switched_at: int | None = checkpoint.get("switched_at") if checkpoint else None
        self.meter = None
        if plan.config.measure.every is not None and plan.measured:
            every, window = plan.config.measure.every, plan.config.measure.window
            self.meter = NoiseMeter(self.model, plan.measured, self.optimizer, every, window, shards)
        self.switch = None
        if (between := plan.config.recipe.switch_between(self.total)) is not None:  # not yet switched
            self.switch = AutoSwitch(self.control.sparse_rows, self.optimizer, between, self.total)
        if checkpoint:
            self._take_up(checkpoint)
        # Other ranks have no records to go on with.
        lengths = checkpoint["lengths"] if checkpoint and ranks.is_first else {"metrics": 0, "noise": 0}
        self.metrics = Records(folder / "metrics.jsonl", lengths["metrics"])
        self.noise = Records(folder / "noise.jsonl", lengths["noise"])
        self.checkpoints = CheckpointWriter(folder / "checkpoints", plan.config.train.keep)
        self.sink = open_sink(plan.config, folder) if ranks.is_first else Sink()

    def _take_up(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds beside the weights, which are there already."""
        self.replicas.load_optimizer_state(self.optimizer, checkpoint["optimizer"])
        if self.config.train.precision == "fp16":
            self.loss_scale.load_state_dict(checkpoint["loss_scale"])
        self.done = checkpoint["done"]
        sums = checkpoint.get("loss_sums") or [float(checkpoint["loss_sum"])]  # checkpoints of before have the mean
        own = sums[self.ranks.rank] if len(sums) == self.ranks.world else sum(sums) / len(sums)
        self.loss_sum, self.loss_count = torch.tensor(own, device=self.device), checkpoint["loss_count"]
        self.seconds = checkpoint["seconds"]
        self.task.damaged.update(checkpoint.get("damaged", {}))  # checkpoints of before have none
        if self.average:
            self.average.load_state_dict(checkpoint["average"])
        if self.best:
            self.best.load_state_dict(checkpoint["best"])
        if self.meter and checkpoint["meter"]:
            self.meter.load_state_dict(checkpoint["meter"])
        if self.switch:
            self.switch.load_state_dict(checkpoint["switch"])

    def train(self, stop: StopRequest) -> Iterator[int]:
        """Train to the end, yielding the number of updates done after each one.

        Raises:
            TrainingError: if the loss is not finite.
            Stopped: after a stop request, once the state is saved.
        """
        train, every_eval = self.config.train, self.updates_between_evaluations
        self.replicas.forward.train()
        while self.done < self.total:
            grad_norm, rate = self.update(self.done)
            self.done += 1
            last, evaluate = self.done == self.total, self.done % every_eval == 0
            if self.switch and not last and self.switch.ends(self.done):
                self.end_dense_phase(self.switch.change)
            if last or self.done % train.log_every == 0:
                self.log_training(grad_norm, rate)
            if evaluate and not last:
                self.evaluate(self.config.split)
            if last or (evaluate if train.checkpoint_every is None else self.done % train.checkpoint_every == 0):
                self.save()
            self.checkpoints.check()
            yield self.done
            if (number := self.ranks.most(stop.number)) and not last:
                self.save()
                self.ranks.of_first(self.checkpoints.finish)  # the others wait: their end would be its end
                raise Stopped(f"{asked_by(number)} after update {self.done} of {self.total}", asked_by(number))
            if self.done % self.config.launch.compare_every == 0:
                self.replicas.require_same(self.model.state_dict(), self.done)
        self.ranks.of_first(self.checkpoints.finish)

    def update(self, number: int) -> tuple[torch.Tensor | None, float]:
        """One optimizer update: masks, forward and backward over the micro-batches, step."""
        config = self.config
        with self.timed("data"):
            batches = self.task.batches(number)
        with self.timed("train"):
            self.control.update({target: recipe.at(number, self.total) for target, recipe in config.recipes.items()})
            self.replicas.show()
            rate = learning_rate(config.optim, number, self.total)
            set_learning_rate(self.optimizer, rate)
            self.seed(mix_seed("update", config.seed, number, *self.ranks.apart))  # dropout and drop path
            for part, batch in enumerate(batches, start=1):
                last = part == config.train.micro_batches
                self.ranks.mark(f"update {number + 1}, part {part}")
                with nullcontext() if last else self.replicas.adding_up():
                    with self.autocast():
                        loss = self.task.loss(self.replicas.forward, batch)
                    self.ranks.mark(f"the backward of update {number + 1}, part {part}")
                    with statistics_kept(self.normalizing):
                        self.loss_scale.scaled(loss).backward()
                self.loss_sum += loss.detach()
            self.replicas.settle()
            grad_norm = self.step(number) if self.loss_scale.unscale(self.optimizer) else None
            self.optimizer.zero_grad()
            self.loss_count += 1
        return grad_norm, rate

    def step(self, number: int) -> torch.Tensor | None:
        """What moves the weights once the gradients of an update are in; returns the norm by which they are clipped."""
        self.control.add_penalty()
        self.control.exchange(self.optimizer)
        if self.meter:
            self.meter.see_gradients(number)
        grad_norm = None
        if self.config.optim.clip_norm is not None:
            grad_norm = self.replicas.clip(self.config.optim.clip_norm)
        if self.switch:
            self.switch.see_gradients()
        take_step(self.optimizer, self.control.with_held_variance())
        if self.average:
            self.average.update()
        for record in self.meter.after_step() if self.meter else ():
            self.record_noise(record)
        return grad_norm

    def autocast(self) -> torch.autocast:
        return autocast(self.device, self.config.train.precision)

    def end_dense_phase(self, change: float) -> None:
        """From here on the run follows its recipe as if the config had named this update."""
        self.plan, self.switch, self.switched_at = self.plan.switched(self.done), None, self.done
        self.config = self.plan.config
        self.folder.write_json("sparse_tensors.json", self.plan.sparse_tensors_json())
        logger.info("update %d of %d: the dense phase ends (mean change %.2g)", self.done, self.total, change)

    def seed(self, seed: int) -> None:
        """What `torch.manual_seed` does, which on a CPU also notes for other devices who seeded them: 0.4 ms."""
        (torch.default_generator if self.device.type == "cpu" else torch).manual_seed(seed)

    def log_training(self, grad_norm: torch.Tensor | None, rate: float) -> None:
        """A line with the mean loss since the last one."""
        state = self.config.recipe.at(self.done - 1, self.total)
        with self.timed("train"):  # waits for the device
            loss = self.checked_loss()
        self.record(
            "train",
            loss=loss,
            learning_rate=rate,
            grad_norm=None if grad_norm is None else float(grad_norm),
            pattern=None if state.pattern is None else str(state.pattern),
            decay=state.decay,
            **self.loss_scale.record(),
        )
        self.loss_sum.zero_()
        self.loss_count = 0

    def checked_loss(self) -> float:
        """Mean loss since the last line, over all ranks. Raises TrainingError if it is not finite."""
        loss = float(self.ranks.mean(self.loss_sum)) / max(1, self.loss_count)
        if not math.isfinite(loss):
            first = self.done - self.loss_count + 1
            overflows = "; train.precision=bf16 does not overflow" if self.config.train.precision == "fp16" else ""
            raise TrainingError(
                f"the training loss is {loss} (updates {first} to {self.done}); the last checkpoint is from before."
                f" A lower optim.lr or a longer optim.warmup_fraction often helps{overflows}"
            )
        return loss

    def evaluate(self, split: str) -> dict[str, float]:
        """Evaluate with the masks as they are, and record it as ``split``: the run's own, or "final".

        The averaged weights are evaluated with the same masks; their metrics are named ``ema_...``.
        """
        with self.timed("eval"):
            metrics = self._scored()
            if self.average:
                with self.average.in_place():
                    metrics |= {f"ema_{name}": value for name, value in self._scored().items()}
        if self.best:
            whole = self.replicas.whole_model
            self.best.see(self.done, metrics[self.task.headline], self.control.at_target, whole)
        self.record(split, **metrics)
        logger.info(
            "update %d of %d, %s: %s %.4f, loss %.4f",
            self.done,
            self.total,
            self._evaluated(split),
            self.task.headline,
            metrics[self.task.headline],
            metrics["loss"],
        )
        return metrics

    def _scored(self) -> dict[str, float]:
        # Autocast anew for other weights, of which it keeps copies in half precision until it ends.
        with self.replicas.evaluating() as model, self.autocast():
            return self.task.evaluate(model, self.config.train.eval_batch_size)

    def _evaluated(self, split: str) -> str:
        """What an evaluation was of, for the log."""
        if self.config.split == "val":
            return "projected model" if split == "final" else "validation"
        return f"projected model, {self.config.split}" if split == "final" else self.config.split

    def share_damage(self) -> None:
        """What other ranks could not read, and have named on the terminal, counts here too and is in the log."""
        for theirs in self.ranks.gathered(dict(self.task.damaged)):
            for name in theirs.keys() - self.task.damaged.keys():
                self.task.damaged[name] = theirs[name]
                logger.debug("%s cannot be read and is left out: %s", name, theirs[name])

    def record(self, split: str, **values: Any) -> None:
        self.share_damage()
        record = {"update": self.done, "epoch": self.epoch(self.done), "split": split}
        phase, phase_flops = self.plan.curve.phase_flops(self.done)
        record |= {"flops": self.plan.curve.flops(self.done), "phase": phase, "phase_flops": phase_flops, **values}
        self.metrics.append(record)
        self.sink.log(record)

    def record_noise(self, record: dict[str, Any]) -> None:
        record |= {"epoch": self.epoch(record["update"]), "flops": self.plan.curve.flops(record["update"])}
        self.noise.append(record)
        if record["tensor"] == "mean":
            self.sink.log(record)

    def epoch(self, done: int) -> float:
        return round(done / self.config.updates_per_epoch, 6)

    def save(self) -> None:
        """Write a checkpoint. A loss or weight that is not finite is raised instead: the last good one stays."""
        self.checked_loss()
        self.share_damage()
        own = [name for name, p in self.model.named_parameters() if not p.isfinite().all()]
        if broken := sorted({name for names in self.ranks.gathered(own) for name in names}):
            raise TrainingError(f"{len(broken)} weights are not finite after update {self.done}, first {broken[0]}")
        self.replicas.require_same(self.model.state_dict(), self.done)
        model = self.replicas.whole_model()
        content = {
            "done": self.done,
            "total": self.total,
            "data": self.data,
            "model": model.state_dict(),
            "remembered": sparsity_control(model).remembered,
            "optimizer": self.replicas.optimizer_state(self.optimizer),
            "loss_scale": self.loss_scale.state_dict(),
            "loss_sums": self.ranks.gathered(float(self.loss_sum)),  # each rank adds to its own again
            "loss_count": self.loss_count,
            "seconds": self.seconds,
            "damaged": dict(self.task.damaged),
            "switched_at": self.switched_at,
            "switch": self.switch.state_dict() if self.switch else None,
            "meter": self.meter.state_dict() if self.meter else None,
            "average": self.average.state_dict() if self.average else None,
            "best": self.best.state_dict() if self.best else None,
            "lengths": {"metrics": self.metrics.sync(), "noise": self.noise.sync()},
        }
        self.ranks.of_first(lambda: self.checkpoints.begin(self.done, content))

    def close(self, summary: dict[str, Any] | None) -> None:
        """End what reads ahead and what is being written; ``summary`` is that of a finished run."""
        try:
            self.task.close()
            try:
                self.checkpoints.finish()
            except Exception as error:  # training has failed by itself, and says why
                logger.warning("the last checkpoint could not be written: %s", error)
            for records in (self.metrics, self.noise):
                records.sync()
                records.close()
        finally:  # of a full disk too
            self.sink.finish(summary)

    @property
    def updates_between_evaluations(self) -> int:
        return max(1, round(self.config.train.eval_every * self.config.updates_per_epoch))

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start


def compiled(model: nn.Module, mode: bool | str) -> nn.Module:
    """The model by `train.compile`; evaluation by generation goes by the stock one."""
    return cast(nn.Module, torch.compile(model, mode=None if mode is True else str(mode))) if mode else model


def final_states(config: Config) -> dict[Any, Any]:
    """What is evaluated in the end: at ``total``, every recipe's state is the strict target (or dense)."""
    total = config.total_updates
    return {target: recipe.at(total, total) for target, recipe in config.recipes.items()}
