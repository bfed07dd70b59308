"""TensorBoard event files inside the run folder."""

from __future__ import annotations

from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nmtrain.tracking.sinks import Sink, scalars
from nmtrain.training.folder import RunFolder


class TensorBoardSink(Sink):
    """Writes ``tensorboard/`` in the run folder; a resumed run goes on there."""

    def __init__(self, folder: RunFolder) -> None:
        self._writer = SummaryWriter(folder / "tensorboard")

    def log(self, record: dict[str, Any]) -> None:
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["update"])

    def finish(self, summary: dict[str, Any] | None) -> None:
        self._writer.close()
