"""Files of tokens: whole or not there, safe against damage, other processes and disks that are full."""

import errno
import logging
import os
import signal
import subprocess
import sys

import datasets
import pytest
import torch

from nmtrain.data.cache import checksum
from nmtrain.data.text import arrow
from nmtrain.data.text.arrow import stored
from nmtrain.data.text.ragged import Packed
from nmtrain.errors import DataError

BLOCKS = [
    {"ids": [[1, 2, 3], [4]], "more": [[70_000], [8, 9]], "cut": [True, False]},
    {"ids": [[5, 6], [], [7]], "more": [[1], [2], [3]], "cut": [False, True, True]},
]
ROWS = {name: [row for block in BLOCKS for row in block[name]] for name in ("ids", "more")}


def lists(table) -> dict[str, list[list[int]]]:
    return {name: [packed[index] for index in range(len(packed))] for name, packed in table.columns.items()}


def make(folder, content=None, blocks=lambda: iter(BLOCKS)):
    return stored(blocks, "set", content or {"name": "set"}, str(folder))


def never():
    raise AssertionError("made anew although it is in the cache")


def visible(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.endswith(".lock"))


def test_a_table_is_made_once_and_read_from_its_file(tmp_path, caplog):
    made = make(tmp_path / "new")
    assert lists(made) == ROWS
    assert made.cut == 3
    read = make(tmp_path / "new", blocks=never)
    assert lists(read) == ROWS
    assert read.cut == 3
    assert read.columns["more"].padded(torch.tensor([1, 0]), 0, 4).tolist() == [[8, 9, 0, 0], [70_000, 0, 0, 0]]
    assert len(visible(tmp_path / "new")) == 1
    assert not caplog.records


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell")
def test_no_memory_is_held_for_what_is_in_the_file(tmp_path):
    def held() -> dict[str, int]:  # MiB
        with open("/proc/self/status") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return {name: int(fields[name].split()[0]) >> 10 for name in ("RssAnon", "RssFile")}

    block = {"ids": [[7] * 200] * 1000, "cut": [False] * 1000}
    make(tmp_path, {"name": "large"}, lambda: iter([block] * 160))
    before = held()
    ids = make(tmp_path, {"name": "large"}, never).columns["ids"]  # 122 MiB
    for chosen in torch.randperm(len(ids)).split(64):
        assert int(ids.padded(chosen, 0, 8).sum()) == len(chosen) * 200 * 7
    checksum({"ids": ids})
    after = held()
    assert after["RssAnon"] - before["RssAnon"] < 40
    assert after["RssFile"] - before["RssFile"] < 60


def test_datasets_reads_the_file(tmp_path):
    make(tmp_path)
    (name,) = visible(tmp_path)
    dataset = datasets.Dataset.from_file(str(tmp_path / name))
    assert dataset["ids"][:] == ROWS["ids"]
    assert dataset.features["ids"].feature.dtype == "int32"


def test_the_digest_is_that_of_one_tensor_in_memory(tmp_path):
    packed = Packed.of(ROWS["ids"])
    for column in (make(tmp_path).columns["ids"], packed):
        assert checksum({"ids": column}) == checksum({"ids": packed.values})
    assert checksum({"ids": Packed.of([])}) == checksum({"ids": torch.empty(0, dtype=torch.int32)})


def test_other_content_and_a_changed_encoding_have_other_files(tmp_path, monkeypatch):
    make(tmp_path)
    other = [{"ids": [[1]], "cut": [False]}]
    assert lists(make(tmp_path, {"name": "other"}, lambda: iter(other))) == {"ids": [[1]]}
    monkeypatch.setattr(arrow, "_VERSION", 0)
    assert lists(make(tmp_path, blocks=lambda: iter(other))) == {"ids": [[1]]}
    assert len(visible(tmp_path)) == 3


def truncated(file: bytes) -> bytes:
    return file[:-3]


def one_bit_changed(file: bytes) -> bytes:
    return file[:300] + bytes([file[300] ^ 1]) + file[301:]


def empty(file: bytes) -> bytes:
    return b""


def foreign(file: bytes) -> bytes:
    return b"no table of Arrow, and longer than a hash"


def foreign_but_hashed(file: bytes) -> bytes:
    import hashlib

    return b"no table" + hashlib.blake2b(b"no table", digest_size=16).digest()


@pytest.mark.parametrize("damage", [truncated, one_bit_changed, empty, foreign, foreign_but_hashed])
def test_a_damaged_file_is_made_anew_with_a_warning(tmp_path, caplog, damage):
    make(tmp_path)
    (name,) = visible(tmp_path)
    intact = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(damage(intact))
    with caplog.at_level(logging.WARNING):
        assert lists(make(tmp_path)) == ROWS
    assert len(caplog.records) == 1
    assert "cannot be used" in caplog.text
    assert (tmp_path / name).read_bytes() == intact


def test_sequences_outside_the_file_are_refused(tmp_path, caplog, monkeypatch):
    make(tmp_path)
    places = arrow._places
    monkeypatch.setattr(arrow, "_places", lambda *column: places(*column) + 10_000)
    assert arrow._read(tmp_path / visible(tmp_path)[0]) is None
    assert "it points outside itself" in caplog.text


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        table = make(tmp_path / "file" / "folder")
    assert lists(table) == ROWS
    assert "a temporary one takes its place" in caplog.text


def test_a_full_disk_is_told_with_the_folder_and_nothing_is_left(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(arrow.os, "fsync", full)
    with pytest.raises(DataError, match=rf"^{tmp_path}: has no room for the tokens of set \(No space left on device\)"):
        make(tmp_path)
    assert visible(tmp_path) == []


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from nmtrain.data.text.arrow import stored
from nmtrain.errors import DataError
try:
    stored(lambda: iter([{"ids": [[1] * 50] * 100, "cut": [False] * 100}] * 9), "set", {}, sys.argv[1])
except DataError as error:
    print(error)
"""


def test_a_file_that_the_system_lets_grow_no_more_is_told_and_not_left(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    told = "has no room for the tokens of set (File too large); data.cache_dir=FOLDER names another place"
    assert done.stdout == f"{tmp_path}: {told}\n"
    assert done.stderr == ""
    assert visible(tmp_path) == []


def test_a_failure_while_making_leaves_nothing(tmp_path):
    def broken():
        yield BLOCKS[0]
        raise DataError("half a text")

    with pytest.raises(DataError, match="half a text"):
        make(tmp_path, blocks=broken)
    assert visible(tmp_path) == []
    assert lists(make(tmp_path)) == ROWS


SLOW = """
import sys, time
from nmtrain.data.text.arrow import stored
def blocks():
    for number in range(20):
        print(number, flush=True)
        time.sleep(0.05)
        yield {"ids": [[number]], "cut": [False]}
table = stored(blocks, "set", {"name": "set"}, sys.argv[1])
print("has", [table.columns["ids"][i][0] for i in range(20)])
"""


def start(folder) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SLOW, str(folder)], stdout=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_no_file_and_no_claim(tmp_path):
    process = start(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("*.arrow"))
    assert len(visible(tmp_path)) == 1  # what it had begun
    assert lists(make(tmp_path)) == ROWS
    assert len(visible(tmp_path)) == 1
    assert len(list(tmp_path.glob("*.arrow"))) == 1


@pytest.mark.slow
def test_of_two_processes_one_makes_it_and_the_other_waits(tmp_path):
    processes = [start(tmp_path), start(tmp_path)]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert [output[-1] for output in outputs] == [f"has {list(range(20))}"] * 2
    assert sorted(len(output) for output in outputs) == [1, 21]
    assert len(visible(tmp_path)) == 1
