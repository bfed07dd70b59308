"""Labelled images in Parquet and tar shards, and in folders of ``save_to_disk``: found, counted, checked and read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtrain.data.images.files.source import few
from nmtrain.data.images.files.tree import SUFFIXES
from nmtrain.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

SPLIT_WORDS = {"train": ("train", "training"), "val": ("validation", "val", "valid"), "test": ("test",)}
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)\.")  # how the hub names the shards of a data set
_COUNTED = re.compile(r"(.*?)(\d+)(\.[a-z]+)$")  # how webdataset does
_MOST_CLASSES = 100_000  # without names; a label beyond is a mistake, and a head for it would fill the memory
_LABELS = ("cls", "json")  # what holds the label beside an image in a tar shard


@dataclass(frozen=True)
class Contents:
    """What a file of labelled images holds."""

    labels: tuple[int, int]  # the lowest and the highest
    count: int
    names: tuple[str, ...] = ()  # of the classes, where the file has them
    fields: tuple[str, ...] = ()  # of a tar shard, those with images
    label_of: tuple[int, ...] = ()  # of each image of a tar shard


@dataclass(frozen=True)
class Shards:
    """The files of one split. ``format`` is "parquet", "tar", or "saved" for one folder of ``save_to_disk``."""

    format: str
    files: list[Path]
    cache_dir: str | None  # None is the folder of `datasets`
    known: tuple[str, ...] = ()  # the names of the classes where the files give none

    @cached_property
    def contents(self) -> list[Contents]:
        """Of each file. Raises ValueError naming the one that cannot be read, or has labels below 0."""
        found = []
        for file in self.files:
            with _naming(file):
                state = (file / "state.json" if self.format == "saved" else file).stat()
                content = _READERS[self.format](file, state.st_size, state.st_mtime_ns)
                if content.count and content.labels[0] < 0:
                    raise ValueError(f"has the label {content.labels[0]}, as hidden ones are; allowed: 0, 1, ...")
                found.append(content)
        if not sum(content.count for content in found):
            raise ValueError(f"data.path: there is no image in {few(list(map(str, self.files)))}")
        return found

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """As the files name them, else as they are known, else numbers. Raises ValueError where files name others than
        each other, or have labels beyond the names."""
        filled = [(file, content) for file, content in zip(self.files, self.contents, strict=True) if content.count]
        first, names = filled[0][0], filled[0][1].names
        for file, content in filled:
            if content.names != names:
                raise ValueError(f"data.path: {file} has other names of classes than {first}")
        if not (names or self.known):
            if lowest := min(content.labels[0] for _, content in filled):
                raise ValueError(f"data.path: the labels of {first.parent} begin with {lowest}; allowed: 0, 1, ...")
            self._require_below(_MOST_CLASSES, filled, "where the classes have no names")
            return tuple(map(str, range(1 + max(content.labels[1] for _, content in filled))))
        names = names or self.known
        self._require_below(len(names), filled, f"where there are {len(names)} classes")
        return names

    @staticmethod
    def _require_below(most: int, filled: Sequence[tuple[Path, Contents]], where: str) -> None:
        for file, content in filled:
            if (label := content.labels[1]) >= most:
                raise ValueError(f"data.path: {file} has the label {label}, {where}; allowed: 0 to {most - 1}")

    @property
    def notes(self) -> list[str]:
        """The first number that is missing between files which are numbered without saying how many there are."""
        numbered = {match.groups(): file for file in self.files if (match := _COUNTED.match(file.name))}
        for (begin, number, end), file in numbered.items():
            before = f"{int(number) - 1:0{len(number)}}"
            is_first = all(other[0] != begin or int(other[1]) >= int(number) for other in numbered)
            if not is_first and (begin, before, end) not in numbered:
                return [f"{file.parent} has {file.name} and no {begin}{before}{end} before it: is a shard missing?"]
        return []

    def __len__(self) -> int:
        return sum(content.count for content in self.contents)

    def digests(self) -> dict[str, str]:
        digests = {}
        for file in self.files:
            parts = sorted(file.iterdir()) if file.is_dir() else [file]
            try:
                for part in parts:
                    if not os.access(part, os.R_OK):
                        raise PermissionError(None, "Permission denied")
                content = "".join(f"{part.name}\0{part.stat().st_size}\0" for part in parts)
            except OSError as error:
                raise DataError(f"data.path: {file} cannot be read: {error.strerror}") from error
            digests[str(file)] = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        return digests

    def dataset(self) -> Dataset:
        """As `nmtrain.data.images.files.Split` says. Of Parquet and tar shards `datasets` makes an Arrow copy, once, in
        ``cache_dir``, which takes as much disk as they do; a folder of ``save_to_disk`` is memory-mapped as it is."""
        import datasets

        from nmtrain.data.hub import no_bars_in_logs

        no_bars_in_logs()
        content = hashlib.blake2b("".join(self.digests().values()).encode(), digest_size=16).hexdigest()
        place = Path(self.cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
        names = [escape(os.path.abspath(file)) for file in self.files]
        given = {"data_files": names, "split": "train", "cache_dir": str(place / f"nmtrain-{content}")}
        try:
            if self.format == "saved":
                dataset = self._of_folder()
            else:
                dataset = self._of_parquet(given) if self.format == "parquet" else self._of_tar(given)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise DataError(f"data.path: {self._what_failed(place)}: {reason}") from error
        dataset._fingerprint = hashlib.blake2b(f"{content} {self.class_names}".encode(), digest_size=16).hexdigest()
        return dataset

    def _what_failed(self, place: Path) -> str:
        """The file that cannot be read to its end, which `datasets` does not name, or else the copying."""
        import pyarrow
        from pyarrow import parquet

        for file in self.files if self.format == "parquet" else ():
            try:
                with parquet.ParquetFile(file) as opened:
                    for _ in opened.iter_batches():
                        pass
            except (OSError, pyarrow.ArrowException):
                return f"{file} cannot be read"
        cannot = "cannot be read" if self.format == "saved" else f"cannot be copied to data.cache_dir={place}"
        return f"{few(list(map(str, self.files)))} {cannot}"

    def _of_parquet(self, given: Mapping[str, Any]) -> Dataset:
        import datasets

        features = _features(self.class_names)
        return datasets.load_dataset("parquet", columns=list(features), features=features, **given)

    def _of_tar(self, given: Mapping[str, Any]) -> Dataset:
        """Of each way that images are called a part, since each is a column; labels are those that were counted."""
        import datasets

        fields = sorted({field for content in self.contents for field in content.fields})
        image = datasets.Image(decode=False)
        read = datasets.load_dataset("webdataset", features=datasets.Features(dict.fromkeys(fields, image)), **given)
        labels = [label for content in self.contents for label in content.label_of]
        if len(read) != len(labels):
            raise ValueError(f"{len(read)} images were read, and {len(labels)} labels found")
        feature = _features(self.class_names)["label"]
        read = read.add_column("label", labels, feature=feature)
        parts = []
        for field in fields:
            is_there = read.data.column(field).is_valid().to_pylist()
            chosen = [index for index, there in enumerate(is_there) if there]
            parts.append(read.select(chosen).select_columns([field, "label"]).rename_column(field, "image"))
        return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)

    def _of_folder(self) -> Dataset:
        import datasets

        saved = datasets.load_from_disk(str(self.files[0]))
        assert isinstance(saved, datasets.Dataset)
        features = _features(self.class_names)
        labels = saved.data.column("label").to_pylist()
        images = saved.with_format(None).select_columns(["image"]).cast_column("image", features["image"])
        return images.add_column("label", labels, feature=features["label"])  # a cast of it would copy the images too


def find_shards(folder: Path, split: str, suffix: str) -> list[Path]:
    """The files of a split by a whole word in their names, in a folder or its folder ``data``, or all in a folder
    called like the split.

    Raises:
        ValueError: where some of a numbered set are missing, naming the first.
    """
    for place in (folder, folder / "data"):
        files = [file for file in _visible(place, suffix) if _words(file) & {*SPLIT_WORDS[split]}]
        for word in SPLIT_WORDS[split]:
            files += _visible(place / word, suffix)
        if files:
            _require_all(files)
            return files
    return []


def saved_split(folder: Path, split: str) -> list[Path]:
    """The folder of a split as ``save_to_disk`` writes it, if it is there."""
    places = [folder / word for word in SPLIT_WORDS[split]]
    return [place for place in places if os.path.isfile(place / "state.json")][:1]


def _features(class_names: Sequence[str]) -> Features:
    import datasets

    label = datasets.ClassLabel(names=list(class_names))
    return datasets.Features({"image": datasets.Image(decode=False), "label": label})


def _visible(folder: Path, suffix: str) -> list[Path]:
    if not os.path.isdir(folder):
        return []
    with _naming(folder), os.scandir(folder) as entries:
        found = [entry.name for entry in entries if entry.name.endswith(suffix) and entry.is_file()]
    return [folder / name for name in sorted(found) if not name.startswith(".")]


def _words(file: Path) -> set[str]:
    return set(re.split(r"[^a-z]+", file.name.lower()))


def _require_all(files: list[Path]) -> None:
    numbered = {file: match for file in files if (match := _NUMBERED.search(file.name))}
    for file, match in numbered.items():
        whole = int(match[2])
        mine = {int(other[1]) for other in numbered.values() if other[2] == match[2]}
        if missing := sorted(set(range(whole)) - mine):
            name = file.name.replace(match[0], f"-{missing[0]:0{len(match[1])}}-of-{match[2]}.")
            raise ValueError(f"data.path: {file.parent} has {len(mine)} of {whole} shards; {name} is missing")


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """What is wrong with a file, with its name."""
    try:
        yield
    except tarfile.TarError as error:
        raise ValueError(f"data.path: {file} cannot be read: {error} (downloaded by half?)") from error
    except OSError as error:
        raise ValueError(f"data.path: {file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"data.path: {file} {error}") from error


@cache
def _parquet(file: Path, size: int, changed: int) -> Contents:
    """From the metadata; without statistics there, from the column of labels."""
    import pyarrow
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise ValueError(f"cannot be read: {error} (downloaded by half?)") from error
    with opened:
        _require_columns(opened.schema_arrow.names, opened.schema_arrow)
        metadata = opened.metadata
        position = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index("label")
        groups = [metadata.row_group(number).column(position) for number in range(metadata.num_row_groups)]
        known = [group.statistics for group in groups]
        if known and all(found is not None and found.has_min_max and not found.null_count for found in known):
            bounds = [(found.min, found.max) for found in known]
        else:
            bounds = [_bounds(opened.read(columns=["label"]).column("label"))]
        names = _names_noted((opened.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        labels = min(low for low, _ in bounds), max(high for _, high in bounds)
        return Contents(labels, metadata.num_rows, names)


def _names_noted(note: bytes) -> tuple[str, ...]:
    """The names of the classes in what `datasets` notes in a Parquet file, if they are there."""
    try:
        found = json.loads(note)
        for key in ("info", "features", "label", "names"):
            found = found.get(key) or {}
        return tuple(map(str, found))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"has a note of `datasets` (huggingface) that cannot be read: {error}") from error


@cache
def _saved(folder: Path, size: int, changed: int) -> Contents:
    import datasets
    import pyarrow

    try:
        dataset = datasets.load_from_disk(str(folder))
    except (pyarrow.ArrowException, ValueError, LookupError, TypeError) as error:  # of data, and of notes in JSON
        raise ValueError(f"cannot be read: {error} (copied by half?)") from error
    _require_columns(dataset.column_names, dataset.data.schema)
    names = getattr(dataset.features["label"], "names", ())
    return Contents(_bounds(dataset.data.column("label")), len(dataset), tuple(names))


@cache
def _tar(file: Path, size: int, changed: int) -> Contents:
    """From the headers of the files in it and from the labels; images are passed over. As `datasets` reads it: files
    that follow each other and are alike up to a full stop belong together, hidden ones do not count."""
    labels: list[int] = []
    fields: set[str] = set()
    with tarfile.open(file, "r:") as archive:
        for key, members in _samples(archive):
            images = [field for field in members if f".{field.lower()}".endswith(SUFFIXES)]
            beside = [field for field in members if field in _LABELS]
            if len(images) != 1 or not beside:
                raise ValueError(
                    f"has {', '.join(f'{key}.{field}' for field in sorted(members))} together; allowed: one image, and "
                    "its label in .cls or .json. An archive of folders or archives has to be unpacked"
                )
            content = archive.extractfile(members[beside[0]])
            assert content is not None
            labels.append(_label(beside[0], content.read(), key))
            fields |= {*images}
            archive.members = []  # type: ignore[attr-defined] # else every header is kept
    return Contents((min(labels, default=0), max(labels, default=0)), len(labels), (), (*sorted(fields),), (*labels,))


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The key of each sample, and its files by what follows the key."""
    last, members = "", dict[str, tarfile.TarInfo]()
    for member in archive:
        place, _, name = member.name.rpartition("/")
        stem, stop, field = name.partition(".")
        if not member.isreg() or not stem or not stop or name.startswith("__"):
            continue
        key = f"{place}/{stem}" if place else stem
        if members and key != last:
            yield last, members
            members = {}
        last, members[field] = key, member
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the mark of its end is missing")
    if members:
        yield last, members


def _label(field: str, content: bytes, key: str) -> int:
    try:
        label = json.loads(content)
        label = label["label"] if field == "json" else label
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"has a {key}.{field} without a label") from error
    if type(label) is not int:
        raise ValueError(f"has the label {label!r} in {key}.{field}; allowed: whole numbers from 0")
    return label


def _require_columns(columns: Sequence[str], schema: Any) -> None:
    """Raise ValueError where a table has not the columns of labelled images."""
    import pyarrow

    if missing := [column for column in ("image", "label") if column not in columns]:
        raise ValueError(f"has no column {' and '.join(missing)} among {', '.join(columns)}")
    label = schema.field("label").type
    if not pyarrow.types.is_integer(label):
        raise ValueError(f"has labels of the type {label}; allowed: whole numbers from 0")


def _bounds(column: Any) -> tuple[int, int]:
    """The lowest and the highest of whole numbers."""
    from pyarrow import compute

    if column.null_count:
        raise ValueError(f"has {column.null_count} images without a label")
    found = compute.min_max(column).as_py()
    return (found["min"], found["max"]) if len(column) else (0, 0)


_READERS = {"parquet": _parquet, "tar": _tar, "saved": _saved}
