"""Sweeps: every combination checked before the first one trains, by Hydra's launchers, one summary in the end."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from nmtrain.config.check import Config
from nmtrain.config.compose import compose_values, run_hydra, sweep_combinations, varied_settings
from nmtrain.errors import ConfigError, Stopped, SweepError
from nmtrain.launch.job import checked, log_to_terminal, run_job
from nmtrain.launch.plugins import load_plugins, plugin_folders
from nmtrain.runs.folder import RunFolder

logger = logging.getLogger(__name__)


def run_sweep(overrides: list[str]) -> None:
    """Check every combination, then train one after the other, or as the launcher does it.

    Combinations of one run folder are one run: only the first of them trains.

    Raises:
        ConfigError: listing the faults of all combinations; nothing was started.
        SweepError: naming the runs that did not finish; the others did.
    """
    configs = _check_all(overrides)
    first: dict[Path, int] = {}
    for number, config in enumerate(configs):
        first.setdefault(config.run_folder, number)
    if all(config.dry_run for config in configs):  # nothing to hand to a launcher
        for number in first.values():
            run_job(configs[number])
        return
    count = f"{len(first)} run{'s' if len(first) > 1 else ''}"
    print(count + (f" ({len(configs)} combinations)" if len(configs) > len(first) else ""))
    repeats = {number: config.run_folder for number, config in enumerate(configs) if number not in first.values()}
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # the exception itself instead of Hydra's report of it
    try:
        job = partial(_sweep_job, plugin_folders(), repeats, _sweep_name(overrides, list(first)))
        run_hydra(["-m", *overrides], job)
    except Exception as error:
        unfinished = [line for number in first.values() for line in _why_unfinished(configs[number])]
        if not unfinished:
            raise
        count = f"{len(unfinished)} of {len(first)} runs did not finish"
        raise SweepError("\n".join([count, *unfinished])) from error
    _show(list(first))


def _check_all(overrides: list[str]) -> list[Config]:
    faults: list[str] = []
    configs: list[Config] = []
    for combination in sweep_combinations(overrides):
        try:
            configs.append(checked(compose_values(combination)))
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if not faults:
        from nmtrain.training.plan import shape_faults

        faults = shape_faults(configs)
    if faults:
        raise ConfigError(faults)
    return configs


def _sweep_name(overrides: list[str], folders: list[Path]) -> str:
    """What varies, readable, and a hash of the names of all runs: the same again when the sweep is resumed."""
    varied = re.sub(r"[^\w.=,-]+", "_", "-".join(varied_settings(overrides)).replace(":", "of"))
    names = "\n".join(sorted(folder.name for folder in folders))
    return f"{varied[:100] or 'sweep'}-{hashlib.blake2b(names.encode(), digest_size=4).hexdigest()}"


def _grouped(values: dict[str, Any], sweep: str) -> dict[str, Any]:
    """``values`` with the sweep as the group that wandb shows the run in, unless they name one."""
    tracking = values["tracking"]
    if tracking["name"] != "wandb" or tracking["group"] is not None:
        return values
    return values | {"tracking": tracking | {"group": sweep}}


def _sweep_job(
    plugins: list[str], repeats: dict[int, Path], sweep: str, values: dict[str, Any], number: int | None
) -> None:
    """A failed run of a sweep says so at once; Hydra goes on and raises its exception in the end.

    Args:
        plugins: the folders to load where a launcher runs this in a process of its own.
        repeats: the run folders of the jobs whose run another job trains, by their numbers.
    """
    load_plugins(plugins)
    config = checked(_grouped(values, sweep))
    if number is not None and repeats.get(number) == config.run_folder:
        return
    log_to_terminal()
    logger.info("\nrun %s: %s", number, config.run_name)
    try:
        run_job(config)
    except Stopped as stopped:
        raise KeyboardInterrupt(str(stopped)) from stopped  # Hydra takes an Exception for one run's failure
    except Exception as error:
        logger.error("%s did not finish: %s", config.run_name, error)
        raise


def _why_unfinished(config: Config) -> list[str]:
    folder = RunFolder(config.run_folder)
    status = folder.read_json("status.json") if (folder / "status.json").exists() else {"state": "not started"}
    if status["state"] == "finished":
        return []
    return [f"  {folder.path}: {status['state']}" + (f", {status['reason']}" if status.get("reason") else "")]


def _show(folders: list[Path]) -> None:
    """The main table of the sweep's runs, and the command that makes the whole report of them."""
    from nmtrain.launch.terminal import report_command
    from nmtrain.report import closing_table

    print(f"\n{closing_table(folders)}\n\nreport: {report_command(folders[0])}")
