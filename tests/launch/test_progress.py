"""What the terminal says of a sweep that is trained in other processes."""

import json
import logging
import time
from types import SimpleNamespace

from nmtrain.launch import progress
from nmtrain.launch.progress import counted, progress_told, time_left


def test_counts_and_the_time_that_is_left():
    states = ["finished", "failed", "running", "planned", "finished"]
    assert counted(states) == "2 of 5 runs finished, 1 failed, 1 running"
    assert time_left(100, 2, states) == 100  # two in 100 seconds, and two are left
    assert time_left(100, 0, states) is None


def test_a_line_when_something_changed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "_LOOK", 0.02)
    jobs = [SimpleNamespace(config=SimpleNamespace(run_folder=tmp_path / name)) for name in "ab"]
    with caplog.at_level(logging.INFO), progress_told(jobs):
        for name, line in (("a", "1 of 2 runs finished, about "), ("b", "2 of 2 runs finished")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "status.json").write_text(json.dumps({"state": "finished", "reason": None}))
            until = time.monotonic() + 10
            while line not in caplog.text:
                assert time.monotonic() < until
                time.sleep(0.01)
    assert len(caplog.messages) <= 3
