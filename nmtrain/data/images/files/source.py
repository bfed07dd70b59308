"""What the sources of image files share: their options, and how two splits of labelled files become data."""

from __future__ import annotations

import logging
import math
import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from nmtrain.data.shapes import DataShape
from nmtrain.data.source import (
    ImageSource,
    choice_faults,
    fault,
    fraction_faults,
    path_faults,
    positive_fraction_faults,
    whole_number_faults,
)
from nmtrain.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

    from nmtrain.data.images.batches import ImageBatches

_log = logging.getLogger(__name__)

_INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
_CROP_MODES = ("center", "squash", "border")
# What a string of timm's begins with, and what may follow after dashes: timm passes over some of what it does not know.
_NUMBER, _POSITIVE = r"\d+(\.\d+)?", r"(?=[\d.]*[1-9])\d+(\.\d+)?"
_POLICIES = {
    "rand": rf"m\d+|n0*[1-9]\d*|p(0(\.\d+)?|1(\.0+)?)|mstd{_NUMBER}|mmax0*[1-9]\d*|inc[01]|t(weights|3aw?)",
    "augmix": rf"m\d+|w0*[1-9]\d*|d\d+|a{_POSITIVE}|b[01]|mstd{_NUMBER}",
    **dict.fromkeys(("3a", "original", "originalr", "v0", "v0r"), f"mstd{_NUMBER}"),
}
_MOST = 10**9


class Split(Protocol):
    """The labelled images of one split, of which nothing but names, numbers and labels has been read yet."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label: 0, 1, ..."""

    @property
    def files(self) -> list[Path]:
        """The files that it is read from, or the one folder."""

    @property
    def notes(self) -> list[str]:
        """What to tell of it where it is used; no faults."""

    def __len__(self) -> int: ...

    def digests(self) -> dict[str, str]:
        """A digest for each of ``files``, by its path: of names within it, sizes and classes, not of content.

        Raises:
            DataError: naming the file that cannot be read.
        """

    def dataset(self) -> Dataset:
        """Columns ``image`` (a dict of ``bytes`` or ``path``, not decoded) and ``label`` (a `ClassLabel`); in a fixed
        order.

        Its fingerprint is the same wherever the files lie. Nothing is read whole into memory.

        Raises:
            DataError: naming what cannot be read.
        """


@dataclass(frozen=True)
class ImageFiles(ImageSource):
    """Images on disk, read, decoded and augmented as training goes.

    ``image_size``, ``interpolation``, ``crop_pct``, ``crop_mode``, ``mean`` and ``std`` of None are those that timm
    states for the model; who checks a config puts them in.
    """

    path: str | None = None
    image_size: int | None = None
    channels: int = 3
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    auto_augment: str | None = None
    crop_scale: Sequence[float] = (0.08, 1.0)
    crop_ratio: Sequence[float] = (0.75, 1.3333)
    hflip: float = 0.5
    color_jitter: float | None = None
    erase: float = 0.0
    repeats: int = 1
    max_damaged: int = 10
    workers: int | None = None
    prefetch: int = 2

    name: ClassVar[str]
    splits = ("val", "test")
    of_model: ClassVar[tuple[str, ...]] = ("image_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")

    @abstractmethod
    def parts(self) -> tuple[Split, Split]:
        """What is trained on, and what is evaluated on.

        Raises:
            ValueError: where files are missing or are not what they should be; one line for each fault.
        """

    def faults(self) -> list[str]:
        return self.option_faults() or self.folder_faults()

    def option_faults(self) -> list[str]:
        """`faults`, without looking for the folder."""
        return [
            *super().faults(),
            *path_faults("path", self.path),
            *([] if self.image_size is None else whole_number_faults("image_size", self.image_size, 8, 4096)),
            *(
                []
                if _is_whole(self.channels) and self.channels in (1, 3)
                else [fault("channels", self.channels, "1, 3")]
            ),
            *(
                []
                if self.interpolation is None
                else choice_faults("interpolation", self.interpolation, _INTERPOLATIONS)
            ),
            *([] if self.crop_pct is None else positive_fraction_faults("crop_pct", self.crop_pct)),
            *([] if self.crop_mode is None else choice_faults("crop_mode", self.crop_mode, _CROP_MODES)),
            *_level_faults("mean", self.mean, self.channels),
            *_level_faults("std", self.std, self.channels),
            *_policy_faults(self.auto_augment),
            *_range_faults("crop_scale", self.crop_scale, 1),
            *_range_faults("crop_ratio", self.crop_ratio, math.inf),
            *fraction_faults("hflip", self.hflip),
            *([] if self.color_jitter is None else fraction_faults("color_jitter", self.color_jitter)),
            *fraction_faults("erase", self.erase),
            *whole_number_faults("repeats", self.repeats, 1, 16),
            *whole_number_faults("max_damaged", self.max_damaged, 0, _MOST),
            *([] if self.workers is None else whole_number_faults("workers", self.workers, 0, 256)),
            *whole_number_faults("prefetch", self.prefetch, 1, 256),
        ]

    def folder_faults(self) -> list[str]:
        """One line if ``path`` is no folder."""
        if self.path is None or os.path.isdir(self.folder):
            return []
        try:
            os.stat(self.folder)
            reason = "is a file; allowed: a folder"
        except (FileNotFoundError, NotADirectoryError):
            reason = "there is no such folder"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        return [f"data.path={self.path}: {reason}"]

    @property
    def folder(self) -> Path:
        """``path``, as it was given: a run goes on where it and its data were moved together."""
        return Path(os.path.expanduser(self.path or ""))

    def files(self) -> list[Path]:
        return list(dict.fromkeys(file for part in self.parts() for file in part.files))

    def digests(self) -> dict[str, str]:
        train, val = self.parts()
        return train.digests() | val.digests()

    def shape(self) -> DataShape:
        train, val = self.parts()
        if lines := _class_faults(self, train, val):
            raise ValueError("\n".join(lines))
        if self.image_size is None:
            raise ValueError("data.image_size: null is not allowed here, where no model states its own; give pixels")
        return DataShape(
            num_classes=len(train.class_names),
            channels=self.channels,
            image_size=self.image_size,
            train_size=len(train),
            val_size=len(val),
        )

    def datasets(self) -> tuple[Dataset, Dataset]:
        """`Split.dataset` of what is trained on and of what is evaluated on."""
        try:
            train, val = self.parts()
        except ValueError as error:  # since the config was checked
            raise DataError(str(error)) from error
        for note in dict.fromkeys([*train.notes, *val.notes]):
            _log.warning("data.path: %s", note)
        return train.dataset(), val.dataset()

    def load(self, seed: int) -> ImageBatches:
        from nmtrain.data.images.files.streamed import StreamedImages

        train, val = self.datasets()
        return StreamedImages(
            name=self.name,
            shape=self.shape(),
            class_names=list(train.features["label"].names),
            train=train,
            val=val,
            seed=seed,
            options=self,
        )


def _class_faults(source: ImageFiles, train: Split, val: Split) -> list[str]:
    """Lines where there is nothing to tell apart, or where the splits tell other things apart."""
    place = f"data.path={source.path}"
    if len(train.class_names) < 2:
        return [f"{place}: has one class only, {', '.join(train.class_names)}; allowed: two or more to tell apart"]
    lines = []
    for here, there, classes in (
        ("train", source.evaluate, set(train.class_names) - set(val.class_names)),
        (source.evaluate, "train", set(val.class_names) - set(train.class_names)),
    ):
        if classes:
            lines.append(
                f"{place}: {few(sorted(classes))} {'is a class' if len(classes) == 1 else 'are classes'} of "
                f"{here} and not of {there}; allowed: the same classes in both"
            )
    if not lines and train.class_names != val.class_names:
        return [f"{place}: {source.evaluate} has the classes of train in another order; allowed: the same in both"]
    return lines


def few(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is_whole(value: object) -> bool:
    return type(value) is int


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _level_faults(option: str, value: object, channels: int) -> list[str]:
    """No line for a number for each channel; those of ``std`` are above 0."""
    if value is None:
        return []
    lowest = "numbers" if option == "mean" else "numbers above 0"
    are_numbers = isinstance(value, list | tuple) and len(value) == channels and all(map(_is_number, value))
    if are_numbers and (option == "mean" or min(value) > 0):  # type: ignore[call-overload]
        return []
    return [fault(option, value, f"a list of {lowest}, one for each of data.channels={channels}, or null")]


def _range_faults(option: str, value: object, highest: float) -> list[str]:
    """No line for a list of a smallest and a largest number above 0."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)):
        low, high = value
        if 0 < low <= high <= highest:
            return []
    limit = "" if highest == math.inf else f", at most {highest:g}"
    return [fault(option, value, f"a list of the smallest and the largest, above 0{limit}")]


def _policy_faults(value: object) -> list[str]:
    if value is None:
        return []
    begin = f"a policy of timm such as rand-m9-mstd0.5-inc1, or null; they begin with {', '.join(_POLICIES)}"
    if not isinstance(value, str):
        return [fault("auto_augment", value, begin)]
    policy, *sections = value.split("-")
    if policy not in _POLICIES:
        return [fault("auto_augment", value, begin)]
    strange = [section for section in sections if not re.fullmatch(_POLICIES[policy], section)]
    if not strange:
        return []
    known = {"rand": "m9, n2, p0.5, mstd0.5, mmax10, inc1, tweights", "augmix": "m3, w3, d2, a1.0, b1, mstd0.5"}
    allowed = f"after {policy} and dashes what timm reads there, such as {known.get(policy, 'mstd0.5')}, and no"
    return [fault("auto_augment", value, f"{allowed} {few(strange)}")]
