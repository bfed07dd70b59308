"""The runs of a sweep, trained by one of Hydra's launchers: beside other sweeps, through failures and kills."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from nmtrain.config.check import Config
from nmtrain.config.compose import RUN_NUMBER, compose_values, run_hydra
from nmtrain.errors import NmtrainError, RunFolderError, RunHeld, Stopped
from nmtrain.launch.cluster import at_once, take_share
from nmtrain.launch.grid import Job
from nmtrain.launch.job import checked, log_to_terminal, run_job
from nmtrain.launch.plugins import load_plugins, plugin_folders
from nmtrain.launch.progress import progress_told
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.starts import clock_of, is_alive, start_files

logger = logging.getLogger(__name__)
_TRIES = 3  # passes of a launcher, one after the other, that bring no run on
_LOOK = 2.0  # seconds between two looks at runs that other processes train


def train_jobs(jobs: Sequence[Job], fixed: list[str], group: str, tuning: bool) -> list[str]:
    """Train what is not finished. A run that another process trains is left to it, and waited for in the end.

    Args:
        fixed: the overrides that Hydra is to know, its own among them.
        group: of the sweep's runs in wandb.
        tuning: a run that diverged before is done; and all are waited for, since values are chosen next.

    Returns:
        a line for each run that did not finish.
    """
    log_to_terminal()
    left = [job for job in jobs if not _is_done(job.config, tuning)]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # the exception itself instead of Hydra's report of it
    elsewhere = jobs[0].config.cluster.name != "none"
    fruitless = 0
    again = {job.config.run_name for job in left if job.config.force or job.folder.state_or_none == "failed"}
    while left:
        tried, before = left, _come_to(left)
        with progress_told(jobs) if elsewhere else nullcontext():
            error = _launch(left, again, [job.config.run_name for job in jobs], fixed, group)
        left = [job for job in left if job.folder.state_or_none not in ("finished", "failed")]
        held = [job for job in left if _is_held(job)]
        if left and len(held) == len(left):
            if not (left[0].config.cluster.wait or tuning):
                logger.info("\nleft to the processes that train them: %s", _names(left))
                jobs = [job for job in jobs if job not in left]
                break
            left = _wait(left)
        elif left:
            if error:
                logger.warning("the launcher ended early: %s", error)
            fruitless = fruitless + 1 if _come_to(tried) == before else 0
            if fruitless == _TRIES:
                break
    return [line for job in jobs for line in _why_unfinished(job, tuning)]


def _is_done(config: Config, tuning: bool) -> bool:
    """Whether there is nothing to train."""
    folder = RunFolder(config.run_folder)
    state = folder.state_or_none
    if config.force:
        return False
    if state == "finished":
        from nmtrain.training.run import finished_before

        return finished_before(config, folder) is not None
    return state == "failed" and (not config.retry or (tuning and folder.diverged))


def _launch(left: Sequence[Job], again: set[str], names: list[str], fixed: list[str], group: str) -> Exception | None:
    """One pass of Hydra's launcher over the runs that are left; returns what ended it, if something did."""
    todo = {number: job.overrides for number, job in enumerate(left)}
    numbers = ",".join(map(str, todo))
    job = partial(_sweep_job, plugin_folders(), todo, again, names, group, at_once(left[0].config.cluster))
    try:
        run_hydra(["-m", *fixed, f"+{RUN_NUMBER}={numbers}"], job)
    except Exception as error:  # a killed worker, a job that left no result
        return error
    return None


def _sweep_job(
    plugins: list[str],
    todo: dict[int, list[str]],
    again: set[str],
    names: list[str],
    group: str,
    sharing: int,
    number: int,
) -> None:
    """One run; its failure is said at once and ends no other.

    Args:
        plugins: the folders to load where a launcher runs this in a process of its own.
        todo: the overrides of each run.
        again: the names of runs to be trained although they failed: before this sweep, not in another one meanwhile.
        names: of all runs of the sweep.
        sharing: how many runs are trained at a time on this machine.
    """
    load_plugins(plugins)
    if sharing > 1:
        take_share(sharing, number)
    config = checked(_grouped(compose_values(todo[number]), group))
    log_to_terminal()
    logger.info("\n%s%s", _place(config, names), config.run_name)
    if config.run_name not in again and RunFolder(config.run_folder).state_or_none == "failed":
        logger.info("failed in another process meanwhile; going on with the next")
        return
    try:
        run_job(config)
    except RunHeld as held:
        logger.info("%s; going on with the next", held)
    except Stopped as stopped:
        raise KeyboardInterrupt(str(stopped)) from stopped  # Hydra takes an Exception for one run's failure
    except Exception as error:
        logger.error("%s did not finish: %s", config.run_name, error)
        _note(config, error)


def _place(config: Config, names: list[str]) -> str:
    """Which run of how many this is, and how many are finished and failed by now."""
    if config.run_name not in names:
        return ""
    states = [RunFolder(config.results_dir / name).state_or_none for name in names]
    told = ", ".join(f"{count} {state}" for state in ("finished", "failed") if (count := states.count(state)))
    return f"run {names.index(config.run_name) + 1} of {len(names)}{f' ({told})' if told else ''}: "


def _grouped(values: dict[str, Any], sweep: str) -> dict[str, Any]:
    """``values`` with the sweep as the group that wandb shows the run in, unless they name one."""
    tracking = values["tracking"]
    if tracking["name"] != "wandb" or tracking["group"] is not None:
        return values
    return values | {"tracking": tracking | {"group": sweep}}


def _note(config: Config, error: Exception) -> None:
    """Let the folder tell of what failed before the run itself could."""
    folder = RunFolder(config.run_folder)
    with suppress(NmtrainError, OSError):
        folder.prepare()
        with folder.locked():
            if folder.state is None:
                folder.set_status("failed", str(error))


def _is_held(job: Job) -> bool:
    files = start_files(job.config.run_folder)
    return bool(files) and is_alive(files[-1], clock_of(files[-1].parent))


def _wait(held: Sequence[Job]) -> list[Job]:
    """Wait until a run that others train is finished or left; returns those that are still to be trained."""
    logger.info("\nwaiting for %s that other processes train", _names(held))
    while all(map(_is_held, held)):
        time.sleep(_LOOK)
    return [job for job in held if job.folder.state_or_none not in ("finished", "failed")]


def _names(jobs: Sequence[Job]) -> str:
    return ", ".join(job.folder.name for job in jobs)


def _come_to(jobs: Sequence[Job]) -> list[Any]:
    """How far the runs are: what is finished, and the newest checkpoint of what is not."""
    checkpoints = [max((job.folder / "checkpoints").glob("*.pt"), default=None) for job in jobs]
    return [(job.folder.state_or_none == "finished", last) for job, last in zip(jobs, checkpoints, strict=True)]


def _why_unfinished(job: Job, tuning: bool) -> list[str]:
    folder = job.folder
    try:
        state = folder.state or "not started"
        reason = folder.read_json("status.json").get("reason") if folder.state else None
        if state == "finished" or (tuning and folder.diverged):
            return []
    except RunFolderError as error:
        return [f"  {error}"]
    log = f" ({folder / 'train.log'})" if (folder / "train.log").exists() else ""
    return [f"  {folder.path}: {state}" + (f", {reason}" if reason else "") + log]
