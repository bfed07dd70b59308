"""The mirror that a config asks for. Its library is imported only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nmtrain.tracking.sinks import Sink

if TYPE_CHECKING:
    from nmtrain.config.check import Config
    from nmtrain.runs.folder import RunFolder


def _wandb(config: Config, folder: RunFolder) -> Sink:
    from nmtrain.tracking.wandb import WandbMirror

    return WandbMirror(config, folder)


def _tensorboard(config: Config, folder: RunFolder) -> Sink:
    from nmtrain.tracking.tensorboard import TensorBoardMirror

    return TensorBoardMirror(config, folder)


_SINKS: dict[str, Callable[[Config, RunFolder], Sink]] = {
    "none": lambda config, folder: Sink(),
    "wandb": _wandb,
    "tensorboard": _tensorboard,
}


def open_sink(config: Config, folder: RunFolder) -> Sink:
    """The mirror that ``config.tracking`` asks for; the folder is locked and holds no line from past its checkpoint."""
    return _SINKS[config.tracking.name](config, folder)
