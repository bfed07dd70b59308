"""A search in place of a grid: ``nmtrain -m hydra/sweeper=optuna 'optim.lr=tag(log,interval(3e-4,3e-2))'``.

Optuna asks for runs by what earlier ones came to on validation. Its sampler has a seed, and a finished run is not
repeated, so that the same line asks for the same runs and goes on where it was, and one with more trials extends it.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer

from nmtrain.config.check import Config
from nmtrain.config.compose import compose_values, key_of, settings_of_all, varied_settings
from nmtrain.config.faults import written
from nmtrain.errors import ConfigError, SweepError
from nmtrain.launch.cluster import launcher_overrides
from nmtrain.launch.grid import Job, keep_sweep
from nmtrain.launch.job import checked, log_to_terminal
from nmtrain.launch.running import train_jobs
from nmtrain.report.read.headline import headline_of
from nmtrain.report.read.split import metrics_on

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

logger = logging.getLogger(__name__)
_CHOICE, _OPTIONS = "hydra/sweeper=optuna", "hydra.sweeper."
_DEFAULTS = {"n_trials": 20, "n_jobs": 1, "seed": 0}
_HYDRA = ("hydra", "hydra/sweeper", "hydra/launcher")
_SHOWN = 5  # best trials, in the end
ConfigStore.instance().store("optuna", _DEFAULTS | {"params": None}, group="hydra/sweeper", provider="nmtrain")


def is_search(overrides: Sequence[str]) -> bool:
    """Whether the line of a sweep asks for a search."""
    return _CHOICE in overrides


@dataclass(frozen=True)
class _Score:
    """What a trial came to.

    Args:
        gain: larger where it is better.
        told: its metric, what was searched, and its run.
    """

    gain: float
    told: str


def run_search(overrides: list[str]) -> None:
    """Train the runs that Optuna asks for, and show which were best.

    Raises:
        ConfigError: before anything is trained. Where later trials are refused, that is told, and they count as failed.
        SweepError: naming the runs that did not finish. One that diverged has said what it could.
    """
    options, space = _options(overrides), _space(overrides)
    log_to_terminal()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=options["seed"]))
    count, scores, unfinished = options["n_trials"], [], []
    while (begun := len(study.trials)) < count:
        trials = [study.ask(space) for _ in range(min(options["n_jobs"], count - begun))]
        jobs = _jobs(trials, overrides, first=begun == 0)
        if jobs and next(iter(jobs.values())).config.dry_run:
            _show_costs(study, space, overrides, jobs, count)
            return
        unfinished += _train(list(jobs.values()), overrides) if jobs else []
        for trial in trials:
            job = jobs.get(trial.number)
            if job is None or job.folder.diverged:  # worse than all others; of a failure nothing would be learnt
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            elif (score := _score(trial, job)) is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, score.gain)
                scores.append(score)
                print(f"trial {trial.number + 1} of {count}: {score.told}")
    print("\nbest on validation:")
    for score in sorted(scores, key=lambda score: -score.gain)[:_SHOWN]:
        print(f"  {score.told}")
    if unfinished:
        raise SweepError("\n".join([f"{len(unfinished)} of {count} runs did not finish", *unfinished]))


def _options(overrides: list[str]) -> dict[str, Any]:
    """What the line says of ``hydra.sweeper``. Raises ConfigError, also where Optuna is missing."""
    faults, options = [], dict(_DEFAULTS)
    if importlib.util.find_spec("optuna") is None:
        faults.append(f"{_CHOICE}: needs Optuna; pip install 'nmtrain[optuna]'")
    for override in _parsed([each for each in overrides if each.startswith(_OPTIONS)]):
        key, value = override.key_or_group.removeprefix(_OPTIONS), override.value()
        if key == "params":  # of an experiment; its axes stand in the line by now
            continue
        if key not in options:
            faults.append(f"{_OPTIONS}{key}: there is no such key. Available: {list(options)}")
        elif type(value) is not int or value < (key != "seed"):
            faults.append(f"{_OPTIONS}{key}={written(value)}: must be a whole number from {int(key != 'seed')} on")
        else:
            options[key] = value
    if not varied_settings(overrides):
        faults.append(f"{_CHOICE}: there is nothing to search; give several values, or KEY=interval(FROM,TO)")
    faults += [
        f"{axis}: is no value to search; give one seed" for axis in varied_settings(overrides) if key_of(axis) == "seed"
    ]
    if faults:
        raise ConfigError(faults)
    return options


def _space(overrides: list[str]) -> dict[str, BaseDistribution]:
    """What Optuna chooses from, by what stands before the ``=`` of an override. Raises ConfigError."""
    space, faults = {}, []
    for override in filter(Override.is_sweep_override, _parsed(overrides)):
        key = str(override.input_line).partition("=")[0]
        try:
            space[key] = _distribution(override)
        except ValueError as error:  # a logarithm from 0 on, an empty interval
            faults.append(f"{str(override.input_line).lstrip('+')}: {error}")
    if faults:
        raise ConfigError(faults)
    return space


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low or 0), float(high or 0), log=log)
    if isinstance(value, RangeSweep) and not value.shuffle:
        values = sorted(value.range())
        if isinstance(values[0], int):
            return IntDistribution(values[0], int(values[-1]), step=abs(int(value.step)))
        return FloatDistribution(float(values[0]), float(values[-1]), step=abs(float(value.step)))
    return CategoricalDistribution([str(one) for one in override.sweep_iterator(transformer=Transformer.encode)])


def _parsed(overrides: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _chosen(trial: Trial) -> list[str]:
    """The overrides of a trial that are its own."""
    values = trial.params.items()
    return [f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in values]


def _jobs(trials: Sequence[Trial], overrides: list[str], first: bool) -> dict[int, Job]:
    """The runs of trials, by number. Raises ConfigError if one is refused at the ``first`` of them."""
    common = settings_of_all([each for each in overrides if key_of(each).partition(".")[0] not in _HYDRA])
    common += [each for each in overrides if key_of(each) == "hydra.searchpath"]
    jobs = {}
    for trial in trials:
        own = [*common, *_chosen(trial)]
        try:
            jobs[trial.number] = Job(own, _checked(own))
        except ConfigError as error:
            if first:
                raise
            logger.warning("trial %d is refused: %s", trial.number + 1, "; ".join(error.faults))
    return jobs


def _checked(overrides: list[str]) -> Config:
    from nmtrain.training.plan import shape_faults

    config = checked(compose_values(overrides))
    faults = shape_faults([config])
    if config.split != "val":
        faults.append(f"data.evaluate={config.split}: a search looks at validation only; leave it out")
    if config.values.get("tune") is not None:
        faults.append(f"tune={written(config.values['tune'])}: searches by itself; leave {_CHOICE} out")
    if faults:
        raise ConfigError(faults)
    return config


def _train(jobs: list[Job], overrides: list[str]) -> list[str]:
    """Train a batch; returns a line for each run that did not finish."""
    once = list({job.config.run_folder: job for job in jobs}.values())
    config = once[0].config
    fixed = [each for each in settings_of_all(overrides) if each != _CHOICE and not each.startswith(_OPTIONS)]
    fixed += launcher_overrides(config.cluster, fixed, config.results_dir)
    file = keep_sweep(overrides, once, part="search")
    return train_jobs(once, fixed, file.stem, tuning=True)


def _score(trial: Trial, job: Job) -> _Score | None:
    """None where the run did not finish."""
    if job.folder.state_or_none != "finished":
        return None
    summary = job.folder.read_json("summary.json")
    headline = headline_of(summary["headline"])
    value = metrics_on("val", summary["metrics"])[headline.name]
    settings = " ".join(each.lstrip("+") for each in _chosen(trial))
    told = f"{headline.label} {headline.text(value)}{headline.unit}, {settings} ({job.folder.name})"
    return _Score(headline.gain(value), told)


def _show_costs(
    study: Study, space: dict[str, BaseDistribution], overrides: list[str], jobs: dict[int, Job], count: int
) -> None:
    """Of as many trials as there are to be; those that training would lead to are others."""
    from nmtrain.launch.costs import show_costs

    rest = [study.ask(space) for _ in range(count - len(study.trials))]
    trials = [*jobs.values(), *_jobs(rest, overrides, first=False).values()]
    show_costs(list({job.config.run_folder: job for job in trials}.values()), count)
