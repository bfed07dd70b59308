"""Learning from a teacher's answers beside the right ones (Hinton et al., 2015, arXiv 1503.02531)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtrain.config.schema import TrainConfig


class Teacher:
    """A model whose answers are soft targets. It is always in eval mode, has no gradients and no part in checkpoints.

    Args:
        model: on the device of the one that learns.
        levels: ``(factor, offset)`` that make the images of the one that learns those that the teacher knows, where
            they are normalised otherwise.
    """

    def __init__(self, model: Any, train: TrainConfig, levels: tuple[Tensor, Tensor] | None = None) -> None:
        self.model, self._levels = model.eval().requires_grad_(False), levels
        self._weight, self._temperature = train.teacher_weight, train.teacher_temperature

    @torch.no_grad()
    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """What the teacher says of the inputs that the student is given, after augmentation and mixing."""
        if self._levels is not None:
            factor, offset = self._levels
            inputs = tuple(images * factor + offset for images in inputs)
        return self.model(*inputs, **named)

    def blended(self, loss: Tensor, logits: Tensor, taught: Tensor, rows: int | Tensor) -> Tensor:
        """``(1 - w) loss + w T^2 KL(teacher || student)``, the divergence that of their softmax at temperature T.

        Args:
            logits, taught: of student and teacher, ``[..., classes]``; the divergence is summed over all but the last.
            rows: what that sum is divided by.
        """
        log_student, log_teacher = ((given.float() / self._temperature).log_softmax(-1) for given in (logits, taught))
        divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) / rows
        return (1 - self._weight) * loss + self._weight * self._temperature**2 * divergence
