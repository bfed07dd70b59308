"""`nmtrain status`: what a run has come to, from its files alone."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from nmtrain.launch.status import duration, run_statuses
from nmtrain.runs.starts import this_process
from nmtrain.runs.sweeps import PlannedRun, Sweep


def leave(folder, name, state, reason=None, lines=(), age=0.0, **start):
    run = folder / name
    (run / "starts").mkdir(parents=True)
    (run / "status.json").write_text(json.dumps({"state": state, "reason": reason}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number in range(1, start.pop("starts", 1) + 1):
        file = run / "starts" / f"{number:04d}.json"
        file.write_text(json.dumps(asdict(replace(this_process(), **start))))
        os.utime(file, (time.time() - age,) * 2)
    return run


EVALUATED = [
    {"update": 100, "split": "val", "accuracy": 0.5432, "loss": 1.2},
    {"update": 120, "split": "train", "loss": 1.1},
]


def test_a_run_that_trains_has_progress_metric_speed_and_time_left(tmp_path):
    began = time.time() - 10
    run = leave(
        tmp_path, "a", "running", lines=EVALUATED, host="node7", job="97_3", starts=3,
        began=began, first=100, done=150, total=400,
    )  # fmt: skip
    (status,) = run_statuses([tmp_path])
    assert (status.path, status.state, status.done, status.total, status.restarts) == (run, "running", 150, 400, 2)
    assert status.metric == "accuracy 54.32 %"
    assert status.per_second == pytest.approx(5, rel=0.05)
    assert status.seconds_left == pytest.approx(50, rel=0.05)


def test_a_run_that_began_later_than_now_by_the_clock_has_no_speed(tmp_path):
    leave(tmp_path, "a", "running", lines=EVALUATED, began=time.time() + 3600, first=100, done=150, total=400)
    (status,) = run_statuses([tmp_path])
    assert (status.state, status.done, status.per_second, status.seconds_left) == ("running", 150, None, None)


def test_states_are_told_and_runs_whose_owner_is_gone_are_marked(nm, tmp_path):
    leave(tmp_path, "b", "running", lines=EVALUATED, age=400, host="node7", job="97_3", machine=["other"], total=400)
    leave(tmp_path, "c", "failed", "the loss\x1b[2J is nan\nsecond line", ended=True)
    leave(tmp_path, "d", "finished", lines=[*EVALUATED, {"update": 400, "split": "final", "accuracy": 0.6, "loss": 1}])
    (tmp_path / "d" / "starts" / "0001.json").unlink()  # of a run of before
    runs = [PlannedRun(["seed=1"], "e"), PlannedRun(["seed=2"], "d")]
    Sweep([], {}, "", {}, runs).write(tmp_path / "sweeps" / "s.json")
    status, out, err = nm("status", str(tmp_path))
    assert (status, err) == (0, "")
    head, *lines, total = out.splitlines()
    assert head.split()[:3] == ["run", "state", "updates"]
    assert "  gone " in lines[0]
    assert "120 of 400" in lines[0]
    assert "node7" in lines[0]
    assert lines[2] == "    the loss?[2J is nan second line"
    assert lines[3].split() == ["e", "planned"]
    assert lines[4].split() == ["d", "finished", "400", "accuracy", "60.00", "%"]
    assert total == "1 of 4 runs finished; 1 gone, 1 failed, 1 planned"


def test_a_sweep_of_which_nothing_has_begun_is_shown(nm, tmp_path):
    Sweep([], {}, "", {}, [PlannedRun(["seed=1"], "e")]).write(tmp_path / "sweeps" / "s.json")
    assert nm("status", str(tmp_path))[1].splitlines()[-1] == "0 of 1 runs finished; 1 planned"


def test_what_is_no_folder_or_holds_no_run_is_refused_in_one_message(refused, tmp_path):
    assert refused("status", "nowhere") == "no such folder: nowhere"
    assert refused("status", str(tmp_path / "cwd")).endswith("cwd: there is neither a run folder nor a sweep")
    assert refused("status", "--wach") == "usage: nmtrain status [FOLDERS] [--watch]"


def test_damaged_files_are_a_line_and_no_traceback(tmp_path):
    run = leave(tmp_path, "a", "running")
    (run / "status.json").write_text("{")
    (run / "metrics.jsonl").write_bytes(b'{"update": 1}\n[1]\n\xff\n{"upd')
    (status,) = run_statuses([tmp_path])
    assert (status.state, status.done) == ("unreadable", 1)


def test_a_run_folder_itself_may_be_named(tmp_path):
    run = leave(tmp_path, "a", "finished", lines=EVALUATED)
    assert [status.path for status in run_statuses([run])] == [run]


def test_thousands_of_runs_take_under_2_seconds_of_processor_time(tmp_path):
    for number in range(2000):
        leave(tmp_path, f"run-{number}", "finished", lines=EVALUATED * 5)
    code = (
        "import sys, time; from nmtrain.cli import _main; _main(['status', sys.argv[1]]);"
        "print({'torch', 'rich', 'pandas', 'hydra'} & set(sys.modules), time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("set() ")
    assert float(last.split()[-1]) < 2


def test_durations_have_one_unit():
    assert [duration(value) for value in (3, 720, 18720, 270_000)] == ["3 s", "12 min", "5.2 h", "3.1 d"]
