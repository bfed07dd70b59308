"""Sweeps: every combination checked before the first one trains, by Hydra's launchers, one summary in the end."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nmtrain.config.check import Config
from nmtrain.config.compose import compose_values, key_of, run_hydra, sweep_combinations, varied_settings
from nmtrain.errors import ConfigError, Stopped, SweepError
from nmtrain.launch.job import checked, log_to_terminal, require_measured, run_job
from nmtrain.launch.plugins import load_plugins, plugin_folders
from nmtrain.launch.tuning import (
    COMPARED,
    Tune,
    check_effect,
    check_seeds,
    choose,
    final_overrides,
    in_parts,
    parse_tune,
    trial_overrides,
    with_values,
)
from nmtrain.report.compare.table import plain_text
from nmtrain.report.compare.tuning import tuning_table
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.tuning import FOLDER, Tuning

logger = logging.getLogger(__name__)


def run_sweep(overrides: list[str]) -> None:
    """Check every combination, then train one after the other, or as the launcher does it.

    Combinations of one run folder are one run: only the first of them trains. With ``tune``, tuning runs come first.

    Raises:
        ConfigError: listing the faults of all combinations; nothing was started.
        SweepError: naming the runs that did not finish; the others did.
    """
    configs = _check_all(overrides)
    if (tune := _tune_of(configs)) is None:
        _run_all(overrides, configs)
    else:
        _run_tuned(overrides, tune)


def _tune_of(configs: list[Config]) -> Tune | None:
    """What the sweep tunes, which is the same for all its runs. Raises ConfigError."""
    given = [config.values.get("tune") for config in configs]
    if any(tune != given[0] for tune in given):
        raise ConfigError(["tune: is not the same in all runs of the sweep; give it once"])
    return None if given[0] is None else parse_tune(given[0])


def _run_tuned(overrides: list[str], tune: Tune) -> None:
    """The tuning runs; then, for each recipe and pattern, the final ones with the values that were best."""
    trying, ending = trial_overrides(overrides, tune), final_overrides(overrides)
    trials, finals = _check_all(trying), _check_all(ending)
    cells = in_parts(trials, len(tune.points) * len(tune.seeds))
    check_effect(tune, cells)
    check_seeds(tune, finals)
    print("tuning on validation: ", end="", flush=True)
    _run_all(trying, trials, tuning=True)
    seeds = len(finals) // len(cells)
    if trials[0].dry_run:
        count = len({config.run_folder for config in finals})
        print(f"then the final runs with the best values, scored on {finals[0].split}: {count}")
        return
    chosen = [choose(tune, cell, varied) for cell, varied in zip(cells, _varied(trying, len(cells[0])), strict=True)]
    best = [cell.trials[cell.chosen].values for cell in chosen for _ in range(seeds)]
    combinations = zip(sweep_combinations(ending), best, strict=True)
    values = [compose_values(with_values(combination, tuned)) for combination, tuned in combinations]
    finals = [checked(one) for one in values]
    names = in_parts([config.run_name for config in finals], seeds)
    once = {str(found.trials): replace(found, finals=own) for found, own in zip(chosen, names, strict=True)}
    tuning = Tuning(tune.grid, tune.seeds, list(once.values()))  # a dense cell stands once for all patterns
    name = _sweep_name(overrides, [config.run_folder for config in trials])
    tuning.write(finals[0].results_dir / FOLDER / f"{name}.json")
    print(f"\n{plain_text(tuning_table(tuning))}\n\nfinal runs on {finals[0].split}: ", end="")
    _run_all(ending, finals, dict(enumerate(values)))


def _varied(overrides: list[str], size: int) -> list[list[str]]:
    """What tells each cell from the others, beside recipe and pattern; a cell has ``size`` combinations."""
    firsts = sweep_combinations(overrides)[::size]
    common = set.intersection(*map(set, firsts))
    return [
        [part.lstrip("+") for part in first if part not in common and key_of(part) not in COMPARED] for first in firsts
    ]


def _run_all(
    overrides: list[str], configs: list[Config], tuned: dict[int, dict[str, Any]] | None = None, tuning: bool = False
) -> None:
    """Train all of a checked sweep, and show what came out.

    Args:
        tuned: the values of each run by its number, where they are not those of ``overrides``.
        tuning: the runs choose values; one that diverged has done its part.
    """
    first: dict[Path, int] = {}
    for number, config in enumerate(configs):
        first.setdefault(config.run_folder, number)
    if all(config.dry_run for config in configs):  # nothing to hand to a launcher
        for number in first.values():
            run_job(configs[number])
        return
    count = f"{len(first)} run{'s' if len(first) > 1 else ''}"
    print(count + (f" ({len(configs)} combinations)" if len(configs) > len(first) else ""))
    idle = {
        number: config.run_folder
        for number, config in enumerate(configs)
        if number not in first.values() or (tuning and not config.force and _diverged(config))
    }
    changed = (tuned or {}) | ({} if tuning else _measured_at_all(configs))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # the exception itself instead of Hydra's report of it
    try:
        job = partial(_sweep_job, plugin_folders(), idle, changed, _sweep_name(overrides, list(first)))
        run_hydra(["-m", *overrides], job)
    except Exception as error:
        lost = [config for config in map(configs.__getitem__, first.values()) if not tuning or not _diverged(config)]
        unfinished = [line for config in lost for line in _why_unfinished(config)]
        if not unfinished and not tuning:
            raise
        if unfinished:
            count = f"{len(unfinished)} of {len(first)} runs did not finish"
            raise SweepError("\n".join([count, *unfinished])) from error
    if not tuning:
        _show(list(first))


def _measured_at_all(configs: list[Config]) -> dict[int, dict[str, Any]]:
    """The values of the dense runs, by number: their noise is measured by the masks of all patterns they stand beside.

    The sweep's patterns are those of the same model and data; `measure.patterns` that is given stays.
    """
    patterns: dict[tuple[str, str], dict[str, None]] = {}
    for config in configs:
        patterns.setdefault((config.model.name, config.data["name"]), {})[str(config.sparsity)] = None
    changed = {}
    for number, config in enumerate(configs):
        beside = list(patterns[config.model.name, config.data["name"]])
        if config.is_dense and config.measure.every is not None and not config.measure.patterns and len(beside) > 1:
            changed[number] = config.values | {"measure": config.values["measure"] | {"patterns": beside}}
    return changed


def _diverged(config: Config) -> bool:
    return RunFolder(config.run_folder).diverged


def _check_all(overrides: list[str]) -> list[Config]:
    faults: list[str] = []
    configs: list[Config] = []
    for combination in sweep_combinations(overrides):
        try:
            configs.append(checked(compose_values(combination)))
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if not faults:
        require_measured(configs)
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
    plugins: list[str],
    idle: dict[int, Path],
    changed: dict[int, dict[str, Any]],
    sweep: str,
    values: dict[str, Any],
    number: int | None,
) -> None:
    """A failed run of a sweep says so at once; Hydra goes on and raises its exception in the end.

    Args:
        plugins: the folders to load where a launcher runs this in a process of its own.
        idle: the run folders of the jobs that have nothing to train, by their numbers.
        changed: the values of jobs that take the place of Hydra's, by their numbers.
    """
    load_plugins(plugins)
    if number is not None:
        values = changed.get(number, values)
    config = checked(_grouped(values, sweep))
    if number is not None and idle.get(number) == config.run_folder:
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
