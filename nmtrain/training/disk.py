"""What a run needs on disk, told from its plan; a run that cannot fit is refused before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from nmtrain.errors import ConfigError
from nmtrain.training.plan import Plan

_OTHERWISE = 5_000_000  # bytes of records, logs and descriptions


def checkpoint_bytes(plan: Plan) -> int:
    """About the size of one checkpoint: weights, the optimizer's state, averaged and best weights."""
    parts = ("weights", "optimizer", "average", "masks")
    kept = sum(plan.memory.get(part, 0) for part in parts)
    return kept + (plan.memory["weights"] if plan.config.train.keep_best else 0)


def run_bytes(plan: Plan) -> tuple[int, int]:
    """About what a run's folder takes at most while it trains, and when it is finished."""
    train = plan.config.train
    models = plan.memory["weights"] * (1 + (train.ema is not None) + train.keep_best)
    checkpoints = checkpoint_bytes(plan) * train.keep
    writing = checkpoint_bytes(plan)  # a checkpoint is whole before an old one goes
    return models + checkpoints + writing + _OTHERWISE, models + checkpoints * train.keep_after + _OTHERWISE


def require_space(plan: Plan) -> None:
    """Raises ConfigError where the disk of the results folder has less free than the run will need."""
    folder = plan.config.run_folder
    there = sum(file.stat().st_size for file in folder.glob("**/*") if file.is_file())
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    needed, free = run_bytes(plan)[0] - there, shutil.disk_usage(existing).free
    if needed > free:
        told = f"has {_gigabytes(free)} free, and {folder.name} needs {_gigabytes(needed)}"
        count = f"{plan.config.train.keep} checkpoints of {_gigabytes(checkpoint_bytes(plan))}, one being written"
        remedy = "nmtrain clean frees what finished runs no longer need; or name another folder, or lower train.keep"
        raise ConfigError([f"results_dir={Path(plan.config.results_dir)}: {told} ({count}); {remedy}"])


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
