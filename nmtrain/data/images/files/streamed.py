"""Labelled images read from files while training goes on: processes beside it decode and augment ahead of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import UnidentifiedImageError
from torch import Tensor
from torch.utils.data import default_collate

from nmtrain.data.cache import checksum
from nmtrain.data.images.batches import Preprocessing, epoch_order, full_batches
from nmtrain.data.images.files.ahead import Ahead
from nmtrain.data.images.files.transforms import Transforms, generators_kept, read_image, seed_generators
from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import DataShape
from nmtrain.errors import TrainingError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 64  # whose encoded images a process holds
_NAMED = 3  # damaged images that a message names


class Draw(NamedTuple):
    """One place of a training batch: which image, and by which random numbers it is augmented."""

    epoch: int
    row: int
    repeat: int


class Damage(NamedTuple):
    """An image that could not be read."""

    name: str
    reason: str


class Sample(NamedTuple):
    """What became of one place of a batch; no image where none could be read."""

    image: Tensor | None
    label: int
    damages: list[Damage]


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    damages: list[Damage]


class StreamedImages:
    """Train and validation images of one data set, as rows that are decoded when a batch needs them.

    A training batch is a function of ``(seed, update, batch_size)`` and of nothing else, for any number of processes.
    Each epoch is a permutation of the training images. With ``repeats`` r it is, as timm's repeated augmentation in
    one process, the first r-th of that permutation with each image r times in a row, augmented anew each time: an
    epoch stays as long.

    An image that cannot be read is replaced in training by the next readable row of the data set, which depends on
    its row alone, and left out of evaluation. It is named in the log once.

    Args:
        train, val: columns ``image``, of `datasets.Image(decode=False)`, and ``label``, an int.
        seed: the run's seed.
        options: of the source: the fields of `Transforms`, ``repeats``, ``max_damaged``, ``workers``, ``prefetch``.
    """

    def __init__(
        self,
        *,
        name: str,
        shape: DataShape,
        class_names: list[str],
        train: Dataset,
        val: Dataset,
        seed: int,
        options: Any,
    ) -> None:
        self.name = name
        self.shape = shape
        self.class_names = class_names
        self.seed = seed
        self.damaged: dict[str, str] = {}
        self.device = torch.device("cpu")
        self._train, self._val = train, val
        self._repeats: int = options.repeats
        self._max_damaged: int = options.max_damaged
        self._transforms = Transforms.of(options)
        samples = _TrainSamples(train, self._transforms, seed, options.max_damaged)
        self._train_ahead = Ahead(samples, gather, options.workers, options.prefetch)
        self._val_ahead = Ahead(_ValSamples(val, self._transforms), gather, options.workers, options.prefetch)
        self._next: tuple[int, int, tuple[int, ...] | None] | None = (
            None  # the update, batch size and places that come next
        )
        self._batches: Iterator[Batch] = iter(())

    @property
    def preprocessing(self) -> Preprocessing:
        used = self._transforms
        return Preprocessing(used.interpolation, used.crop_pct, used.crop_mode, list(used.mean), list(used.std))

    def to(self, device: torch.device | str) -> StreamedImages:
        self.close()
        self.device = torch.device(device)
        return self

    def digest(self) -> str:
        """Of all labels in their order; what the files are, their own digests say."""
        labels = {"train labels": self._train, "val labels": self._val}
        return checksum({name: torch.as_tensor(rows.with_format(None)["label"][:]) for name, rows in labels.items()})

    def updates_per_epoch(self, batch_size: int) -> int:
        return full_batches(self.name, len(self._train), batch_size)

    def train_batch(self, update: int, batch_size: int, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch of one update, or ``places`` of it, and nothing else is read; those of the next updates are read
        ahead from here on.

        Raises:
            TrainingError: where more images are damaged than allowed, or the processes that read cannot go on.
            DataError: where they would have too little shared memory.
        """
        count = batch_size if places is None else len(places)
        wanted = None if places is None else tuple(places.tolist())
        if self._next != (update, batch_size, wanted):
            on_cuda = self.device.type == "cuda"
            size = count * self._bytes_per_image
            self._batches = self._train_ahead.start(self._draws(update, batch_size, wanted), size, on_cuda)
        self._next = None  # where reading fails, the next call starts anew
        batch = next(self._batches)
        self._note(batch.damages)
        if len(batch.labels) < count:
            raise TrainingError(f"data={self.name}: none of the {len(self._train)} training images can be read")
        self._next = update + 1, batch_size, wanted
        images, labels = self._on_device(batch)
        return self._transforms.erased(images, mix_seed("erase", self.seed, update), batch_size, wanted), labels

    def val_batches(self, batch_size: int, first: int = 0, step: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """All validation images once, in a fixed order; batches are smaller by the images that cannot be read."""
        rows = range(len(self._val))
        keys = (list(rows[start : start + batch_size]) for start in rows[first * batch_size :: step * batch_size])
        size, scored = batch_size * self._bytes_per_image, 0
        for batch in self._val_ahead.start(keys, size, self.device.type == "cuda"):
            self._note(batch.damages)
            if len(batch.labels):
                scored += len(batch.labels)
                yield self._on_device(batch)
        if not scored and step == 1:  # those of another share may be well
            raise TrainingError(f"data={self.name}: none of the {len(self._val)} images to evaluate on can be read")

    def close(self) -> None:
        self._train_ahead.close()
        self._val_ahead.close()
        self._next = None

    @property
    def _bytes_per_image(self) -> int:
        return self.shape.channels * self.shape.image_size**2

    def _draws(self, first: int, batch_size: int, wanted: Sequence[int] | None) -> Iterator[list[Draw]]:
        """What the batches from update ``first`` on, or the ``wanted`` places of them, are made of, without end."""
        inside = range(batch_size) if wanted is None else wanted
        per_epoch = self.updates_per_epoch(batch_size)
        order, of_epoch = torch.empty(0), -1
        for update in count(first):
            epoch, position = divmod(update, per_epoch)
            if epoch != of_epoch:
                order, of_epoch = epoch_order(self.seed, epoch, len(self._train)), epoch
            places = [position * batch_size + place for place in inside]
            yield [Draw(epoch, int(order[place // self._repeats]), place % self._repeats) for place in places]

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = (values.to(self.device, non_blocking=True) for values in (batch.images, batch.labels))
        return self._transforms.normalized(images), labels

    def _note(self, damages: list[Damage]) -> None:
        for name, reason in damages:
            if name not in self.damaged:
                self.damaged[name] = reason
                logger.warning("%s cannot be read and is left out: %s", name, reason)
        if len(self.damaged) > self._max_damaged:
            few = "; ".join(f"{name} ({reason})" for name, reason in list(self.damaged.items())[:_NAMED])
            more = f" and {len(self.damaged) - _NAMED} more" if len(self.damaged) > _NAMED else ""
            raise TrainingError(
                f"data.max_damaged={self._max_damaged}: {len(self.damaged)} images cannot be read: {few}{more}."
                " Mend or remove them, or allow more"
            )


class _TrainSamples(torch.utils.data.Dataset[Sample]):
    """Training images, each augmented by random numbers of its own."""

    def __init__(self, rows: Dataset, transforms: Transforms, seed: int, max_damaged: int) -> None:
        self.rows, self.channels, self.seed = rows, transforms.channels, seed
        self.transform = transforms.for_training()
        self.tries = min(max_damaged + 1, len(rows))

    def __getitems__(self, draws: list[Draw]) -> list[Sample]:
        examples = _examples(self.rows, [draw.row for draw in draws])
        with generators_kept():
            return [self._sample(draw, example) for draw, example in zip(draws, examples, strict=True)]

    def _sample(self, draw: Draw, example: dict[str, Any]) -> Sample:
        damages: list[Damage] = []
        for step in range(self.tries):
            row = (draw.row + step) % len(self.rows)
            sample = _read(self.rows[row] if step else example, "train", row, self.channels)
            if not isinstance(sample, Damage):
                image, label = sample
                seed_generators(mix_seed("augment", self.seed, draw.epoch, draw.row, draw.repeat))
                return Sample(self.transform(image), label, damages)
            damages.append(sample)
        return Sample(None, -1, damages)


class _ValSamples(torch.utils.data.Dataset[Sample]):
    """Validation images, as plain timm prepares them."""

    def __init__(self, rows: Dataset, transforms: Transforms) -> None:
        self.rows, self.channels = rows, transforms.channels
        self.transform = transforms.for_evaluation()

    def __getitems__(self, rows: list[int]) -> list[Sample]:
        return [self._sample(row, example) for row, example in zip(rows, _examples(self.rows, rows), strict=True)]

    def _sample(self, row: int, example: dict[str, Any]) -> Sample:
        sample = _read(example, "val", row, self.channels)
        if isinstance(sample, Damage):
            return Sample(None, -1, [sample])
        image, label = sample
        return Sample(self.transform(image), label, [])


def _examples(rows: Dataset, numbers: list[int]) -> Iterator[dict[str, Any]]:
    """The rows of these numbers, some at once: between two images one row alone costs a fifth of their decoding."""
    for start in range(0, len(numbers), _ROWS_AT_ONCE):
        columns = rows[numbers[start : start + _ROWS_AT_ONCE]]
        for image, label in zip(columns["image"], columns["label"], strict=True):
            yield {"image": image, "label": label}


def _read(example: dict[str, Any], split: str, row: int, channels: int) -> tuple[Any, int] | Damage:
    image = example["image"] or {"bytes": None, "path": None}  # shards may have rows without one
    try:
        if image["bytes"] is None and image["path"] is None:
            raise ValueError("there is none")
        return read_image(image, channels), example["label"]
    except UnidentifiedImageError:
        reason = "no image that PIL knows"
    except Exception as error:  # a file from anywhere makes PIL and its decoders raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
    return Damage(f"image {row} of {split}" + (f" ({image['path']})" if image["path"] else ""), reason)


def gather(samples: list[Sample]) -> Batch:
    """The samples that have an image, as one batch."""
    read = [sample for sample in samples if sample.image is not None]
    images = default_collate([sample.image for sample in read]) if read else torch.empty(0)
    damages = [damage for sample in samples for damage in sample.damages]
    return Batch(images, torch.tensor([sample.label for sample in read], dtype=torch.int64), damages)
