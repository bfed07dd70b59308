"""A sweep's identity: which runs it has, kept beside them, and whether they would be what its finished ones are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nmtrain.config.check import Config
from nmtrain.config.compose import key_of, varied_settings
from nmtrain.config.faults import written
from nmtrain.config.naming import NOT_RESULT, result_values
from nmtrain.errors import ConfigError
from nmtrain.launch.tuning import COMPARED
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.sweeps import FOLDER, PlannedRun, Sweep, code_digest, read_sweep

_ALWAYS_AXES = (*COMPARED, "seed")  # another value of these is another run of the same sweep
_NAMED = 5  # keys, files or runs in a message


@dataclass(frozen=True)
class Job:
    """One run of a sweep: what the command line comes to for it, checked."""

    overrides: list[str]
    config: Config

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.config.run_folder)


def keep_sweep(overrides: list[str], jobs: Sequence[Job], part: str = "") -> Path:
    """Write what the sweep is, beside its runs; returns the file.

    Args:
        part: of a tuned sweep, which is two of them.

    Raises:
        ConfigError: saying what differs, where its finished runs had another config, other code or other data.
    """
    file = jobs[0].config.results_dir / FOLDER / f"{_name(overrides, jobs, part)}.json"
    before = _before(file)
    data = {} if jobs[0].config.dry_run else _data_now(jobs)  # a plan needs none
    runs = [PlannedRun(_settings(overrides, job), job.config.run_name) for job in jobs]
    now = Sweep(_line(overrides), _shared(jobs), code_digest(), data, runs)
    if not jobs[0].config.allow_changed and not jobs[0].config.force:
        told = [*(_other_configs(before, jobs, runs) if before and not part else []), *_other_code(jobs)]
        if told := [*told, *_other_data(jobs, data)]:
            raise ConfigError([*told, "allow_changed=true goes on, with runs that differ in that"])
    if not jobs[0].config.dry_run:
        now.extending(before).write(file)
    return file


def in_order(jobs: list[Job]) -> list[Job]:
    """The jobs as ``cluster.order`` has them; equal ones stay as they are."""
    order = jobs[0].config.cluster.order
    if order == "seed":
        return sorted(jobs, key=lambda job: job.config.seed)
    if order == "cost":
        from nmtrain.training.plan import make_plan

        shared: dict[str, Any] = {}
        return sorted(jobs, key=lambda job: float(make_plan(job.config, shared).flops["training"]))
    return jobs


def _before(file: Path) -> Sweep | None:
    try:
        return read_sweep(file) if file.exists() else None
    except ValueError:  # damaged: the sweep is written anew
        return None


def _name(overrides: list[str], jobs: Sequence[Job], part: str) -> str:
    """The model, the data, and a digest of what the line says of all its runs."""
    fixed = [override.lstrip("+") for override in overrides if not _is_axis(override, overrides)]
    axes = sorted({key_of(override) for override in varied_settings(overrides)} - set(_ALWAYS_AXES))
    digest = hashlib.blake2b("\n".join([*sorted(fixed), *axes, part]).encode(), digest_size=4).hexdigest()
    config = jobs[0].config
    return re.sub(r"[^\w.+-]", "_", "-".join(filter(None, [config.model.name, config.data["name"], part, digest])))


def _is_axis(override: str, overrides: list[str]) -> bool:
    """Whether an override says no more than which runs there are, or where and how they are trained."""
    key = key_of(override)
    parts = tuple(re.split(r"[./]", key))
    unread = any(parts[: len(prefix)] == prefix for prefix in NOT_RESULT) or parts[0] == "hydra"
    return unread or key in _ALWAYS_AXES or key in {key_of(varied) for varied in varied_settings(overrides)}


def _line(overrides: list[str]) -> list[str]:
    return [override.lstrip("+") for override in overrides if not override.startswith("hydra.searchpath")]


def _settings(overrides: list[str], job: Job) -> list[str]:
    axes = {key_of(varied) for varied in varied_settings(overrides)} | set(_ALWAYS_AXES)
    own = [override for override in job.overrides if key_of(override) in axes]
    return sorted(override.lstrip("+").replace("\\:", ":") for override in own)


def _shared(jobs: Sequence[Job]) -> dict[str, Any]:
    """The values that all runs have, of those that their results depend on, by dotted key."""
    flat = [_flat(result_values(job.config.values, job.config.is_dense)) for job in jobs]
    return {key: value for key, value in flat[0].items() if all(key in one and one[key] == value for one in flat)}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _other_configs(before: Sweep, jobs: Sequence[Job], runs: Sequence[PlannedRun]) -> list[str]:
    """A line for each key in which a finished run of these settings is not what it would be now."""
    names = {tuple(run.settings): run.run for run in before.runs}
    differing: dict[str, int] = {}
    for job, run in zip(jobs, runs, strict=True):
        then = RunFolder(job.config.results_dir / names.get(tuple(run.settings), run.run))
        if then.name == run.run or then.state_or_none != "finished":
            continue
        try:
            values = yaml.safe_load((then / "config.yaml").read_text())
            old = _flat(result_values(values, values["recipe"]["name"] == "dense"))
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
            continue
        new = _flat(result_values(job.config.values, job.config.is_dense))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                line = f"{key}={written(new.get(key))}: is {written(old.get(key))} in finished runs of this sweep"
                differing[line] = differing.get(line, 0) + 1
    lines = [f"{line} ({count})" for line, count in differing.items()]
    return _some(lines)


def _other_code(jobs: Sequence[Job]) -> list[str]:
    others = [
        (job.folder.name, environment.get("git_commit"))
        for job, environment in _finished(jobs)
        if environment.get("code") not in (None, code_digest())
    ]
    if not others:
        return []
    commits = ", ".join(dict.fromkeys(str(commit) for _, commit in others if commit)) or "no commit known"
    names = ", ".join(_some([name for name, _ in others]))
    return [f"code: finished runs of this sweep were trained by another version ({commits}): {names}"]


def _other_data(jobs: Sequence[Job], now: dict[str, str]) -> list[str]:
    """A line with the local files that are not what a finished run read."""
    others: dict[str, None] = {}
    for _, environment in _finished(jobs):
        then = environment.get("data", {})
        others |= dict.fromkeys(name for name in then if now.get(name, then[name]) != then[name])
    if not others:
        return []
    return [f"data: {', '.join(_some(list(others)))} is not what finished runs of this sweep read"]


def _finished(jobs: Sequence[Job]) -> list[tuple[Job, dict[str, Any]]]:
    return [(job, job.folder.environment) for job in jobs if job.folder.state_or_none == "finished"]


def _data_now(jobs: Sequence[Job]) -> dict[str, str]:
    """The digests of the local files of all runs, each data set looked at once."""
    from nmtrain.training.loading import input_digests

    digests: dict[str, str] = {}
    seen: list[Any] = []
    for job in jobs:
        if (key := (job.config.data, job.config.model)) not in seen:
            seen.append(key)
            digests |= input_digests(job.config)
    return digests


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _NAMED else [*lines[:_NAMED], f"and {len(lines) - _NAMED} more"]
