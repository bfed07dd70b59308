"""What images give a task, whether they are held in memory or read from files as training goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import DataShape


@dataclass(frozen=True)
class Preprocessing:
    """What a validation image goes through, in timm's words; `mean` and `std` have a number for each channel."""

    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: list[float]
    std: list[float]


@runtime_checkable
class ImageBatches(Protocol):
    """Labelled images as batches on a device: float32 ``[B, channels, H, W]``, normalized, and int64 ``[B]``."""

    name: str
    shape: DataShape
    class_names: list[str]
    damaged: dict[str, str]  # the images that could not be read so far, and why

    @property
    def preprocessing(self) -> Preprocessing:
        """What validation images go through."""

    def to(self, device: torch.device | str) -> ImageBatches:
        """Give batches on ``device`` from now on; returns self."""

    def digest(self) -> str:
        """Of what is learned from: other examples have another one."""

    def updates_per_epoch(self, batch_size: int) -> int:
        """Full batches in one pass over the training images. Raises ValueError if not one can be filled."""

    def train_batch(self, update: int, batch_size: int, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch of one update: a pure function of the run's seed, ``update`` and ``batch_size``.

        Args:
            places: of the samples to give, int64, where it is not all of the batch; each is what it is in the whole.
        """

    def val_batches(self, batch_size: int, first: int = 0, step: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """All validation images that can be read, once, in a fixed order, not augmented; of these batches the first,
        and from there on each ``step``-th."""

    def close(self) -> None:
        """End the processes that read ahead, if there are any."""


def full_batches(name: str, train_size: int, batch_size: int) -> int:
    """Full batches in one pass over the training images; the remainder of each epoch is left out.

    Raises:
        ValueError: if not one batch can be filled.
    """
    if not 1 <= batch_size <= train_size:
        raise ValueError(f"batch size {batch_size}: {name} allows 1 to {train_size} (train_size)")
    return train_size // batch_size


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of an epoch's training images: a permutation of ``count``, the same on every device."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(mix_seed("order", seed, epoch)))
