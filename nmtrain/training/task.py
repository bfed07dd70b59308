"""What is learned: batches in, a loss out, and the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtrain.data.images import ImageData


class ImageClassification:
    """Cross entropy over classes, for any model that maps images to logits."""

    def __init__(self, data: ImageData, batch_size: int, micro_batches: int, label_smoothing: float) -> None:
        self.data = data
        self.batch_size = batch_size
        self.micro_batches = micro_batches
        self.label_smoothing = label_smoothing

    def batches(self, update: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The micro-batches of one update, equal in size: a pure function of the run's seed and the update number."""
        inputs, targets = self.data.train_batch(update, self.batch_size)
        return zip(inputs.chunk(self.micro_batches), targets.chunk(self.micro_batches), strict=True)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return F.cross_entropy(model(inputs), targets, label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        """``loss`` (without label smoothing) and ``accuracy`` over all validation images; leaves the model training."""
        model.eval()
        loss = correct = torch.zeros((), dtype=torch.float64)
        for inputs, targets in self.data.val_batches(batch_size):
            logits = model(inputs).float()
            loss = loss + F.cross_entropy(logits, targets, reduction="sum").cpu()
            correct = correct + (logits.argmax(1) == targets).sum().cpu()
        model.train()
        count = self.data.shape.val_size
        return {"loss": float(loss) / count, "accuracy": float(correct) / count}
