"""What asks a run to stop, and what becomes of its job."""

import json
import os
import signal
import time
from contextlib import suppress

import pytest

from nmtrain.errors import Stopped
from nmtrain.launch import requeue
from nmtrain.launch.requeue import heed_outside_training, put_back_in_line
from nmtrain.training import run as run_module
from nmtrain.training import signals
from nmtrain.training.loop import Trainer
from nmtrain.training.run import run
from nmtrain.training.signals import StopRequest, asked_by, end_of_job, stop_requests


def interrupted(monkeypatch, *numbers):
    """Training in which the signals come during the third update."""

    class Interrupted(Trainer):
        def update(self, number):
            if number == 2:
                for one in numbers:
                    signal.raise_signal(one)
            return super().update(number)

    monkeypatch.setattr(run_module, "Trainer", Interrupted)


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_saves_the_run_after_the_update_and_the_same_command_goes_on(number, make_config, monkeypatch):
    config = make_config("train.updates=6", "measure=off")
    earlier = signal.getsignal(number)
    with monkeypatch.context() as patch:
        interrupted(patch, number)
        with pytest.raises(Stopped, match=f"{number.name} after update 3 of 6") as stopped:
            run(config)
    assert stopped.value.by == number.name
    assert signal.getsignal(number) is earlier
    assert json.loads((config.run_folder / "status.json").read_text())["state"] == "preempted"
    assert run(config)["updates"] == 6


@pytest.fixture
def interruptible():
    """As at a terminal: a process that was started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_stops_at_once(make_config, monkeypatch, interruptible):
    config = make_config("train.updates=6", "train.checkpoint_every=2", "measure=off")
    with monkeypatch.context() as patch:
        interrupted(patch, signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert [int(path.name[:10]) for path in (config.run_folder / "checkpoints").iterdir()] == [2]
    assert json.loads((config.run_folder / "status.json").read_text())["state"] == "preempted"
    assert run(config)["updates"] == 6


def test_a_second_sigusr2_does_not_kill_a_run_that_is_saving():
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)
        assert asked_by(stop.number) == "SIGUSR2"


@pytest.fixture
def handlers_as_before():
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_one_of_several_processes_outlives_signals_that_come_twice_until_it_has_told_what_ended_it(handlers_as_before):
    with suppress(OSError), stop_requests(together=True) as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2):
            signal.raise_signal(number)
        raise OSError("Connection closed by peer")
    assert asked_by(stop.number) == "SIGTERM"
    signal.raise_signal(signal.SIGTERM)  # by its launcher, since another one failed: this process goes on


def test_a_second_interrupt_still_ends_one_of_several_processes(interruptible, handlers_as_before):
    """Whoever started them passes it on as SIGTERM."""
    with stop_requests(together=True):
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_time_limit_asks_to_stop_before_it_comes(make_config, monkeypatch):
    now = time.time()
    assert StopRequest(now + 3600).number == 0
    assert asked_by(StopRequest(now - 1).number) == "time limit"
    request = StopRequest(now + 600)
    for seconds, asks in ((530, 0), (541, 1000)):
        monkeypatch.setattr(signals.time, "time", lambda seconds=seconds: now + seconds)
        assert request.number == asks
    monkeypatch.undo()
    monkeypatch.setattr(run_module, "end_of_job", lambda: time.time() - 1)
    with pytest.raises(Stopped, match="time limit after update 1 of 6"):
        run(make_config("train.updates=6", "measure=off"))


def answer(tmp_path, monkeypatch, name, text, status=0):
    """A command of SLURM that prints ``text`` and notes its arguments in the file that is returned."""
    asked = tmp_path / f"{name}.asked"
    command = tmp_path / "bin" / name
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\necho "$@" >> {asked}\necho "{text}"\nexit {status}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    return asked


def test_the_end_of_a_job_is_what_slurm_says(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert end_of_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    asked = answer(tmp_path, monkeypatch, "squeue", "2026-11-26T03:23:08")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "97")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(end_of_job())) == "2026-11-26T03:23:08"
    assert asked.read_text() == "-h -j 97_3 -o %e\n"
    answer(tmp_path, monkeypatch, "squeue", "NONE")
    assert end_of_job() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1795000000")
    assert end_of_job() == 1795000000


@pytest.mark.parametrize(
    ("by", "state", "expected"),
    [
        ("SIGINT", "RUNNING", []),
        ("SIGUSR2", "RUNNING", ["requeue 99"]),
        ("time limit", "RUNNING", ["requeue 99"]),
        ("SIGTERM", "RUNNING", ["-o show job 99"]),  # SLURM itself starts it again
        ("SIGTERM", "CANCELLED", ["-o show job 99"]),
    ],
)
def test_a_plain_job_is_put_back_in_line_where_slurm_does_not_do_it(by, state, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    asked = answer(tmp_path, monkeypatch, "scontrol", f"JobId=99 JobState={state} Reason=None")
    put_back_in_line(Stopped("", by))
    assert (asked.read_text().splitlines() if asked.exists() else []) == expected


def test_of_several_nodes_the_first_puts_the_job_back_in_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    asked = answer(tmp_path, monkeypatch, "scontrol", "")
    for node in ("1", "0"):
        monkeypatch.setenv("SLURM_NODEID", node)
        put_back_in_line(Stopped("", "SIGUSR2"))
        assert asked.exists() == (node == "0")


@pytest.mark.parametrize(("state", "called"), [("RUNNING", [signal.SIGUSR2]), ("CANCELLED", [])])
def test_submitits_own_handler_has_the_last_word_unless_the_job_was_cancelled(state, called, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    answer(tmp_path, monkeypatch, "scontrol", f"JobId=99 JobState={state}")
    calls = []
    monkeypatch.setattr(requeue.signal, "getsignal", lambda number: lambda number, frame: calls.append(number))
    put_back_in_line(Stopped("", "SIGTERM"))
    assert calls == called


def test_a_job_of_submitit_that_is_in_line_already_ends_there_too(tmp_path, monkeypatch):
    """Not as a failed run, which its sweep would try again in another job beside the one that starts again."""
    environment, slurm, utils = (
        pytest.importorskip(f"submitit.{module}") for module in ("core.job_environment", "slurm.slurm", "core.utils")
    )
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    asked = answer(tmp_path, monkeypatch, "scontrol", "Job is pending execution", status=1)
    submission = utils.DelayedSubmission(print)
    submission.set_timeout(60, 3)
    handler = environment.SignalHandler(slurm.SlurmJobEnvironment(), utils.JobPaths(tmp_path, "99"), submission)
    monkeypatch.setattr(requeue.signal, "getsignal", lambda number: handler.checkpoint_and_try_requeue)
    with pytest.raises(SystemExit):
        put_back_in_line(Stopped("", "SIGTERM"))
    assert asked.read_text().splitlines() == ["-o show job 99", "requeue 99"]


def test_sigusr2_between_two_runs_puts_the_job_back_in_line_too(tmp_path, monkeypatch):
    earlier = signal.getsignal(signal.SIGUSR2)
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    asked = answer(tmp_path, monkeypatch, "scontrol", "")
    try:
        heed_outside_training()
        with pytest.raises(KeyboardInterrupt, match="SIGUSR2"):
            signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, earlier)
    assert asked.read_text() == "requeue 99\n"


def test_outside_of_a_cluster_nothing_is_asked(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(requeue.subprocess, "run", pytest.fail)
    put_back_in_line(Stopped("", "SIGUSR2"))
