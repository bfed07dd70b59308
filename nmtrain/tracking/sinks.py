"""The one small interface of all mirrors, and the one that mirrors nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmtrain.config import Config
    from nmtrain.training.folder import RunFolder


class Sink:
    """What mirrors a run's records; this one drops them."""

    def log(self, record: dict[str, Any]) -> None:
        """Take one line of metrics.jsonl, or the line of noise.jsonl that is the mean over tensors."""

    def finish(self, summary: dict[str, Any] | None) -> None:
        """End the mirror: with the summary of a finished run, with None where it failed or was stopped."""


def _wandb(config: Config, folder: RunFolder) -> Sink:
    from nmtrain.tracking.wandb import WandbSink

    return WandbSink(config, folder)


def _tensorboard(config: Config, folder: RunFolder) -> Sink:
    from nmtrain.tracking.tensorboard import TensorBoardSink

    return TensorBoardSink(folder)


_SINKS: dict[str, Callable[[Config, RunFolder], Sink]] = {
    "none": lambda config, folder: Sink(),
    "wandb": _wandb,
    "tensorboard": _tensorboard,
}


def tracking_names() -> list[str]:
    """The names that `open_sink` knows."""
    return list(_SINKS)


def open_sink(config: Config, folder: RunFolder) -> Sink:
    """The mirror that ``config.tracking`` asks for. Never fails for want of a network."""
    return _SINKS[config.tracking.name](config, folder)


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record under the names that mirrors show: ``train/loss``, ``noise/grad_noise/kept``."""
    prefix = record.get("split", "noise")
    return {
        f"{prefix}/{name}": value
        for name, value in record.items()
        if name != "update" and isinstance(value, int | float) and not isinstance(value, bool)
    }
