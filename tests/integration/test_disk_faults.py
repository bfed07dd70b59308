"""Disks, files and clocks that fail a run: what was finished is there, it is said in words, and the weights are those
of a run that nothing disturbed."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from nmtrain.training.run import run
from tests.integration.commands import (
    LINE,
    assert_equal,
    assert_equal_weights,
    ended,
    start,
    starts,
    updates,
    wait_for,
)
from tests.integration.no_locks import CAN, take_no_locks

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _warm(make_config):
    run(make_config("train.updates=1", "measure=off"))  # what a process does once


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results folder of a run that went well."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start([*LINE, f"results_dir={folder}/runs"], folder / "out")
    assert ended(process) == 0, (folder / "out").read_text()
    return folder / "runs"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The results folder of a run that was killed when it had several checkpoints."""
    folder = tmp_path_factory.mktemp("killed")
    process = start([*LINE, f"results_dir={folder}/runs"], folder / "out")
    wait_for(lambda: updates(folder / "runs") > 45, process, folder / "out")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return folder / "runs"


@pytest.fixture
def left(killed, tmp_path):
    """A copy of it to be damaged: the run folder."""
    shutil.copytree(killed, tmp_path / "left")
    (folder,) = (tmp_path / "left").glob("vit-*")
    return folder


def went_on(folder, tmp_path, *more):
    """The same command finishes the run; what it shows."""
    out = tmp_path / "out"
    process = start([*LINE, f"results_dir={folder.parent}", *more], out)
    assert ended(process) == 0, out.read_text()
    assert "Traceback" not in out.read_text()
    return out.read_text()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk, room):
    """Take all of a disk but ``room`` bytes."""
    with open(disk / "others", "wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(bytes(4096)):
                pass
        file.truncate(file.tell() - room)


def test_a_disk_that_is_full_while_a_checkpoint_is_written_loses_nothing(small_disk, tmp_path, undisturbed):
    """Three times with room for records but for no checkpoint, twice with room for nothing."""
    line, out = [*LINE, f"results_dir={small_disk}/runs"], tmp_path / "out"
    for number, room in enumerate((300_000, 0, 300_000, 0, 300_000)):
        before = updates(small_disk / "runs")
        process = start(line, out)
        wait_for(lambda before=before: updates(small_disk / "runs") > before + 12, process, out)
        fill(small_disk, room)
        assert ended(process) == 1, out.read_text()
        (folder,) = (small_disk / "runs").glob("vit-*")
        told = out.read_text()
        assert told.splitlines()[-1] == (
            f"failed: {folder}: No space left on device. Nothing already written is lost; free some space and repeat"
            " the command to resume"
        )
        assert len(list((folder / "checkpoints").glob("*.pt"))) in (1, 2)
        assert not list(folder.rglob("*.tmp"))
        if number == 1:
            assert ended(start(line, out)) == 2
            assert "has 0 GB free" in out.read_text()
        (small_disk / "others").unlink()
        out.unlink()
    print(went_on(folder, tmp_path))
    assert_equal(undisturbed, small_disk / "runs")
    assert len(starts(folder)) == 6


def test_a_sweep_that_cannot_be_written_down_says_so(small_disk, tmp_path):
    fill(small_disk, 0)
    assert ended(start(["-m", *LINE, "seed=0,1", f"results_dir={small_disk}"], tmp_path / "out")) == 2
    told = (tmp_path / "out").read_text()
    assert re.match(rf"results_dir={small_disk}: sweeps/\S+\.json cannot be written \(No space left on device\)", told)


@pytest.mark.parametrize(
    "damage",
    [
        lambda files: os.truncate(files[-1], files[-1].stat().st_size // 2),
        lambda files: os.truncate(files[-1], 0),
        lambda files: files[-1].write_bytes(files[-1].read_bytes()[:-1] + b"?"),
        lambda files: [os.truncate(file, 1000) for file in files],  # none is left: from the beginning
    ],
    ids=["half", "empty", "flipped", "all"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(damage, left, tmp_path, undisturbed):
    files = sorted((left / "checkpoints").glob("*.pt"))
    assert len(files) == 2
    damage(files)
    told = went_on(left, tmp_path)
    assert f"{files[-1]} is damaged (its content does not match its name); going back to the one before" in told
    assert_equal(undisturbed, left.parent)


@pytest.mark.parametrize("lost", [0, 700])
def test_a_damaged_line_of_the_records_is_named_and_costs_itself_alone(lost, left, tmp_path, undisturbed):
    """In the middle, and at the end by more than what was trained since the last checkpoint."""
    records = left / "metrics.jsonl"
    length = records.stat().st_size
    lines = records.read_bytes().splitlines(keepends=True)
    lines[4] = bytes(len(lines[4]) - 1) + b"\n"  # as a power failure leaves a file
    records.write_bytes(b"".join(lines[:30])[:-lost] if lost else b"".join(lines))
    told = went_on(left, tmp_path, "tracking=tensorboard")
    (warning,) = [line for line in told.splitlines() if line.startswith(str(records))]
    assert warning.startswith(f"{records}: line 5 is damaged")
    assert ("bytes are gone" in warning) == bool(lost)
    (whole,) = undisturbed.glob("vit-*")
    assert_equal_weights(whole, left)
    expected = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    found = records.read_bytes().splitlines(keepends=True)
    if not lost:
        assert length  # nothing but that line differs
        assert [number for number, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1]] == [4]
    assert set(found[5:]) - set(expected) <= {line for line in found if not line.startswith(b"{") or lost}
    assert found[-40:] == expected[-40:]
    out = tmp_path / "report.out"
    assert ended(start(["report", left.parent, "--out", tmp_path / "report"], out)) == 0, out.read_text()
    assert "1 of 1 runs are finished and counted." in out.read_text()


@pytest.mark.skipif(not CAN, reason="no filter of system calls for this machine")
def test_a_file_system_without_locks_is_enough(tmp_path, undisturbed):
    """For two sweeps of one line at once, several runs at a time, wandb, status and reports."""
    results, outs = tmp_path / "without", [tmp_path / "one", tmp_path / "other"]
    line = [*LINE, "-m", "seed=0,1", "tracking=wandb", f"results_dir={results}"]
    lines = [line, [*line, "cluster=local"]]
    both = [start(one, out, _without_locks) for one, out in zip(lines, outs, strict=True)]
    for sweep, out in zip(both, outs, strict=True):
        assert ended(sweep, 600) == 0, out.read_text()
        assert "2 of 2 runs are finished and counted." in out.read_text()
        assert "failed" not in out.read_text()
    folders = sorted(results.glob("vit-*"))
    assert [len(starts(folder)) for folder in folders] == [1, 1]
    assert all(list(folder.glob("wandb/offline-run-*/*.wandb")) for folder in folders)
    (whole,) = undisturbed.glob("vit-*")
    assert_equal_weights(whole, results / whole.name)
    for command in (["status", results], ["report", results, "--out", tmp_path / "report"], ["clean", results]):
        out = tmp_path / f"{command[0]}.out"
        assert ended(start(command, out, _without_locks)) == 0, out.read_text()


def _without_locks():
    take_no_locks()
    with pytest.raises(OSError, match="No locks available"), open(os.devnull) as file:
        fcntl.flock(file, fcntl.LOCK_EX)


@pytest.mark.parametrize("hours", [24, -24])
def test_a_clock_set_between_two_starts_changes_nothing(hours, left, tmp_path, undisturbed):
    """Back, so that all files are of a time to come, or forward."""
    later = time.time() + 3600 * hours
    for path in [left, *left.rglob("*")]:
        os.utime(path, (later, later))
    (start_of_before,) = (left / "starts").glob("*.json")
    content = json.loads(start_of_before.read_text())
    start_of_before.write_text(json.dumps(content | {"began": content["began"] + 3600 * hours}))
    os.utime(start_of_before, (later, later))
    assert "resuming at update" in went_on(left, tmp_path, "tracking=tensorboard")
    assert_equal(undisturbed, left.parent)


def test_a_clock_set_back_while_two_sweeps_of_one_line_train_changes_nothing(tmp_path, undisturbed):
    """By a day, in one of them; files keep the time of the machine that has them."""
    results, outs = tmp_path / "back", [tmp_path / "one", tmp_path / "other"]
    line = [*LINE, "-m", "seed=0,1", "tracking=tensorboard", f"results_dir={results}"]
    both = [start(line, out, clock) for out, clock in zip(outs, (_clock_set_back, None), strict=True)]
    for sweep, out in zip(both, outs, strict=True):
        assert ended(sweep, 600) == 0, out.read_text()
        assert "2 of 2 runs are finished and counted." in out.read_text()
    assert [len(starts(folder)) for folder in sorted(results.glob("vit-*"))] == [1, 1]
    (whole,) = undisturbed.glob("vit-*")
    assert_equal_weights(whole, results / whole.name)
    assert (whole / "metrics.jsonl").read_text() == (results / whole.name / "metrics.jsonl").read_text()


def _clock_set_back():
    """A second after the first look at it."""
    real, first = time.time, []

    def now():
        first.append(real())
        return real() - (86_400 if real() > first[0] + 1 else 0)

    time.time = now
