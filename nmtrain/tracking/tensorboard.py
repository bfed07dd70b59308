"""TensorBoard event files inside the run folder."""

from __future__ import annotations

from typing import Any

from torch.utils.tensorboard import SummaryWriter

from nmtrain.tracking.sinks import Mirror


class TensorBoardMirror(Mirror):
    """Writes ``tensorboard/`` in the run folder. A resumed run hides what was there and writes it again, in full."""

    name = "tensorboard"

    def start(self) -> None:
        self._writer = SummaryWriter(self.folder / "tensorboard", purge_step=0)

    def write(self, update: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def end(self, summary: dict[str, Any] | None) -> None:
        self._writer.close()
