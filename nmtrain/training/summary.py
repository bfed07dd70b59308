"""The content of summary.json: what a finished run came to."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any

import torch

from nmtrain.training.environment import FIXES
from nmtrain.training.loop import Trainer

SUMMARY_SCHEMA = 1


@dataclass(frozen=True)
class Used:
    """What the whole run took; of several ranks, the most that one did."""

    seconds: dict[str, float]
    memory: int  # bytes at the peak


def whole_run(trainer: Trainer, seconds: float) -> Used:
    """What a run took, which is done but for its saving; ``seconds`` in all."""
    own = Used({"total": seconds, **trainer.seconds}, _peak_memory(trainer.device))
    found = trainer.ranks.gathered(own)
    most = {what: max(used.seconds[what] for used in found) for what in own.seconds}
    return Used(most, max(used.memory for used in found))


def summarize(trainer: Trainer, metrics: dict[str, float], used: Used) -> dict[str, Any]:
    """Of a run whose weights are saved; ``metrics`` are those of the whole run."""
    plan, config, seconds = trainer.plan, trainer.config, used.seconds
    work = trainer.task.work(trainer.total)
    return {
        "schema": SUMMARY_SCHEMA,
        "run": trainer.folder.name,
        "model": config.model.name,
        "data": config.data["name"],
        "sparsity": None if config.is_dense else str(config.sparsity),
        "recipe": config.recipe.record(),
        "roles": [] if config.is_dense else list(config.mask.roles),
        "seed": config.seed,
        "batch_size": config.train.batch_size,
        "micro_batches": config.train.micro_batches,
        "updates": config.total_updates,
        "epochs": config.total_updates / config.updates_per_epoch,
        **({} if trainer.switched_at is None else {"switched_at": trainer.switched_at}),
        **trainer.loss_scale.record(),
        "headline": trainer.task.headline,
        "metrics": {f"{config.split}/{name}": value for name, value in metrics.items()},
        **({"signatures": trainer.task.signatures} if trainer.task.signatures else {}),
        **({"best": trainer.best.record(config.split)} if trainer.best and trainer.best.weights else {}),
        "flops": plan.flops,
        "bytes": plan.bytes | {"exported": (trainer.folder / "model.safetensors").stat().st_size},
        "density": plan.density,
        "active_share": plan.active_share,
        "seconds": seconds,
        "throughput": {"unit": work.unit, "per_second": work.amount / seconds["train"]},
        **({} if work.padding is None else {"padding": work.padding}),
        **({"damaged": len(trainer.task.damaged)} if "max_damaged" in config.data else {}),
        "peak_memory_bytes": used.memory,
        "fixes": FIXES,
        "status": "finished",
    }


def _peak_memory(device: torch.device) -> int:
    """Bytes allocated on the device at most; on a CPU, the resident size of the process at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
