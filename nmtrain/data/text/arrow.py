"""Token sequences in Arrow files as `datasets` writes them: made once, block by block, and mapped into memory.

`datasets.Dataset.from_file` opens them too. A file is used only if it is provably what was written: behind the table,
where readers of Arrow do not look, stands a hash of all before.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from nmtrain.data.cache import default_cache_folder
from nmtrain.data.text.ragged import Packed
from nmtrain.errors import DataError

_log = logging.getLogger(__name__)

_VERSION = 1  # of what is made of texts: whoever changes that raises it, and no older file is taken for the new
_HASH = 16  # bytes
_READ_AT_ONCE = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Block = dict[str, list[Any]]  # some rows: columns of lists of ids, and "cut", bools


class Table(NamedTuple):
    """Columns of sequences, and how many rows had to be cut."""

    columns: dict[str, Packed]
    cut: int


def stored(
    blocks: Callable[[], Iterator[Block]], name: str, content: dict[str, object], cache_dir: str | None
) -> Table:
    """What ``blocks()`` gives, from the cache folder if it is there, else made and kept there.

    Of processes that want the same, one makes it and the others wait. A file that is damaged is made anew, and where
    the folder cannot be written a temporary file takes its place; both log a warning.

    Args:
        blocks: at least one, all of the same columns.
        name: the beginning of the file's name.
        content: everything that determines the rows, JSON-serializable; its hash is in the file's name.
        cache_dir: None is the user's cache folder.

    Raises:
        DataError: where the disk is full.
    """
    folder = default_cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
    written = json.dumps(content | {"version": _VERSION}, sort_keys=True)
    path = folder / f"{name}-{hashlib.blake2b(written.encode(), digest_size=8).hexdigest()}.arrow"
    if (table := _read(path)) is not None:
        return table
    with ExitStack() as stack:
        place: Path | str = folder
        try:
            file = stack.enter_context(_new_file(path))
        except OSError as error:
            _log.warning("cannot write the cache file %s (%s); a temporary one takes its place", path, error)
            file, place = stack.enter_context(_closed(_temporary())), gettempdir()
        else:
            if (table := _read(path)) is not None:  # made while this process waited
                return table
        try:
            _write(file, blocks())
            if place == folder:
                os.fsync(file.fileno())
                os.replace(file.name, path)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            told = f"{place}: has no room for the tokens of {name} ({error.strerror})"
            raise DataError(f"{told}; data.cache_dir=FOLDER names another place") from error
        return _mapped(file)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is to become ``path``, held against other processes; a killed one's is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with open(lock, "w") as held:
        if _locked(held, path):
            for left in path.parent.glob(f".{path.name}.*"):
                if left != lock:
                    left.unlink(missing_ok=True)
        try:
            with _closed(open(temporary, "x+b")) as file:
                yield file
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _closed(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The file, closed in the end, where what did not go into it is tried once more."""
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


def _locked(file: IO[str], path: Path) -> bool:
    """Whether the lock is held, waited for if need be; not on network file systems that have none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("another process is making %s; waiting for it", path)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _temporary() -> IO[bytes]:
    try:
        return TemporaryFile()
    except OSError as error:
        raise DataError(f"data.cache_dir: cannot be written, nor can a folder for temporary files ({error})") from error


def _write(file: IO[bytes], blocks: Iterator[Block]) -> None:
    """The table, a batch of Arrow for each block, and the hash."""
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    sequences = pa.list_(pa.int32())
    with ArrowWriter(stream=file) as writer:
        for block in blocks:
            arrays = {name: pa.array(rows, None if name == "cut" else sequences) for name, rows in block.items()}
            writer.write_table(pa.table(arrays), writer_batch_size=len(block["cut"]))
        writer.finalize(close_stream=False)
    size = file.tell()
    file.write(_hash(file, size))
    file.flush()


def _hash(file: IO[bytes], size: int) -> bytes:
    """Of the first ``size`` bytes, behind which the file then stands. Read, not mapped, they take no memory."""
    file.seek(0)
    digest = hashlib.blake2b(digest_size=_HASH)
    for start in range(0, size, _READ_AT_ONCE):
        digest.update(file.read(min(_READ_AT_ONCE, size - start)))
    return digest.digest()


def _read(path: Path) -> Table | None:
    """The table, or None where there is none that is whole; a damaged file is removed."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END) - _HASH
            if size < 0 or _hash(file, size) != file.read():
                raise ValueError("wrong checksum")
            return _mapped(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # whatever pyarrow objects to
        _log.warning("cache file %s cannot be used (%s); making its content anew", path, error)
        with suppress(OSError):
            path.unlink()
        return None


def _mapped(file: IO[bytes]) -> Table:
    """A table that stays in its file; in memory are where each sequence is and how long: 16 bytes each.

    Raises:
        Exception: where it is none of ours.
    """
    import pyarrow as pa

    # Read only: what could be written, the system would hold memory ready for.
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    whole = pa.py_buffer(mapping)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        values = torch.frombuffer(mapping, dtype=torch.int32, count=len(mapping) // 4)
    found: dict[str, list[Tensor]] = {}
    cut = 0
    with pa.ipc.open_stream(pa.BufferReader(whole)) as batches:
        for batch in batches:
            for name in batch.schema.names:
                if name != "cut":
                    found.setdefault(name, []).append(_places(batch.column(name), whole.address))
            cut += batch.column("cut").true_count
    release = partial(mapping.madvise, mmap.MADV_DONTNEED)
    columns = {}
    for name, parts in found.items():
        starts, lengths = torch.cat(parts, 1)
        if len(starts) and (min(starts.min(), lengths.min()) < 0 or (starts + lengths).max() > len(values)):
            raise ValueError("it points outside itself")
        columns[name] = Packed(values, starts, lengths, release)
    release()
    return Table(columns, cut)


def _places(column: Any, beginning: int) -> Tensor:
    """Starts and lengths of a batch's sequences, counted in int32 from the file's beginning: int64 ``[2, rows]``."""
    offsets = torch.from_numpy(column.offsets.to_numpy().astype("int64"))
    values = column.values
    first = (values.buffers()[1].address - beginning) // 4 + values.offset if len(values) else 0
    return torch.stack([offsets[:-1] + first, offsets.diff()])
