"""CIFAR from its files to tensors: the same images in the same order wherever they come from."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import tarfile
import urllib.request
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmtrain.data.cache import cached, default_cache_folder
from nmtrain.data.hub import PATIENCE, load_from_hub, outcome_in_time
from nmtrain.data.images.cifar.published import UNREADABLE, Kept, Published
from nmtrain.data.splits import Table, examples, find_split, fingerprint
from nmtrain.errors import DataError

_IMAGE = (32, 32)  # pixels
_IMAGE_COLUMNS = ("img", "image")  # as the hub calls it, and as others do

_log = logging.getLogger(__name__)


def archive_in(folder: str | None, published: Published, download: bool) -> Kept | None:
    """The archive in ``folder`` (None: the user's cache folder), downloaded to there if that is asked for.

    Raises:
        DataError: where it cannot be downloaded; within seconds where nobody answers.
    """
    place = default_cache_folder() if folder is None else Path(folder).expanduser()
    name, md5 = published.archive
    if not (place / name).is_file():
        if not download:
            return None
        _download(published.address, place, name, md5)
    return Kept("archive", place / name)


def _download(address: str, place: Path, name: str, md5: str) -> None:
    """Whole or not at all: several runs of a sweep may want the same file."""
    from torchvision.datasets.utils import download_url

    def ask() -> str:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
        return ""

    if reason := outcome_in_time(ask):
        raise DataError(
            f"data.download=true: {address} cannot be reached ({reason}). Where there is a local copy, give"
            " data.path=FOLDER"
        )
    _log.info("downloading %s to %s", address, place)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{name}.", dir=place) as unfinished:
            download_url(address, unfinished, name, md5)
            os.replace(Path(unfinished, name), place / name)
    except (OSError, RuntimeError) as error:  # the latter of another MD5
        raise DataError(f"data.download=true: {address} cannot be downloaded to {place}: {error}") from error


def read_split(
    published: Published, num_classes: int, kept: Kept | None, cache_dir: str | None, split: str
) -> tuple[Tensor, Tensor]:
    """The images of "train" or "test", uint8 ``[N, 3, 32, 32]``, and their classes, int64 ``[N]``; see `_in_order`.

    Args:
        kept: the local copy; None is the hub's.
        cache_dir: where images that were decoded, and what `datasets` reads, are kept; None is each one's own folder.

    Raises:
        DataError: where they cannot be read, or are not what was published.
    """
    if kept is not None and kept.form != "table":
        batches = [pickle.loads(content, encoding="latin1") for content in _verified(kept, published.batches[split])]
        images = numpy.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, *_IMAGE)
        return _in_order(images, [label for batch in batches for label in batch[published.labels]])
    if kept is None:
        table: Table = load_from_hub(published.repository, published.subset, f"data={published.name}", cache_dir)[split]
    else:
        table = find_split(kept.place, split).read(cache_dir)
    content: dict[str, object] = {"dataset": fingerprint(table), "version": PIL.__version__}
    folder = default_cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
    decode = partial(_decoded, table, published, num_classes, f"data={published.name} ({split})")
    tensors = cached(decode, f"{published.name}-{split}", content, folder)
    return tensors["images"], tensors["labels"]


def _in_order(images: NDArray[numpy.uint8], labels: list[int]) -> tuple[Tensor, Tensor]:
    """Sorted by class, and in it by a hash of the pixels: each source has them in an order of its own."""
    keys = [
        (label, hashlib.blake2b(image.tobytes(), digest_size=16).digest())
        for image, label in zip(images, labels, strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return torch.from_numpy(numpy.ascontiguousarray(images[order])), torch.tensor(
        [labels[place] for place in order], dtype=torch.int64
    )


def _verified(kept: Kept, batches: Mapping[str, str]) -> list[bytes]:
    """The content of each file, whose MD5 is what it should be: nothing else is ever unpickled."""
    try:
        found = _from_archive(kept.place, batches) if kept.form == "archive" else _from_folder(kept.place, batches)
    except OSError as error:
        raise DataError(f"data.path: {kept.place} cannot be read: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise DataError(f"data.path: {kept.place} is not whole ({error}); copy or download it anew") from error
    for name, expected in batches.items():
        if name not in found:
            raise DataError(f"data.path: {kept.place} has no {name}; copy or download it anew")
        md5 = hashlib.md5(found[name], usedforsecurity=False).hexdigest()
        if md5 != expected:
            raise DataError(
                f"data.path: {name} in {kept.place} is not the file that was published (its MD5 is {md5}, not"
                f" {expected}), and is not opened, since such a file may run code; copy or download it anew"
            )
    return [found[name] for name in batches]


def _from_folder(folder: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def _from_archive(archive: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    """In one pass, nothing of it written to disk."""
    found = {}
    with tarfile.open(archive) as members:
        for member in members:
            if (name := Path(member.name).name) in names and (content := members.extractfile(member)):
                found[name] = content.read()
    return found


def _decoded(table: Table, published: Published, num_classes: int, what: str) -> dict[str, Tensor]:
    """The images of a table in the hub's form, decoded and in order."""
    column = next((name for name in _IMAGE_COLUMNS if name in table.column_names), _IMAGE_COLUMNS[0])
    if isinstance(table, datasets.Dataset) and column in table.column_names:
        table = table.cast_column(column, datasets.Image(decode=False))
    images, labels = [], []
    for number, (stored, label) in enumerate(examples(table, (column, published.label_column), what)):
        if type(label) is not int or not 0 <= label < num_classes:
            raise DataError(f"{what}: example {number} has the label {label!r}; allowed: 0 to {num_classes - 1}")
        images.append(_pixels(stored, f"{what}: example {number}"))
        labels.append(label)
    tensors = _in_order(numpy.stack(images), labels)
    return dict(zip(("images", "labels"), tensors, strict=True))


def _pixels(stored: Any, what: str) -> NDArray[numpy.uint8]:
    """uint8 ``[3, 32, 32]``."""
    try:
        image = datasets.Image().decode_example(stored).convert("RGB")
    except (OSError, ValueError, SyntaxError, TypeError) as error:  # SyntaxError: PIL's of a broken PNG
        raise DataError(f"{what} is no image: {error}") from error
    if image.size != _IMAGE:
        raise DataError(f"{what} has {image.width}x{image.height} pixels, not {_IMAGE[0]}x{_IMAGE[1]}")
    return numpy.asarray(image).transpose(2, 0, 1)
