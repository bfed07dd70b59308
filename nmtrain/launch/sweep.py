"""Sweeps: every combination checked before the first one trains, by Hydra's launchers, one summary in the end."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from nmtrain.config.check import Config
from nmtrain.config.compose import compose_values, key_of, settings_of_all, sweep_combinations, varied_settings
from nmtrain.errors import ConfigError, SweepError
from nmtrain.launch.cluster import launcher_overrides
from nmtrain.launch.grid import Job, in_order, keep_sweep
from nmtrain.launch.job import checked, require_measured
from nmtrain.launch.running import train_jobs
from nmtrain.launch.search import is_search, run_search
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
    why_not_chosen,
    with_values,
)
from nmtrain.report.compare.table import plain_text
from nmtrain.runs.tuning import FOLDER, TunedCell, Tuning


def run_sweep(overrides: list[str]) -> None:
    """Check every combination, then train one after the other, or as the launcher does it.

    Combinations of one run folder are one run: only the first of them trains. With ``tune``, tuning runs come first;
    with Optuna's sweeper, it says which combinations there are, one after the other.

    Raises:
        ConfigError: listing the faults of all combinations; nothing was started.
        SweepError: naming the runs that did not finish; the others did.
    """
    if is_search(overrides):
        run_search(overrides)
        return
    configs = _check_all(overrides)
    if (tune := _tune_of(configs)) is None:
        unfinished = _run_all(overrides, _jobs(sweep_combinations(overrides), configs))
    else:
        unfinished = _run_tuned(overrides, tune)
    if unfinished:
        raise SweepError("\n".join(unfinished))


def _tune_of(configs: list[Config]) -> Tune | None:
    """What the sweep tunes, which is the same for all its runs. Raises ConfigError."""
    given = [config.values.get("tune") for config in configs]
    if any(tune != given[0] for tune in given):
        raise ConfigError(["tune: is not the same in all runs of the sweep; give it once"])
    return None if given[0] is None else parse_tune(given[0])


def _run_tuned(overrides: list[str], tune: Tune) -> list[str]:
    """The tuning runs; then, for each recipe and pattern, the final ones with the values that were best.

    Returns:
        lines that name what did not finish, and for what nothing could be chosen; the others went on.
    """
    trying, ending = trial_overrides(overrides, tune), final_overrides(overrides)
    trials, finals = _check_all(trying), _check_all(ending)
    cells = in_parts(trials, len(tune.points) * len(tune.seeds))
    check_effect(tune, cells)
    check_seeds(tune, finals)
    print("tuning on validation:", end="\n" if trials[0].dry_run else " ", flush=True)
    faults = _run_all(trying, _jobs(sweep_combinations(trying), trials), tuning=True, part="tuning")
    seeds = len(finals) // len(cells)
    if trials[0].dry_run:
        count = len({config.run_folder for config in finals})
        print(f"then the final runs with the best values, scored on {finals[0].split}: {count}")
        return []
    chosen = [choose(tune, cell, varied) for cell, varied in zip(cells, _varied(trying, len(cells[0])), strict=True)]
    name = _sweep_name(overrides, [config.run_folder for config in (*trials, *finals)])
    faults += [why_not_chosen(own) for own, cell in zip(cells, chosen, strict=True) if cell.best is None]
    combinations: list[list[str]] = []
    configs: list[Config] = []
    once: dict[str, TunedCell] = {}  # a dense cell stands once for all patterns
    for cell, own in zip(chosen, in_parts(sweep_combinations(ending), seeds), strict=True):
        best = [] if cell.best is None else [with_values(combination, cell.best.values) for combination in own]
        finals = [checked(compose_values(combination)) for combination in best]
        once[str(cell.trials)] = replace(cell, finals=[config.run_name for config in finals])
        combinations += best
        configs += finals
    tuning = Tuning(tune.grid, tune.seeds, list(once.values()))
    tuning.write(trials[0].results_dir / FOLDER / f"{name}.json")
    from nmtrain.report.compare.tuning import tuning_table  # by now pandas is no wait any more

    print(f"\n{plain_text(tuning_table(tuning))}\n")
    if configs:
        print(f"final runs on {configs[0].split}: ", end="")
        faults += _run_all(ending, _jobs(combinations, configs), part="tuned")
    return faults


def _varied(overrides: list[str], size: int) -> list[list[str]]:
    """What tells each cell from the others, beside recipe and pattern; a cell has ``size`` combinations."""
    firsts = sweep_combinations(overrides)[::size]
    common = set.intersection(*map(set, firsts))
    return [
        [part.lstrip("+") for part in first if part not in common and key_of(part) not in COMPARED] for first in firsts
    ]


def _run_all(overrides: list[str], combinations: list[Job], tuning: bool = False, part: str = "") -> list[str]:
    """Train all of a checked sweep, and show what came out.

    Args:
        overrides: of the line.
        tuning: the runs choose values; one that diverged has done its part.
        part: see `keep_sweep`.

    Returns:
        how many runs did not finish, and a line for each; nothing where all did.

    Raises:
        ConfigError: as `keep_sweep` and `launcher_overrides`.
    """
    first: dict[Path, Job] = {}
    for job in combinations:
        first.setdefault(job.config.run_folder, job)
    jobs, config = in_order(list(first.values())), combinations[0].config
    if config.dry_run:  # nothing to hand to a launcher
        from nmtrain.launch.costs import show_costs

        keep_sweep(overrides, jobs, part)
        show_costs(jobs, len(combinations))
        return []
    fixed = settings_of_all(overrides)
    fixed += launcher_overrides(config.cluster, fixed, config.results_dir)
    keep_sweep(overrides, jobs, part)
    count = f"{len(jobs)} run{'s' if len(jobs) > 1 else ''}"
    print(count + (f" ({len(combinations)} combinations)" if len(combinations) > len(jobs) else ""))
    unfinished = train_jobs(jobs, fixed, _sweep_name(overrides, list(first)), tuning)
    if not tuning and len(unfinished) < len(jobs):
        _show(list(first))
    return [f"{len(unfinished)} of {len(jobs)} runs did not finish", *unfinished] if unfinished else []


def _jobs(combinations: list[list[str]], configs: list[Config]) -> list[Job]:
    """All combinations; the noise of dense runs is measured by the masks of all patterns they stand beside.

    The sweep's patterns are those of the same model and data; `measure.patterns` that is given stays.
    """
    patterns: dict[tuple[str, str], dict[str, None]] = {}
    for config in configs:
        patterns.setdefault((config.model.name, config.data["name"]), {})[str(config.sparsity)] = None
    jobs = []
    for combination, config in zip(combinations, configs, strict=True):
        beside = list(patterns[config.model.name, config.data["name"]])
        measured = config.is_dense and config.measure.every is not None and not config.measure.patterns
        if measured and len(beside) > 1:
            combination = with_values(combination, {"measure.patterns": beside})
            config = checked(compose_values(combination))
        jobs.append(Job(combination, config))
    return jobs


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


def _show(folders: list[Path]) -> None:
    """The main table of the sweep's runs, and the command that makes the whole report of them."""
    from nmtrain.launch.terminal import report_command
    from nmtrain.report import closing_table

    print(f"\n{closing_table(folders)}\n\nreport: {report_command(folders[0])}")
