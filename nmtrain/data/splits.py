"""Splits of text data sets in local folders: which files they are, how many examples they have, reading them."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from nmtrain.data.digest import file_digests
from nmtrain.data.rows import FileRows, count_rows
from nmtrain.errors import DataError
from nmtrain.runs.folder import why_not_writable

if TYPE_CHECKING:
    from datasets import Dataset

_LACKING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOLCK)  # `datasets` locks its copy while it makes it
_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
_SAVED = "state.json"  # what `save_to_disk` of `datasets` leaves in the folder of each split
_READ_AT_ONCE = 1000

Table = Union["Dataset", FileRows]  # with `column_names`; `examples` gives its values


@dataclass(frozen=True)
class LocalSplit:
    """The files of one split. ``format`` is "parquet", "json", "csv", or "saved" for a folder of ``save_to_disk``."""

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
                total += _count(self.format, file)
            except (OSError, ValueError) as error:
                raise ValueError(f"data.path: {file} cannot be read: {error}") from error
        if total < 1:
            raise ValueError(f"data.path: there is no example in {', '.join(str(file) for file in self.files)}")
        return total

    def read(self, cache_dir: str | None) -> Table:
        """The examples; of CSV and JSON the first is tried.

        Args:
            cache_dir: where `datasets` keeps its copy of Parquet; None is its own folder.

        Raises:
            DataError: where a file cannot be read.
        """
        if self.format in ("csv", "json"):
            rows = FileRows(self.format, self.files)
            next(iter(rows), None)
            return rows
        import datasets

        from nmtrain.data.hub import no_bars_in_logs

        no_bars_in_logs()
        names = [str(file) for file in self.files]
        content = hashlib.blake2b("".join(file_digests(self.files).values()).encode(), digest_size=16).hexdigest()
        # `datasets` takes files for the same by path and time stamp; its copy stands under what they hold.
        place = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / f"nmtrain-{content}"
        try:
            if self.format == "saved":
                saved = datasets.load_from_disk(names[0])
                assert isinstance(saved, datasets.Dataset)
                dataset = saved.with_format(None)  # a format that was saved with it would give tensors
            else:
                dataset = datasets.load_dataset(self.format, data_files=names, split="train", cache_dir=str(place))
            dataset._fingerprint = content
            return dataset
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            if self.format != "saved" and (reason := why_not_writable(place) or _refused(error.__cause__ or error)):
                raise DataError(
                    f"data.cache_dir={place.parent}: cannot be written ({reason}); name a folder that can"
                ) from error
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


def examples(
    table: Table, columns: tuple[str, ...], what: str, chosen: Sequence[int] | None = None
) -> Iterator[tuple[Any, ...]]:
    """The values of ``columns`` of each example.

    Args:
        what: the beginning of messages.
        chosen: the numbers of the examples to take, in rising order; None is all.

    Raises:
        DataError: where a column is missing, or a file cannot be read.
    """
    if missing := [column for column in columns if column not in table.column_names]:
        raise DataError(f"{what}: there is no column {', '.join(missing)} among {', '.join(table.column_names)}")
    if isinstance(table, FileRows):
        numbers = count() if chosen is None else iter(chosen)
        wanted = next(numbers, None)
        for number, row in enumerate(table):
            if number == wanted:
                yield tuple(row.get(column) for column in columns)
                wanted = next(numbers, None)
        return
    dataset = table if chosen is None else table.select(chosen)
    for batch in dataset.select_columns(list(columns)).iter(batch_size=_READ_AT_ONCE):
        yield from zip(*(batch[column] for column in columns), strict=True)


def fingerprint(table: Table) -> str:
    """Of the content of local files; of the hub's data, what `datasets` knows them by."""
    return table.fingerprint if isinstance(table, FileRows) else table._fingerprint


def text_of(value: object, what: str) -> str:
    """A text, where it is one; a missing one is empty.

    Raises:
        DataError: where it is none, or has half a character; the message begins with ``what``.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{what} is {value!r}, which is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
        raise DataError(f"{what} is no text: {error}") from error
    return value


def _refused(error: BaseException) -> str | None:
    """What a file system cannot give to who writes to it, if it is that."""
    return error.strerror if isinstance(error, OSError) and error.errno in _LACKING else None


def _count(format: str, file: Path) -> int:
    if format == "parquet":
        from pyarrow.parquet import read_metadata

        return read_metadata(file).num_rows
    return _count_saved(file) if format == "saved" else count_rows(format, file)


def _count_saved(folder: Path) -> int:
    import pyarrow

    total = 0
    for part in json.loads((folder / _SAVED).read_text())["_data_files"]:
        with pyarrow.memory_map(str(folder / part["filename"])) as source, pyarrow.ipc.open_stream(source) as batches:
            total += sum(batch.num_rows for batch in batches)
    return total
