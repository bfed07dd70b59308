"""Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) as timm has them, made a pure function of a seed."""

from __future__ import annotations

import numpy
from timm.data import Mixup
from torch import Tensor

from nmtrain.config.schema import TrainConfig


def mixer(train: TrainConfig, num_classes: int) -> Mixup | None:
    """What mixes the batches of a run; None where the config asks for neither kind."""
    if not train.mixes:
        return None
    return Mixup(
        mixup_alpha=train.mixup,
        cutmix_alpha=train.cutmix,
        mode=train.mix_mode,
        switch_prob=train.mix_switch,
        prob=train.mix_prob,
        label_smoothing=train.label_smoothing,
        num_classes=num_classes,
    )


def mixed(mixup: Mixup, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Each image mixed with the one at the same place from the other end of the batch.

    timm draws from numpy's global generator, which is seeded for the call and then put back.

    Args:
        images: ``[B, C, H, W]``, B even; they are changed in place.
        labels: int64 ``[B]``.

    Returns:
        The images, and targets ``[B, num_classes]`` whose rows sum to 1, label smoothing among them.
    """
    before = numpy.random.get_state()
    numpy.random.seed(seed % 2**32)
    try:
        return mixup(images, labels)
    finally:
        numpy.random.set_state(before)
