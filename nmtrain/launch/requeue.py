"""What a stopped run does last in a cluster's job: it puts the job back in line, where that is not done for it."""

from __future__ import annotations

import os
import signal
import subprocess
from types import FrameType

from nmtrain.errors import Stopped
from nmtrain.runs.starts import this_process


def put_back_in_line(stopped: Stopped) -> None:
    """Have the job of this process started again; does nothing where there is no job, or who ended it wants it ended.

    SLURM itself starts a preempted job again (SIGTERM). In a job of submitit its own handler has to be called all the
    same, after everything is saved, or the launcher takes the job for failed; it leaves by SystemExit. So does this
    where SLURM refuses: of a job that is in line again already, it does.
    """
    if stopped.by == "SIGINT" or (job := this_process().job) is None:
        return
    if os.environ.get("SLURM_NODEID", "0") != "0":  # the first node of several does
        return
    if stopped.by == "SIGTERM" and _is_cancelled(job):
        return
    of_submitit = signal.getsignal(signal.SIGUSR2)
    if "SUBMITIT_EXECUTOR" in os.environ and callable(of_submitit):
        try:
            of_submitit(signal.SIGUSR2, None)
        except subprocess.SubprocessError as error:
            raise SystemExit(-1) from error
    elif stopped.by != "SIGTERM":
        subprocess.run(["scontrol", "requeue", job], timeout=60, check=False)


def heed_outside_training() -> None:
    """In a job of SLURM, let SIGUSR2 put it back in line also while no run is trained, where it would kill else."""
    if "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR2, _outside_training)


def _outside_training(number: int, frame: FrameType | None) -> None:
    put_back_in_line(Stopped("", "SIGUSR2"))
    raise KeyboardInterrupt("SIGUSR2")  # which nothing takes for one run's failure


def _is_cancelled(job: str) -> bool:
    told = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True, timeout=60)
    return "JobState=CANCELLED" in told.stdout
