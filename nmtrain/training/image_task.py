"""Learning from images: one of several classes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn

from nmtrain.config.schema import TrainConfig
from nmtrain.data.images.batches import ImageBatches
from nmtrain.data.seeds import mix_seed
from nmtrain.errors import TrainingError
from nmtrain.training.distillation import Teacher
from nmtrain.training.distribution.ranks import ALONE, Ranks
from nmtrain.training.distribution.shares import share
from nmtrain.training.mixing import mixed, mixer
from nmtrain.training.task import Work

_TOP = 5  # classes among which the right one counts for the accuracy of top 5


class ImageClassification:
    """The loss over classes that ``train.loss`` names, for any model that maps images to logits.

    Args:
        seed: the run's, by which images are mixed.
    """

    headline = "accuracy"
    teacher: Teacher | None = None

    def __init__(self, data: ImageBatches, train: TrainConfig, seed: int, ranks: Ranks = ALONE) -> None:
        self.data, self.train, self.seed, self.ranks = data, train, seed, ranks
        self._share = {} if ranks.world == 1 else {"places": share(train, ranks.rank, ranks.world)}
        self.damaged = data.damaged
        self.signatures: dict[str, str] = {}
        self._mixer = mixer(train, data.shape.num_classes)
        smoothing = train.label_smoothing
        self._criterion: nn.Module
        if train.loss == "bce":
            self._criterion = BinaryCrossEntropy(smoothing)  # leaves targets alone that are soft already
        else:
            self._criterion = nn.CrossEntropyLoss(label_smoothing=0.0 if self._mixer else smoothing)

    def batches(self, update: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Equal parts of this rank's share of the update's batch, whose images are mixed before it is cut."""
        parts = self.train.micro_batches
        inputs, targets = self.data.train_batch(update, self.train.batch_size, **self._share)
        if self._mixer:
            inputs, targets = mixed(self._mixer, inputs, targets, mix_seed("mix", self.seed, update))
        inputs = self._laid_out(inputs)
        return zip(inputs.chunk(parts), targets.chunk(parts), strict=True)

    def _laid_out(self, inputs: Tensor) -> Tensor:
        return inputs.contiguous(memory_format=torch.channels_last) if self.train.channels_last else inputs

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Of hard or soft targets; as in timm, BCE is a mean over images and classes."""
        inputs, targets = batch
        logits = model(inputs).float()
        loss: Tensor = self._criterion(logits, targets)
        if self.teacher is not None:
            loss = self.teacher.blended(loss, logits, self.teacher(inputs), len(inputs))
        return loss / self.train.micro_batches

    def work(self, total: int) -> Work:
        return Work("images", total * self.train.batch_size, None)

    def lengths(self) -> None:
        return None

    def close(self) -> None:
        self.data.close()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, batch_size: int) -> dict[str, float]:
        """Over all validation images that can be read: ``loss``, which is cross entropy without label smoothing
        whatever trained the model, ``accuracy``, and where there are more than five classes ``top5``, the share of
        images whose class is among the five most likely."""
        model.eval()
        count = 0
        loss = correct = among_five = torch.zeros((), dtype=torch.float64)
        has_top = self.data.shape.num_classes > _TOP
        batches = self.data.val_batches(batch_size, **self.ranks.turns)
        for inputs, targets in self.ranks.marked(batches, "evaluating"):
            logits = model(self._laid_out(inputs)).float()
            loss = loss + F.cross_entropy(logits, targets, reduction="sum")
            correct = correct + (logits.argmax(1) == targets).sum()
            count += len(targets)
            if has_top:
                among_five = among_five + (logits.topk(_TOP).indices == targets[:, None]).sum()
        model.train()
        total, right, near, scored = self.ranks.summed(loss, correct, among_five, torch.tensor(count))
        if not scored:
            told = f"none of the {self.data.shape.val_size} images to evaluate on can be read"
            raise TrainingError(f"data={self.data.name}: {told}")
        return {"loss": total / scored, "accuracy": right / scored} | ({"top5": near / scored} if has_top else {})
