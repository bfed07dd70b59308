"""A run has one owner: exactly one process takes it, and that of one that is gone is taken over."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from nmtrain.errors import RunHeld, TakenOver
from nmtrain.runs import starts
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.starts import GONE_AFTER, Owner, is_alive, read_start, start_files, this_process


def leave(run, number=1, age=0.0, **changes):
    """A start of another process, last touched ``age`` seconds ago."""
    file = run / "starts" / f"{number:04d}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(asdict(replace(this_process(), **changes))))
    os.utime(file, (time.time() - age,) * 2)
    return file


@pytest.fixture
def quick(monkeypatch):
    """A tenth of a second for an owner to show itself."""
    monkeypatch.setattr(starts, "BEAT", 0.05)
    monkeypatch.setattr(starts, "_LATE", 0.05)


ELSEWHERE = {"host": "node7", "machine": ["other boot", "pid:[1]"], "pid": 4711, "job": "97_3"}


def test_a_run_held_on_another_machine_is_refused_naming_who_trains_it(tmp_path):
    leave(tmp_path, **ELSEWHERE)
    with pytest.raises(RunHeld, match=r"training this run right now \(process 4711 on node7, job 97_3\)"):
        Owner(tmp_path)
    assert [file.name for file in start_files(tmp_path)] == ["0001.json"]


@pytest.mark.parametrize("age", [GONE_AFTER + 5, -GONE_AFTER - 5])
def test_an_owner_that_did_not_touch_its_file_for_minutes_is_gone_also_by_a_clock_set_back(tmp_path, age, quick):
    leave(tmp_path, age=age, **ELSEWHERE)
    owner = Owner(tmp_path)
    owner.release()
    assert owner.file.name == "0002.json"


@pytest.mark.parametrize(("age", "where"), [(3600, {}), (-3600, {}), (-3600, ELSEWHERE)])
def test_a_live_owner_keeps_its_run_when_the_clock_is_set(tmp_path, age, where, monkeypatch):
    """Its file is of another hour until it touches it again; meanwhile somebody wants the run."""
    monkeypatch.setattr(starts, "_LATE", 10)
    file = leave(tmp_path, age=age, **where)
    threading.Timer(0.2, os.utime, [file]).start()
    with pytest.raises(RunHeld):
        Owner(tmp_path)
    assert start_files(tmp_path) == [file]


def test_an_owner_that_was_suspended_for_minutes_is_gone(tmp_path, quick):
    leave(tmp_path, age=GONE_AFTER + 5)  # by this very process
    Owner(tmp_path).release()


def test_an_owner_whose_process_ended_on_this_machine_is_gone_at_once(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leave(tmp_path, pid=ended.pid)
    Owner(tmp_path).release()
    leave(tmp_path, number=3, clock=1)  # another process has its number now
    Owner(tmp_path).release()
    assert len(start_files(tmp_path)) == 4


def test_a_job_that_was_put_back_in_line_is_not_held_by_its_earlier_self(tmp_path, monkeypatch):
    leave(tmp_path, **ELSEWHERE)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "97")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(RunHeld):  # it runs twice, then
        Owner(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    owner = Owner(tmp_path)
    owner.release()
    start = read_start(owner.file)
    assert (start.job, start.restart, start.ended) == ("97_3", 1, True)


def test_a_job_that_was_put_back_in_line_waits_for_its_earlier_self_to_be_killed(tmp_path, monkeypatch):
    """On the machine where the daemon of the cluster died and came back."""
    earlier = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    leave(tmp_path, pid=earlier.pid, clock=starts._clock(earlier.pid), job="97_3")
    monkeypatch.setenv("SLURM_JOB_ID", "97_3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(starts, "_KILLED_WITHIN", 0)
    with pytest.raises(RunHeld):
        Owner(tmp_path)
    monkeypatch.setattr(starts, "_KILLED_WITHIN", 60)
    threading.Timer(0.2, earlier.kill).start()
    Owner(tmp_path).release()
    earlier.communicate()


@pytest.mark.parametrize("content", ["", "{", '{"pid": 3}'])
def test_a_start_that_was_just_made_or_is_damaged_holds_until_it_is_old(tmp_path, content):
    file = tmp_path / "starts" / "0001.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(RunHeld, match=r"another process is training this run right now$"):
        Owner(tmp_path)
    os.utime(file, (0, 0))
    Owner(tmp_path).release()


def test_of_many_takers_of_a_dead_owners_run_exactly_one_wins(tmp_path):
    leave(tmp_path, age=GONE_AFTER + 5, **ELSEWHERE)
    together, won, refused = threading.Barrier(8), [], []

    def take():
        together.wait()
        try:
            won.append(Owner(tmp_path))
        except RunHeld as error:
            refused.append(error)

    takers = [threading.Thread(target=take) for _ in range(8)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].release()


def test_the_owner_shows_itself_and_what_it_has_come_to(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "BEAT", 0.02)
    owner = Owner(tmp_path)
    owner.begins(40, 900)
    owner.reached(60)
    os.utime(owner.file, (0, 0))
    assert not is_alive(owner.file, time.time())
    until = time.monotonic() + 10
    while not is_alive(owner.file, time.time()):
        assert time.monotonic() < until
        time.sleep(0.01)
    start = read_start(owner.file)
    assert (start.first, start.done, start.total, start.pid) == (40, 60, 900, os.getpid())
    owner.release()
    assert not is_alive(owner.file, time.time())


def test_a_process_that_woke_up_after_its_run_was_taken_over_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "BEAT", 0.02)
    owner = Owner(tmp_path)
    leave(tmp_path, number=2, **ELSEWHERE)
    until = time.monotonic() + 10
    while not owner._lost:
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(TakenOver, match="another process took the run over"):
        owner.reached(1)
    owner.release()
    with pytest.raises(RunHeld):
        Owner(tmp_path)


def test_a_run_that_is_repeated_forgets_its_starts_and_its_number_goes_on(tmp_path):
    folder = RunFolder(tmp_path)
    for _ in range(2):
        with folder.locked():
            pass
    with folder.locked() as owner:
        owner.forget_before()
        folder.clear()
    assert [file.name for file in start_files(tmp_path)] == ["0003.json"]
