"""Learning from images: one of several classes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtrain.config.schema import TrainConfig
from nmtrain.data.images.in_memory import ImageData
from nmtrain.training.distillation import Teacher
from nmtrain.training.task import Work


class ImageClassification:
    """Cross entropy over classes, for any model that maps images to logits."""

    headline = "accuracy"
    teacher: Teacher | None = None

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
        logits = model(inputs).float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.train.label_smoothing)
        if self.teacher is not None:
            loss = self.teacher.blended(loss, logits, self.teacher(inputs), len(inputs))
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
