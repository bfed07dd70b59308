"""What is learned: batches in, a loss out, and the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtrain.config import Config
from nmtrain.data import load_data, local_files
from nmtrain.data.digest import EXAMPLES, changed_files, file_digests
from nmtrain.data.images import ImageData
from nmtrain.measure import Lengths
from nmtrain.schema import TrainConfig

if TYPE_CHECKING:
    from nmtrain.data.text import TextData


@dataclass(frozen=True)
class Work:
    """What all updates together worked on."""

    unit: str  # images or tokens
    amount: int
    padding: float | None  # share of padding among all tokens that the model was given


class Task(Protocol):
    """What the loop asks of a task; batches are the task's own affair."""

    headline: str  # the metric of `evaluate` that tables show
    signatures: dict[str, str]  # what settings metrics were computed with, of those that have any

    @property
    def data(self) -> ImageData | TextData:
        """What the batches are made from."""

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
    from nmtrain.training.text_task import TextClassification, TextRegression, TextToText

    classifies = config.model.kind == "text_classifier"
    text = load_data(
        **config.data, seed=config.seed, tokenizer=build_tokenizer(config.model), for_classifier=classifies
    )
    assert isinstance(text, TextData)
    if not classifies:
        return TextToText(model, text, config.train)
    return (TextRegression if text.shape.is_regression else TextClassification)(model, text, config.train)


def load_same_task(
    config: Config, model: nn.Module, device: torch.device, before: dict[str, str], refuse: Callable[[str], None]
) -> tuple[Task, dict[str, str]]:
    """`load_task`, and what the data are: a digest of each local file that they are read from, of those that describe a
    checkpoint and its tokenizer, and of all examples.

    Args:
        before: the digests when the run began; empty where they are not known.
        refuse: is told what is not as it was, files before anything is read of them.
    """
    began = "{} not what this run began with"
    now = file_digests([*local_files(**config.data), *_checkpoint_files(config)])
    names = changed_files(before, now) if before else []
    if names:
        refuse(began.format(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"))
    task = load_task(config, model, device)
    now[EXAMPLES] = task.data.digest()
    if before and before[EXAMPLES] != now[EXAMPLES] and not names:
        refuse(began.format(f"the examples of data={config.data['name']} are"))
    return task, now


def _checkpoint_files(config: Config) -> list[Path]:
    if not config.model.reads_text:
        return []
    from nmtrain.models.language import checkpoint_files

    return checkpoint_files(config.model)


class ImageClassification:
    """Cross entropy over classes, for any model that maps images to logits."""

    headline = "accuracy"

    def __init__(self, data: ImageData, train: TrainConfig) -> None:
        self.data, self.train = data, train
        self.signatures: dict[str, str] = {}

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
