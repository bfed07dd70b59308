"""Splits of text data sets in local folders: which files they are, how many examples they have, reading them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtrain.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
_SAVED = "state.json"  # what `save_to_disk` of `datasets` leaves in the folder of each split
_READ_AT_ONCE = 1000


@dataclass(frozen=True)
class LocalSplit:
    """The files of one split. ``format`` is what `datasets` calls it, or "saved" for a folder of ``save_to_disk``."""

    format: str
    files: tuple[Path, ...]

    def count(self) -> int:
        """The number of examples: of Parquet and saved folders from metadata, else by going through the files.

        Raises:
            ValueError: naming the file that cannot be read, or the files if all are empty.
        """
        total = 0
        for file in self.files:
            try:
                total += _COUNTERS[self.format](file)
            except (OSError, ValueError, csv.Error) as error:
                raise ValueError(f"data.path: {file} cannot be read: {error}") from error
        if total < 1:
            raise ValueError(f"data.path: there is no example in {', '.join(str(file) for file in self.files)}")
        return total

    def read(self, cache_dir: str | None) -> Dataset:
        """The examples.

        Args:
            cache_dir: where `datasets` keeps its copy; None is its own folder.

        Raises:
            DataError: where a file cannot be read.
        """
        import datasets

        from nmtrain.data.hub import no_bars_in_logs

        no_bars_in_logs()
        names = [str(file) for file in self.files]
        try:
            if self.format == "saved":
                saved = datasets.load_from_disk(names[0])
                assert isinstance(saved, datasets.Dataset)
                return saved.with_format(None)  # a format that was saved with it would give tensors
            return datasets.load_dataset(self.format, data_files=names, split="train", cache_dir=cache_dir)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"data.path: {', '.join(names)} cannot be read: {error.__cause__ or error}") from error


def find_split(folder: Path, split: str) -> LocalSplit:
    """The files of ``split``: ``split.parquet``, ``split-*.parquet``, all files in a folder ``split``, or in ``data``.

    The same for .jsonl, .json and .csv; or a folder ``split`` that ``save_to_disk`` wrote.

    Raises:
        ValueError: where there are none, or files of more than one format.
    """
    if (folder / split / _SAVED).is_file():
        return LocalSplit("saved", (folder / split,))
    found: dict[str, list[Path]] = {}
    for pattern in (f"{split}.*", f"{split}-*", f"{split}/*", f"data/{split}.*", f"data/{split}-*"):
        for file in sorted(folder.glob(pattern)):
            if file.suffix in _FORMATS and file.is_file():
                found.setdefault(_FORMATS[file.suffix], []).append(file)
        if found:  # the first place that has any; the same examples may lie in another one again
            break
    if not found:
        raise ValueError(
            f"data.path={folder}: has no {split} split; looked for {split}.parquet (.jsonl, .json, .csv), "
            f"{split}-*.parquet and a folder {split}"
        )
    if len(found) > 1:
        raise ValueError(f"data.path={folder}: has the {split} split in more than one format: {', '.join(found)}")
    ((format, files),) = found.items()
    return LocalSplit(format, tuple(files))


def examples(dataset: Dataset, columns: tuple[str, ...], what: str) -> Iterator[tuple[Any, ...]]:
    """The values of ``columns`` of each example.

    Raises:
        DataError: where a column is missing; the message begins with ``what``.
    """
    if missing := [column for column in columns if column not in dataset.column_names]:
        raise DataError(f"{what}: there is no column {', '.join(missing)} among {', '.join(dataset.column_names)}")
    for batch in dataset.select_columns(list(columns)).iter(batch_size=_READ_AT_ONCE):
        yield from zip(*(batch[column] for column in columns), strict=True)


def _count_parquet(file: Path) -> int:
    from pyarrow.parquet import read_metadata

    return read_metadata(file).num_rows


def _count_saved(folder: Path) -> int:
    import pyarrow

    total = 0
    for part in json.loads((folder / _SAVED).read_text())["_data_files"]:
        with pyarrow.memory_map(str(folder / part["filename"])) as source, pyarrow.ipc.open_stream(source) as batches:
            total += sum(batch.num_rows for batch in batches)
    return total


def _count_json(file: Path) -> int:
    """Lines of objects, or one list of objects."""
    with open(file, encoding="utf-8") as lines:
        first = next((line for line in lines if line.strip()), "")
        if not first.lstrip().startswith("["):
            return bool(first) + sum(1 for line in lines if line.strip())
    return len(json.loads(file.read_text(encoding="utf-8")))


def _count_csv(file: Path) -> int:
    with open(file, encoding="utf-8", newline="") as lines:
        return sum(1 for row in csv.reader(lines) if row) - 1  # the header


_COUNTERS: dict[str, Callable[[Path], int]] = {
    "parquet": _count_parquet,
    "json": _count_json,
    "csv": _count_csv,
    "saved": _count_saved,
}
