"""``data=imagenet``: ImageNet as people have it, class folders or shards, or from the Hugging Face hub."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nmtrain.data.hub import load_from_hub
from nmtrain.data.images.files.folder import split_folders
from nmtrain.data.images.files.shards import Shards, find_shards, saved_split
from nmtrain.data.images.files.source import ImageFiles, Split
from nmtrain.data.images.files.tree import Tree, TreeSplit, list_files, list_tree, subfolders
from nmtrain.data.source import path_faults

if TYPE_CHECKING:
    from datasets import Dataset

_REPOSITORY = "ILSVRC/imagenet-1k"
_SIZES = {"train": 1_281_167, "val": 50_000}  # of the hub's splits with labels
_CLASSES = 1000
_ARCHIVED = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # where train and val lie in the archive of the challenge
_SOLUTION = "LOC_val_solution.csv"  # and where it keeps the classes of val, whose images lie in one folder
_HIDDEN = (
    "the published test set of ImageNet has no labels; allowed: val, or a data.path=FOLDER with a labelled test split"
)
LAYOUTS = (
    "train/CLASS/... and val/CLASS/...; ILSVRC/Data/CLS-LOC as unpacked; Parquet or tar shards with train and val or "
    "validation in their names; or a folder of save_to_disk"
)


@dataclass(frozen=True)
class ImageNet(ImageFiles):
    """ImageNet-1k, or another data set in one of its forms.

    ``path`` is a folder with class folders in ``train`` and ``val``, or with ``ILSVRC/Data/CLS-LOC``; with Parquet
    shards (columns ``image`` and ``label``) or tar shards (``KEY.jpg`` and ``KEY.cls``, or ``KEY.json`` with a
    ``label``) whose names say the split; or one that ``save_to_disk`` of `datasets` wrote. Null is the hub's copy,
    which asks for a log-in. Parquet, tar and the hub's copy take as much disk again in ``cache_dir``.
    """

    cache_dir: str | None = None

    name = "imagenet"

    def option_faults(self) -> list[str]:
        return [*super().option_faults(), *path_faults("cache_dir", self.cache_dir)]

    def folder_faults(self) -> list[str]:
        if self.path is None and self.evaluate == "test":
            return [f"data.evaluate: 'test' is not allowed without data.path: {_HIDDEN}"]
        return super().folder_faults()

    def parts(self) -> tuple[Split, Split]:
        if self.path is None:
            return OnHub("train", self.cache_dir), OnHub(self.evaluate, self.cache_dir)
        for place in _ARCHIVED:
            folder = self.folder / place
            if os.path.isdir(folder / "train") and subfolders(folder / "train"):
                return self._of_tree(folder)
        for format in ("saved", "parquet", "tar"):
            if files := self._files(format, "train"):
                if not (held_out := self._files(format, self.evaluate)):
                    raise ValueError(self._no_split(format))
                train = Shards(format, files, self.cache_dir)
                return train, Shards(format, held_out, self.cache_dir, train.class_names)
        raise ValueError(f"data.path={self.path}: has no training images; wanted: {LAYOUTS}")

    def _files(self, format: str, split: str) -> list[Path]:
        return saved_split(self.folder, split) if format == "saved" else find_shards(self.folder, split, f".{format}")

    def _of_tree(self, folder: Path) -> tuple[Split, Split]:
        train, folders = list_tree(folder / "train"), split_folders(folder)
        if not train.names:
            raise ValueError(f"data.path={self.path}: there are no images in the folders in {train.folder}")
        if self.evaluate not in folders:
            raise ValueError(self._no_split("folder"))
        place = folders[self.evaluate]
        if subfolders(place):
            held_out = list_tree(place)
        elif self.evaluate == "val":
            held_out = self._by_solution(place, train.class_names)
        else:
            raise ValueError(f"data.evaluate: 'test' is not allowed here: {place} has no class folders; {_HIDDEN}")
        return TreeSplit(train), TreeSplit(held_out)

    def _no_split(self, format: str) -> str:
        if self.evaluate == "test":
            return f"data.evaluate: 'test' is not allowed here: {self.path} has no test split; {_HIDDEN}"
        return f"data.path={self.path}: has a training split ({format}) and none to validate on; wanted: {LAYOUTS}"

    def _by_solution(self, place: Path, class_names: tuple[str, ...]) -> Tree:
        """Images of one folder, with the classes that the challenge's own list gives them."""
        wanted = (self.folder, *Path(os.path.abspath(place)).parents[:4])
        solution = next((folder / _SOLUTION for folder in wanted if os.path.isfile(folder / _SOLUTION)), None)
        if solution is None:
            raise ValueError(
                f"data.path={self.path}: {place} has no class folders; sort its images as in train, or put "
                f"{_SOLUTION} of the challenge into {self.folder}"
            )
        images, left_out, stamps = list_files(place)
        try:
            with open(solution, newline="", encoding="utf-8") as lines:
                classes = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(lines)}
            number = {name: label for label, name in enumerate(class_names)}
            labels = tuple(number[classes[Path(name).stem]] for name in images)
        except (OSError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"data.path: {solution} does not give {place} its classes ({error!r})") from error
        return Tree(place, tuple(images), class_names, labels, tuple(left_out), stamps)


@dataclass(frozen=True)
class OnHub:
    """A split of the hub's copy, of which nothing is asked until it is read."""

    split: str
    cache_dir: str | None

    @property
    def files(self) -> list[Path]:
        return []

    @property
    def notes(self) -> list[str]:
        return []

    @property
    def class_names(self) -> tuple[str, ...]:
        """Numbers, until it is there; `dataset` has the names."""
        return tuple(map(str, range(_CLASSES)))

    def __len__(self) -> int:
        return _SIZES[self.split]

    def digests(self) -> dict[str, str]:
        return {}

    def dataset(self) -> Dataset:
        import datasets

        found = load_from_hub(_REPOSITORY, None, "data=imagenet", self.cache_dir)
        return found["train" if self.split == "train" else "validation"].cast_column(
            "image", datasets.Image(decode=False)
        )
