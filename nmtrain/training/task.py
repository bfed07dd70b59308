"""What the loop asks of a task: batches in, a loss out, and the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from nmtrain.measure import Lengths

if TYPE_CHECKING:
    from nmtrain.data.images.batches import ImageBatches
    from nmtrain.data.text.batches import TextData
    from nmtrain.training.distillation import Teacher


@dataclass(frozen=True)
class Work:
    """What all updates together worked on."""

    unit: str  # images or tokens
    amount: int
    padding: float | None  # share of padding among all tokens that the model was given


class Task(Protocol):
    """What the loop asks of a task; batches are the task's own affair, and so is which part of them a rank has."""

    headline: str  # the metric of `evaluate` that tables show
    damaged: dict[str, str]  # the samples that could not be read so far, and why
    signatures: dict[str, str]  # what settings metrics were computed with, of those that have any
    teacher: Teacher | None  # that the loss listens to

    @property
    def data(self) -> ImageBatches | TextData:
        """What the batches are made from."""

    def batches(self, update: int) -> Iterator[Any]:
        """The micro-batches of one update: a pure function of the run's seed and the update number."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The micro-batch's part of the update's mean loss: the parts of all micro-batches add up to it. Where ranks
        share them, the means over ranks of the parts do."""

    def evaluate(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        """Metrics on the split that the run is evaluated on; leaves the model training."""

    def work(self, total: int) -> Work:
        """What ``total`` updates work on."""

    def lengths(self) -> Lengths | None:
        """Of text, what `Plan.with_lengths` takes; None where all samples cost the same."""

    def close(self) -> None:
        """End the processes that read data ahead, if there are any."""
