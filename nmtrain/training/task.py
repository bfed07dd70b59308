"""What is learned: batches in, a loss out, and the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtrain.config import Config
from nmtrain.data import load_data
from nmtrain.data.images import ImageData
from nmtrain.measure import Lengths
from nmtrain.schema import TrainConfig


@dataclass(frozen=True)
class Work:
    """What all updates together worked on."""

    unit: str  # images or tokens
    amount: int
    padding: float | None  # share of padding among all tokens that the model was given


class Task(Protocol):
    """What the loop asks of a task; batches are the task's own affair."""

    headline: str  # the metric of `evaluate` that tables show

    def batches(self, update: int) -> Iterator[Any]:
        """The micro-batches of one update: a pure function of the run's seed and the update number."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The micro-batch's part of the update's mean loss: the parts of all micro-batches add up to it."""

    def evaluate(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        """Metrics on the validation data; leaves the model training."""

    def work(self, total: int) -> Work:
        """What ``total`` updates work on."""

    def lengths(self) -> Lengths | None:
        """Of text, what `Plan.with_lengths` takes; None where all samples cost the same."""


def load_task(config: Config, model: nn.Module, device: torch.device) -> Task:
    """The data of a config, and what its model learns from them.

    Args:
        model: on ``device``; the stock module itself, not its compiled or distributed wrapper.

    Raises:
        DataError: if the data cannot be read.
    """
    if not config.model.reads_text:
        images = load_data(**config.data, seed=config.seed)
        assert isinstance(images, ImageData)
        return ImageClassification(images.to(device), config.train)
    from nmtrain.data.text import TextData
    from nmtrain.models.language import build_tokenizer
    from nmtrain.training.text_task import TextClassification, TextToText

    text = load_data(**config.data, seed=config.seed, tokenizer=build_tokenizer(config.model))
    assert isinstance(text, TextData)
    return (TextToText if config.model.kind == "text_to_text" else TextClassification)(model, text, config.train)


class ImageClassification:
    """Cross entropy over classes, for any model that maps images to logits."""

    headline = "accuracy"

    def __init__(self, data: ImageData, train: TrainConfig) -> None:
        self.data, self.train = data, train

    def batches(self, update: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Equal parts of the update's batch."""
        parts = self.train.micro_batches
        inputs, targets = self.data.train_batch(update, self.train.batch_size)
        return zip(inputs.chunk(parts), targets.chunk(parts), strict=True)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        loss = F.cross_entropy(model(inputs), targets, label_smoothing=self.train.label_smoothing)
        return loss / self.train.micro_batches

    def work(self, total: int) -> Work:
        return Work("images", total * self.train.batch_size, None)

    def lengths(self) -> None:
        return None

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        """``loss`` (without label smoothing) and ``accuracy`` over all validation images."""
        model.eval()
        loss = correct = torch.zeros((), dtype=torch.float64)
        for inputs, targets in self.data.val_batches(batch_size):
            logits = model(inputs).float()
            loss = loss + F.cross_entropy(logits, targets, reduction="sum").cpu()
            correct = correct + (logits.argmax(1) == targets).sum().cpu()
        model.train()
        count = self.data.shape.val_size
        return {"loss": float(loss) / count, "accuracy": float(correct) / count}
