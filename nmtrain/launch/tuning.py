"""Tuning before a sweep: every (recipe, pattern) tries a grid on validation, and trains with what was best there."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nmtrain.config.check import Config
from nmtrain.config.choices import groups
from nmtrain.config.compose import key_of, prepare_overrides
from nmtrain.config.faults import written
from nmtrain.errors import ConfigError
from nmtrain.report.read.headline import DEFAULT, headline_of
from nmtrain.report.read.split import metrics_on
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.tuning import Trial, TunedCell

T = TypeVar("T")

SEED = 100  # of tuning runs, where `tune` names no other
COMPARED = ("recipe", "sparsity")  # what a sweep compares, and so cannot choose between


@dataclass(frozen=True)
class Tune:
    """What ``tune={KEY:[...],seed:[...]}`` says: the values to try by dotted key, and the seeds to try them with."""

    grid: dict[str, list[Any]]
    seeds: list[int]

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every combination, the last key varying fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


def parse_tune(given: Any) -> Tune:
    """The checked form of the config's ``tune``. Raises ConfigError."""
    faults: list[str] = []
    grid = _dotted(given) if isinstance(given, dict) else {}
    seeds = grid.pop("seed", [SEED])
    if not grid:
        faults.append(f"tune={written(given)}: must name keys and the values to try: tune={{optim.lr:[1e-3,3e-3]}}")
    for key, values in grid.items():
        distinct = {json.dumps(value, sort_keys=True) for value in values} if isinstance(values, list) else set()
        if key in COMPARED:
            faults.append(f"tune.{key}={written(values)}: is what a sweep compares; tune another key")
        elif key == "data.evaluate":
            faults.append(f"tune.{key}={written(values)}: tuning looks at validation only; tune another key")
        elif key in ("train.epochs", "train.updates", "train.flops"):
            faults.append(f"tune.{key}={written(values)}: is what runs are compared at; tune another key")
        elif key.partition(".")[0] == "measure":
            faults.append(f"tune.{key}={written(values)}: changes nothing about a result; tune another key")
        elif len(distinct) < 2 or len(distinct) < len(values):
            faults.append(f"tune.{key}={written(values)}: must be a list of two or more different values")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        faults.append(f"tune.seed={written(seeds)}: must be a list of seeds, whole numbers from 0 on")
    elif len(set(seeds)) < len(seeds):
        faults.append(f"tune.seed={written(seeds)}: names a seed more than once")
    if faults:
        raise ConfigError(faults)
    return Tune(grid, seeds)


def _dotted(given: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"optim": {"lr": [1]}}`` and ``{"optim.lr": [1]}`` are the same."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def trial_overrides(overrides: Sequence[str], tune: Tune) -> list[str]:
    """The sweep of all tuning runs: that of ``overrides`` over the grid and the tuning seeds, which vary fastest.

    Nothing shows their noise, so they measure none.
    """
    axes = [f"{key}={','.join(_value(key, value) for value in values)}" for key, values in tune.grid.items()]
    axes.append(f"seed={','.join(map(str, tune.seeds))}")
    own = _without(overrides, "seed", "data.evaluate", "tune", "measure.every", "measure.patterns")
    if repeated := [key for override in own if (key := key_of(override)) in tune.grid]:
        raise ConfigError([f"{key}: is given and tuned; leave one of them out" for key in repeated])
    unmeasured = ["measure.every=null", "measure.patterns=null"]
    return [*own, *prepare_overrides(["data.evaluate=val", "tune=null", *unmeasured, *axes], sweep=True)]


def final_overrides(overrides: Sequence[str]) -> list[str]:
    """The sweep of the final runs, scored on test unless ``overrides`` say otherwise; seeds vary fastest."""
    last = [override for override in overrides if key_of(override) in ("seed", "data.evaluate")]
    if not any(key_of(override) == "data.evaluate" for override in last):
        last.append("++data.evaluate=test")
    return [*_without(overrides, "seed", "data.evaluate", "tune"), "++tune=null", *last]


def with_values(combination: Sequence[str], values: dict[str, Any]) -> list[str]:
    """The overrides of one run with the tuned ``values``."""
    return [*combination, *prepare_overrides([f"{key}={_value(key, value)}" for key, value in values.items()])]


def _without(overrides: Sequence[str], *keys: str) -> list[str]:
    return [override for override in overrides if key_of(override) not in keys]


def _value(key: str, value: Any) -> str:
    """As an override has it; Hydra takes the choice of a group without quotes only."""
    return str(value) if key in groups() else json.dumps(value)


def check_effect(tune: Tune, cells: Sequence[Sequence[Config]]) -> None:
    """Raises ConfigError for a key that changes no run, whatever the other keys are.

    Args:
        cells: the tuning runs of each cell.
    """
    named = [[config.run_name for config in cell[:: len(tune.seeds)]] for cell in cells]
    faults = [
        f"tune.{key}={written(values)}: changes nothing about a result; tune another key"
        for key, values in tune.grid.items()
        if not any(_tells(key, tune.points, names) for names in named)
    ]
    if faults:
        raise ConfigError(faults)


def _tells(key: str, points: list[dict[str, Any]], names: list[str]) -> bool:
    """Whether two points that differ in ``key`` alone are two runs."""
    rest = [{other: value for other, value in point.items() if other != key} for point in points]
    pairs = itertools.combinations(zip(rest, names, strict=True), 2)
    return any(one_name != other_name for (one, one_name), (other, other_name) in pairs if one == other)


def check_seeds(tune: Tune, finals: Sequence[Config]) -> None:
    """Raises ConfigError where a final run has a seed that chose its values."""
    shared = sorted({config.seed for config in finals} & set(tune.seeds))
    if shared:
        raise ConfigError(
            [f"seed={seed}: is a seed of tuning too, which must not judge; tune={{...,seed:[...]}}" for seed in shared]
        )


def choose(tune: Tune, trials: Sequence[Config], varied: list[str]) -> TunedCell:
    """What was best of one cell's tuning runs: the best mean on validation, the first of equals.

    Nothing is chosen where a run is neither finished nor diverged, since repeated it might be the best, and where all
    diverged.

    Args:
        trials: by point of the grid, then by seed.
        varied: what of the command line tells this cell from the others, beside recipe and pattern.
    """
    first = trials[0]
    headline = DEFAULT
    scores: list[float | None] = []
    for folder in (RunFolder(config.run_folder) for config in trials):
        if folder.state_or_none != "finished":
            scores.append(None)
            continue
        summary = folder.read_json("summary.json")
        headline = summary.get("headline", DEFAULT)
        scores.append(metrics_on("val", summary["metrics"]).get(headline))
    names = [config.run_name for config in trials]
    parts = zip(tune.points, in_parts(names, len(tune.seeds)), in_parts(scores, len(tune.seeds)), strict=True)
    tried = [Trial(*part) for part in parts]
    gains = [-math.inf if trial.score is None else headline_of(headline).gain(trial.score) for trial in tried]
    chosen = gains.index(max(gains)) if _ended(trials) and max(gains) > -math.inf else None
    pattern = None if first.is_dense else str(first.sparsity)
    named = first if chosen is None else trials[chosen * len(tune.seeds)]  # its decay may be what was tuned
    return TunedCell(named.recipe.variant, pattern, varied, headline, tried, chosen, [])


def why_not_chosen(trials: Sequence[Config]) -> str:
    """What to do about a cell of which `choose` chose nothing."""
    name = f"{trials[0].recipe.variant} at {trials[0].sparsity}"
    if _ended(trials):
        return f"every value tried for {name} diverged; tune other values"
    return f"no value was chosen for {name}, of which a tuning run did not finish; the same line goes on"


def _ended(trials: Sequence[Config]) -> bool:
    folders = [RunFolder(config.run_folder) for config in trials]
    return all(folder.state_or_none == "finished" or folder.diverged for folder in folders)


def in_parts(items: Sequence[T], size: int) -> list[list[T]]:
    """Consecutive parts of ``size``."""
    return [list(items[first : first + size]) for first in range(0, len(items), size)]
