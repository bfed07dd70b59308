"""A launcher that dies is started again while it brings runs on, and no longer."""

import time
from types import SimpleNamespace

import pytest

from nmtrain.launch import running
from nmtrain.launch.grid import Job
from nmtrain.runs.folder import RunFolder


@pytest.fixture
def jobs(tmp_path):
    cluster = SimpleNamespace(name="none", wait=True)
    shared = {"force": False, "retry": True, "cluster": cluster}
    names = ("a", "b")
    return [Job([], SimpleNamespace(run_folder=tmp_path / name, run_name=name, **shared)) for name in names]


def launcher(monkeypatch, *passes):
    """Stands in for Hydra's: each pass does something to the folders and dies."""
    rest = iter(passes)
    done = []

    def launch(left, again, names, fixed, group):
        done.append([job.config.run_name for job in left])
        act = next(rest, None)
        if act:
            act({job.config.run_name: job.folder for job in left})
        return RuntimeError("a worker was killed")

    monkeypatch.setattr(running, "_launch", launch)
    return done


def checkpoint(name, update):
    def act(folders):
        folders[name].prepare()
        folders[name].set_status("running")
        (folders[name] / "checkpoints" / f"{update:010d}-00ff.pt").touch()

    return act


def end(state):
    def act(folders):
        for folder in folders.values():
            folder.prepare()
            folder.set_status(state, "out of luck" if state == "failed" else None)

    return act


def test_it_is_started_again_for_what_is_left_as_long_as_it_brings_something_on(jobs, monkeypatch):
    done = launcher(monkeypatch, checkpoint("a", 10), None, None, checkpoint("a", 20), None, end("finished"))
    assert running.train_jobs(jobs, [], "", tuning=False) == []
    assert done == [["a", "b"]] * 6


def test_three_passes_that_bring_nothing_on_are_the_end_and_each_run_is_named(jobs, monkeypatch, tmp_path):
    done = launcher(monkeypatch, checkpoint("a", 10))
    unfinished = running.train_jobs(jobs, [], "", tuning=False)
    assert len(done) == 4
    assert unfinished == [f"  {tmp_path}/a: running", f"  {tmp_path}/b: not started"]


@pytest.mark.parametrize("hours", [24, -24])
def test_a_run_is_held_or_free_by_the_clock_of_its_files_and_not_by_our_own(hours, jobs, monkeypatch):
    (first, second), now = jobs, time.time()
    for job in jobs:
        job.folder.prepare()
    with first.folder.locked():
        monkeypatch.setattr(time, "time", lambda: now + 3600 * hours)
        assert running._is_held(first)
        assert not running._is_held(second)
    assert not running._is_held(first)


def test_a_failed_run_is_not_tried_again_by_the_sweep_it_failed_in_but_by_the_next(jobs, monkeypatch, tmp_path):
    done = launcher(monkeypatch, end("failed"), end("failed"))
    unfinished = running.train_jobs(jobs, [], "", tuning=False)
    assert unfinished == [f"  {tmp_path}/{name}: failed, out of luck" for name in "ab"]
    assert done == [["a", "b"]]
    RunFolder(tmp_path / "b").set_status("finished")
    monkeypatch.setattr("nmtrain.training.run.finished_before", lambda config, folder: {})
    running.train_jobs(jobs, [], "", tuning=False)
    assert done == [["a", "b"], ["a"]]
    for job in jobs:
        job.config.retry = False
    assert len(running.train_jobs(jobs, [], "", tuning=False)) == 1
    assert len(done) == 2


def test_tuning_runs_that_others_train_are_waited_for_whatever_the_cluster_says(jobs, monkeypatch):
    waited = []

    def wait(held):
        waited.append([job.config.run_name for job in held])
        end("finished")({job.config.run_name: job.folder for job in held})
        return []

    monkeypatch.setattr(running, "_wait", wait)
    jobs[0].config.cluster.wait = False
    launcher(monkeypatch)
    for job in jobs:
        job.folder.prepare()
    with jobs[0].folder.locked(), jobs[1].folder.locked():
        assert running.train_jobs(jobs, [], "", tuning=True) == []
        assert waited == [["a", "b"]]


def test_a_run_that_failed_in_another_process_meanwhile_is_not_repeated(jobs, monkeypatch, caplog):
    (first, second), trained = jobs, []
    monkeypatch.setattr(running, "compose_values", lambda overrides: {"tracking": {"name": "none"}})
    monkeypatch.setattr(running, "run_job", lambda config: trained.append(config.run_name))
    end("failed")({"a": first.folder, "b": second.folder})
    for number, job in enumerate(jobs):
        monkeypatch.setattr(running, "checked", lambda values, job=job: job.config)
        running._sweep_job([], {0: [], 1: []}, {"b"}, [], "", 1, number)
    assert trained == ["b"]  # which had failed before this sweep


def test_a_failure_is_not_written_into_a_run_that_another_process_trains(jobs):
    config = SimpleNamespace(run_folder=jobs[0].config.run_folder)
    jobs[0].folder.prepare()
    with jobs[0].folder.locked():
        running._note(config, RuntimeError("lost a race"))
        assert jobs[0].folder.state is None
    running._note(config, RuntimeError("no such data"))
    assert jobs[0].folder.read_json("status.json") == {"state": "failed", "reason": "no such data"}
