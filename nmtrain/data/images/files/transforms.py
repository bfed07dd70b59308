"""Image files turned into tensors: PIL opens them, timm's own transforms augment, resize and crop them.

Pixels stay uint8 until they are on the device: a quarter of what processes and buses would carry as float32.
"""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor

Transform = Callable[[Image.Image], Tensor]  # to uint8 [channels, image_size, image_size]

_MODES = {1: "L", 3: "RGB"}  # of PIL, by the number of channels
_OF_16_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # a file of 16 bits in colour PIL itself cuts to 8
_TO_8_BITS = 257  # 65535 becomes 255


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """timm's, which keeps 0 bits at the end of its scale: newer PIL refuses that, and older made it black."""
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **options)


auto_augment.NAME_TO_OP |= dict.fromkeys(("Posterize", "PosterizeIncreasing", "PosterizeOriginal"), _posterize)


@dataclass(frozen=True)
class Transforms:
    """What happens to an image between its file and the model; the fields are options of sources that read files."""

    channels: int  # 1 or 3
    image_size: int
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    auto_augment: str | None
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    hflip: float
    color_jitter: float | None
    erase: float

    @classmethod
    def of(cls, options: Any) -> Transforms:
        """Of a source that has options of the same names; the lists of YAML become tuples."""
        given: dict[str, Any] = {field.name: getattr(options, field.name) for field in fields(cls)}
        lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**given | lists)

    def for_training(self) -> Transform:
        """A random one, which draws from the generators of python, numpy and torch."""
        # Not `create_transform`, which leaves out color jitter beside `auto_augment` though it is asked for.
        return transforms_imagenet_train(
            self.image_size,
            scale=self.crop_scale,
            ratio=self.crop_ratio,
            hflip=self.hflip,
            color_jitter=self.color_jitter,  # type: ignore[arg-type]  # None is allowed, and is none
            force_color_jitter=True,
            auto_augment=self.auto_augment,
            interpolation=self.interpolation,
            mean=self.mean,
            normalize=False,
        )

    def for_evaluation(self) -> Transform:
        """The fixed one of timm, to the pixel."""
        return create_transform(
            self.image_size,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            mean=self.mean,
            normalize=False,
        )

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 ``[B, channels, H, W]`` as float32, by the operations of torchvision's ToTensor and Normalize."""
        mean, std = (_levels(tuple(values), images.device) for values in (self.mean, self.std))
        return images.float().div_(255).sub_(mean).div_(std)

    def erased(self, images: Tensor, seed: int, size: int = 0, places: Sequence[int] | None = None) -> Tensor:
        """Normalized images with a rectangle of noise in each that ``erase`` chances on; the same on every device.

        Args:
            size: of the batch whose ``places`` the images are; None where they are the whole.
        """
        if self.erase:
            batch: Any = images if places is None else _WithGaps(images, size, places)
            with seeded(seed):
                RandomErasing(self.erase, mode="pixel", device="cpu")(batch)
        return images


class _WithGaps:
    """A batch of which only some images are here: what timm does to the others, and draws for, is thrown away."""

    def __init__(self, images: Tensor, size: int, places: Sequence[int]) -> None:
        self.dtype, self._size = images.dtype, (size, *images.shape[1:])
        self._images = dict(zip(places, images, strict=True))
        self._other = torch.empty_like(images[0])

    def size(self) -> tuple[int, ...]:
        return self._size

    def __getitem__(self, place: int) -> Tensor:
        return self._images.get(place, self._other)


@cache  # what is copied to a GPU at each batch would wait for it
def _levels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1)


def read_image(cell: Mapping[str, Any], channels: int) -> Image.Image:
    """An undecoded image of `datasets`, ``bytes`` or the ``path`` of a file, as RGB or grey of 8 bits.

    As in timm and torchvision it is the first frame of an animation, transparency is dropped, CMYK is converted
    without colour profiles, and an orientation noted by a camera is not followed: weights of others were trained so,
    and plain timm scores an exported model on the same pixels. Grey of 16 bits is scaled, where PIL would clip it.

    Raises:
        Exception: of whatever kind PIL and its decoders have for a file that is no image, or a damaged one.
    """
    source: Any = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, odd palettes and broken notes of cameras
        with Image.open(source) as image:
            if image.mode in _OF_16_BITS:
                levels = (np.asarray(image).astype(np.int64) + _TO_8_BITS // 2) // _TO_8_BITS
                return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert(_MODES[channels])
            return image.convert(_MODES[channels])


def seed_generators(seed: int) -> None:
    """The generators of python, numpy and torch (of the CPU) start from ``seed``."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # which, unlike torch.manual_seed, is nothing to other devices


@contextmanager
def generators_kept() -> Iterator[None]:
    """These generators are after as they were before. It takes longer than to seed them: do it once for a batch."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The generators start from ``seed`` inside, and are as before after."""
    with generators_kept():
        seed_generators(seed)
        yield
