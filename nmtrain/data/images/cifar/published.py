"""Where the files of CIFAR are and which they are. Imports nothing heavy."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nmtrain.data.splits import find_split

UNREADABLE = (tarfile.TarError, EOFError, zlib.error)  # what an archive that is damaged or none raises
_SITE = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Published:
    """One of the two data sets, as its authors and the Hugging Face hub publish it.

    Attributes:
        sizes: images for training and for test.
        folder: what the archive holds, and torchvision makes of it.
        archive: the file's name, and its MD5.
        batches: the files of each split with their MD5, the same as torchvision's. They are pickles, which may do
            anything when they are read: one of another MD5 never is.
        labels: the key of the labels in each batch.
        repository, subset: on the hub; ``subset`` is also the folder of its Parquet files.
        label_column: of the hub's data set.
    """

    name: str
    sizes: tuple[int, int]
    folder: str
    archive: tuple[str, str]
    batches: Mapping[str, Mapping[str, str]]
    labels: str
    repository: str
    subset: str
    label_column: str

    @property
    def address(self) -> str:
        return _SITE + self.archive[0]


CIFAR10 = Published(
    name="cifar10",
    sizes=(50_000, 10_000),
    folder="cifar-10-batches-py",
    archive=("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    batches={
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    },
    labels="labels",
    repository="uoft-cs/cifar10",
    subset="plain_text",
    label_column="label",
)
CIFAR100 = Published(
    name="cifar100",
    sizes=(50_000, 10_000),
    folder="cifar-100-python",
    archive=("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    batches={
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    },
    labels="fine_labels",
    repository="uoft-cs/cifar100",
    subset="cifar100",
    label_column="fine_label",
)


@dataclass(frozen=True)
class Kept:
    """A local copy: ``form`` is "folder" (of batches), "archive" (of them), or "table" (a folder of Parquet files)."""

    form: str
    place: Path


def find_local(path: Path, published: Published) -> Kept:
    """The copy that ``path`` is or holds: the archive; the folder of batches or its parent; the hub's Parquet files, as
    :func:`nmtrain.data.splits.find_split` finds them, in the folder itself or in that of the subset.

    Raises:
        FileNotFoundError: where there is none; the message says what was looked for.
        ValueError: where it is incomplete, or of another form.
    """
    if not path.exists():
        raise FileNotFoundError("there is no such file or folder")
    if path.is_file():
        try:
            tarfile.open(path).close()
        except UNREADABLE as error:
            raise ValueError(f"data.path={path}: is no archive such as {published.archive[0]} ({error})") from error
        return Kept("archive", path)
    names = [name for split in published.batches.values() for name in split]
    for folder in (path, path / published.folder):
        there = [name for name in names if (folder / name).is_file()]
        if there and len(there) < len(names):
            lacks = ", ".join(name for name in names if name not in there)
            raise ValueError(f"data.path={folder}: has {', '.join(there)} of {published.name}, and lacks {lacks}")
        if there:
            return Kept("folder", folder)
    if (path / published.archive[0]).is_file():
        return find_local(path / published.archive[0], published)
    return Kept("table", _table(path, published))


def _table(path: Path, published: Published) -> Path:
    for folder in (path, path / published.subset):
        try:
            found = [find_split(folder, split) for split in ("train", "test")]
        except ValueError:
            continue
        if all(split.format in ("parquet", "saved") for split in found):
            return folder
    raise FileNotFoundError(
        f"holds no {published.name}; allowed: {published.folder}, {published.archive[0]}, a folder with one of them,"
        " or one with the hub's train-*.parquet and test-*.parquet"
    )
