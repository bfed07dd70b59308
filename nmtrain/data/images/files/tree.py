"""Trees of class folders: what lies in them, found by one listing that opens no image.

`datasets` has a builder for such folders (``imagefolder``), which is not used: version 5.2 takes the folder next to an
image for its class, drops all labels where depths differ or a metadata.csv lies about, makes splits of words in file
names ("test_1.jpg"), reads [ and * in names as patterns and leaves such images out without a word. What is listed here
becomes a `datasets.Dataset` all the same.
"""

from __future__ import annotations

import hashlib
import os
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from nmtrain.data.images.files.source import few
from nmtrain.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

# Names are compared in lower case.
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jpe", ".jfif", ".apng", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)
_LEFT_BY_OTHERS = ("__MACOSX", "@eaDir", "lost+found")  # folders that archives, file servers and file systems leave
_RECENT = 2_000_000_000  # nanoseconds in which a change need not show in a folder's time stamp


@dataclass(frozen=True)
class Tree:
    """The images below a folder of class folders, those in folders within these too, sorted.

    A class is the first folder on the way to its images; its name and the order are by Unicode's composed form, so that
    they are the same on every file system.
    """

    folder: Path
    names: tuple[str, ...]  # of the image files, from `folder` on
    class_names: tuple[str, ...]
    labels: tuple[int, ...]
    left_out: tuple[str, ...]  # other files, which are not hidden
    stamps: dict[str, int]  # when each folder was changed last

    @cached_property
    def places(self) -> tuple[float, ...]:
        """A number in [0, 1) for each image, by its name alone: another image moves none."""
        hashes = (hashlib.blake2b(_composed(name).encode(), digest_size=8).digest() for name in self.names)
        return tuple(int.from_bytes(number, "big") / 2**64 for number in hashes)

    @property
    def is_as_listed(self) -> bool:
        """Whether no folder was changed since; a file that is written over does not show."""
        newest = max(self.stamps.values())
        try:
            return time.time_ns() - newest > _RECENT and all(
                os.stat(folder).st_mtime_ns == stamp for folder, stamp in self.stamps.items()
            )
        except OSError:
            return False


@dataclass(frozen=True)
class TreeSplit:
    """Some or all images of a tree: those with ``places`` from ``low`` to below ``high``."""

    tree: Tree
    low: float = 0.0
    high: float = 1.0

    @cached_property
    def chosen(self) -> Sequence[int]:
        if (self.low, self.high) == (0.0, 1.0):
            return range(len(self.tree.names))
        return [index for index, place in enumerate(self.tree.places) if self.low <= place < self.high]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.tree.class_names

    @property
    def files(self) -> list[Path]:
        return [self.tree.folder]

    @property
    def notes(self) -> list[str]:
        if not (others := self.tree.left_out):
            return []
        what = "1 file is left out, which is" if len(others) == 1 else f"{len(others)} files are left out, which are"
        return [f"in {self.tree.folder} {what} no image of a class by name and place: {few(others, 3)}"]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def bare_classes(self) -> list[str]:
        """Classes of which it has no image."""
        present = {self.tree.labels[index] for index in self.chosen}
        return [name for label, name in enumerate(self.tree.class_names) if label not in present]

    def digests(self) -> dict[str, str]:
        digest = hashlib.blake2b(digest_size=16)
        for name, label in zip(self.tree.names, self.tree.labels, strict=True):
            path = os.path.join(self.tree.folder, name)
            try:
                size = os.stat(path).st_size
                if not os.access(path, os.R_OK):
                    raise PermissionError(None, "Permission denied")
            except OSError as error:
                raise DataError(f"data.path: {path} cannot be read: {error.strerror}") from error
            digest.update(f"{_composed(name)}\0{size}\0{self.class_names[label]}\0".encode())
        return {str(self.tree.folder): digest.hexdigest()}

    def dataset(self) -> Dataset:
        import datasets
        import pyarrow

        names = [self.tree.names[index] for index in self.chosen]
        labels = [self.tree.labels[index] for index in self.chosen]
        digest = hashlib.blake2b("\0".join(self.class_names).encode(), digest_size=16)
        for name, label in zip(names, labels, strict=True):
            digest.update(f"{_composed(name)}\0{label}\0".encode())
        folder = os.path.abspath(self.tree.folder)
        paths = pyarrow.array([os.path.join(folder, name) for name in names], pyarrow.string())
        absent = pyarrow.nulls(len(names), pyarrow.binary())
        images = pyarrow.StructArray.from_arrays([absent, paths], names=["bytes", "path"])
        label = datasets.ClassLabel(names=list(self.class_names))
        features = datasets.Features({"image": datasets.Image(decode=False), "label": label})
        columns = {"image": images, "label": pyarrow.array(labels, pyarrow.int64())}
        dataset = datasets.Dataset.from_dict(columns, features=features)
        dataset._fingerprint = digest.hexdigest()
        return dataset


_listed: dict[str, Tree] = {}  # a sweep checks many runs on the same tree


def list_tree(folder: Path) -> Tree:
    """List a folder of class folders; links are followed, hidden files and folders left out.

    Raises:
        ValueError: for folders that cannot be read, classes that are no two or have no images, links to nothing and
            names that are no text; one line for each fault.
    """
    place = os.path.abspath(folder)
    if place not in _listed or _listed[place].folder != folder or not _listed[place].is_as_listed:
        _listed[place] = _list(folder)
    return _listed[place]


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, hidden ones left out. Raises ValueError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if _is_ours(entry.name) and entry.is_dir())
    except OSError as error:
        raise ValueError(f"data.path: {folder} cannot be read: {error.strerror}") from error


def list_files(folder: Path) -> tuple[list[str], list[str], dict[str, int]]:
    """The images below a folder by their names from there on, sorted; its other files; when each folder was changed.

    Raises:
        ValueError: for folders that cannot be read, links to nothing and names that are no text.
    """
    stamps: dict[str, int] = {}
    images, others, broken = [], [], []
    for name, leads_nowhere in _files(folder, "", stamps, ()):
        if not name.lower().endswith(SUFFIXES):
            others.append(name)
        elif leads_nowhere:
            broken.append(str(folder / name))
        else:
            images.append(name)
    if broken:
        are = "is a link" if len(broken) == 1 else "are links"
        raise ValueError(f"data.path: {few(sorted(broken))} {are} to nothing")
    if strange := [repr(name) for name in images if not _is_text(name)]:
        raise ValueError(f"data.path: {folder} has names that are no UTF-8: {few(sorted(strange))}")
    return sorted(images, key=_composed), sorted(others), stamps


def _list(folder: Path) -> Tree:
    found, others, stamps = list_files(folder)
    images = [name for name in found if os.sep in name]
    classes = subfolders(folder)
    if lines := _class_faults(folder, classes, images):
        raise ValueError("\n".join(lines))
    names = sorted(map(_composed, classes))
    number = {name: label for label, name in enumerate(names)}
    labels = tuple(number[_composed(name.partition(os.sep)[0])] for name in images)
    others += [name for name in found if os.sep not in name]
    return Tree(folder, tuple(images), tuple(names), labels, tuple(others), stamps)


def _files(
    root: Path, inside: str, stamps: dict[str, int], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, bool]]:
    """The files below a folder by their names from ``root`` on, and whether each is a link that leads nowhere.

    Args:
        above: the folders on the way here, so that a link to one of them is not followed round and round.
    """
    place = os.path.join(root, inside) if inside else str(root)
    try:
        status = os.stat(place)
        stamps[os.path.abspath(place)] = status.st_mtime_ns
        with os.scandir(place) as entries:
            found = [entry for entry in entries if _is_ours(entry.name)]
    except OSError as error:
        raise ValueError(f"data.path: {place} cannot be read: {error.strerror}") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in found:
        name = os.path.join(inside, entry.name)
        if entry.is_dir():
            yield from _files(root, name, stamps, (*above, here))
        elif entry.is_file() or entry.is_symlink():
            yield name, not entry.is_file()


def _is_ours(name: str) -> bool:
    return not name.startswith(".") and name not in _LEFT_BY_OTHERS


def _class_faults(folder: Path, classes: list[str], images: list[str]) -> list[str]:
    """Lines for class folders that cannot be told apart or have nothing in them."""
    lines = []
    ordered = sorted(classes, key=lambda name: (_folded(name), name))
    for one, other in pairwise(ordered):
        if _folded(one) == _folded(other):
            how = (
                "only in upper and lower case"
                if _composed(one) != _composed(other)
                else "only in how Unicode is written"
            )
            lines.append(
                f"data.path: the class folders {one} and {other} of {folder} differ {how}; give them other names"
            )
    filled = {name.partition(os.sep)[0] for name in images}
    empty = [name for name in classes if name not in filled]
    if empty and filled:
        what = "the class folder {} of {} has" if len(empty) == 1 else "the class folders {} of {} have"
        lines.append(
            f"data.path: {what.format(few(empty), folder)} no images ({', '.join(SUFFIXES[:5])} ...); "
            "fill or remove what is empty"
        )
    return lines


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()
