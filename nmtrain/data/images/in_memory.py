"""Labelled images held in memory, and the batches made from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtrain.data.cache import checksum
from nmtrain.data.images.batches import Preprocessing, epoch_order, full_batches
from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import DataShape

# Augmentation: the largest changes, each drawn uniformly from plus or minus its bound.
_ROTATION = math.radians(8)
_SCALE = 0.08
_SHIFT = 1 / 16  # of the image's side
_NOISE = 0.03  # standard deviation, of the full brightness range
_PADDING = 4  # pixels, of random crops


class ImageData:
    """Train and validation images of one data set, as uint8 tensors that stay on the device.

    Args:
        train, val: ``(images, labels)``: uint8 ``[N, channels, image_size, image_size]`` and int64 ``[N]``.
        seed: the run's seed. A training batch is a function of ``(seed, update, batch_size)`` and of nothing else.
        augment: change the training images a little, anew in each update.
        augmentation: how: takes images with values from 0 to 1, and the generator to draw from.

    Batches are normalized with the mean and the standard deviation of all training pixels.
    """

    def __init__(
        self,
        *,
        name: str,
        shape: DataShape,
        class_names: list[str],
        train: tuple[Tensor, Tensor],
        val: tuple[Tensor, Tensor],
        seed: int,
        augment: bool,
        augmentation: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    ) -> None:
        self.name = name
        self.shape = shape
        self.class_names = class_names
        self.train_images, self.train_labels = train
        self.val_images, self.val_labels = val
        self.seed = seed
        self.augment, self._augmentation = augment, augmentation or moved_a_little
        self.mean, self.std = _brightness(self.train_images)
        self.damaged: dict[str, str] = {}  # nothing is read any more
        self._order: tuple[int, Tensor] | None = None  # (epoch, its permutation)

    @property
    def device(self) -> torch.device:
        return self.train_images.device

    def to(self, device: torch.device | str) -> ImageData:
        """Move all images and labels to ``device``; returns self."""
        self.train_images, self.train_labels = self.train_images.to(device), self.train_labels.to(device)
        self.val_images, self.val_labels = self.val_images.to(device), self.val_labels.to(device)
        self._order = None
        return self

    @property
    def preprocessing(self) -> Preprocessing:
        """Images are of the model's size already, which plain timm leaves as they are so."""
        channels = self.shape.channels
        return Preprocessing("bilinear", 1.0, "center", [self.mean] * channels, [self.std] * channels)

    def digest(self) -> str:
        """Of all images and labels."""
        tensors = {"train images": self.train_images, "train labels": self.train_labels}
        tensors |= {"val images": self.val_images, "val labels": self.val_labels}
        return checksum({name: tensor.cpu() for name, tensor in tensors.items()})

    def updates_per_epoch(self, batch_size: int) -> int:
        return full_batches(self.name, self.shape.train_size, batch_size)

    def train_batch(self, update: int, batch_size: int, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch of one update: float32 ``[batch_size, channels, H, W]`` and int64 ``[batch_size]``, or ``places``
        of it.

        Pure: neither earlier calls nor the global random state change it, so a resumed run needs to restore nothing.
        The order is the same on every device; augmentation draws from the device's own generator, so it is not. It
        draws for the whole batch, which is augmented as a whole.
        """
        epoch, position = divmod(update, self.updates_per_epoch(batch_size))
        chosen = self._epoch_order(epoch)[position * batch_size : (position + 1) * batch_size]
        images = self.train_images[chosen].float().div_(255)
        if self.augment:
            generator = torch.Generator(self.device).manual_seed(mix_seed("augment", self.seed, update))
            images = self._augmentation(images, generator)
        labels = self.train_labels[chosen]
        if places is not None:
            places = places.to(self.device)
            images, labels = images[places], labels[places]
        return self._normalized(images), labels

    def val_batches(self, batch_size: int, first: int = 0, step: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """All validation images once, in a fixed order, not augmented; the last batch may be smaller."""
        batches = zip(self.val_images.split(batch_size), self.val_labels.split(batch_size), strict=True)
        for images, labels in islice(batches, first, None, step):
            yield self._normalized(images.float().div_(255)), labels

    def close(self) -> None:
        """Nothing is read ahead."""

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, epoch_order(self.seed, epoch, self.shape.train_size).to(self.device))
        return self._order[1]

    def _normalized(self, images: Tensor) -> Tensor:
        return images.sub_(self.mean).div_(self.std)


def _brightness(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels, on the scale 0 to 1; from counts, so exact and small in memory."""
    counts = torch.bincount(images.flatten(), minlength=256).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts @ levels) / counts.sum()
    variance = (counts @ (levels - mean).square()) / counts.sum()
    return mean.item(), variance.sqrt().item()


def moved_a_little(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by its own small random affine map, with a little noise; values 0 to 1 before the noise."""
    count, device = len(images), images.device
    draws = torch.rand(4, count, generator=generator, device=device) * 2 - 1
    angle = draws[0] * _ROTATION
    scale = 1 + draws[1] * _SCALE
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift_x, shift_y = draws[2:] * (2 * _SHIFT)  # affine_grid measures the side as 2, from -1 to 1
    maps = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).view(count, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    # Backgrounds are not all black: what comes in from outside continues the border.
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.add_(torch.randn(moved.shape, generator=generator, device=device), alpha=_NOISE)


def cropped_and_flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to 4 pixels either way, black coming in, and every other one mirrored: the usual
    augmentation of CIFAR (a crop from the image padded by 4, and a horizontal flip)."""
    count, channels, height, width = images.shape

    def drawn(choices: int) -> Tensor:
        return torch.randint(choices, (count, 1), generator=generator, device=images.device)

    rows = drawn(2 * _PADDING + 1) + torch.arange(height, device=images.device)
    columns = drawn(2 * _PADDING + 1) + torch.arange(width, device=images.device)
    columns = torch.where(drawn(2) == 1, columns.flip(1), columns)
    each = torch.arange(count, device=images.device)[:, None, None, None]
    every = torch.arange(channels, device=images.device)[None, :, None, None]
    return F.pad(images, [_PADDING] * 4)[each, every, rows[:, None, :, None], columns[:, None, None, :]]
