"""Hydra's part: from command-line overrides to the plain nested dicts that `check_config` takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import nmtrain.conf
from nmtrain.config import ConfigError

_CONF = Path(next(iter(nmtrain.conf.__path__)))


def groups() -> dict[str, dict[str, str]]:
    """Every config group and its options, each with the first line of its file's comment."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(_CONF.glob("*/*.yaml")):
        comments = [line for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line]
        found.setdefault(path.parent.name, {})[path.stem] = comments[0].removeprefix("# ") if comments else ""
    return found


def prepare_overrides(arguments: list[str]) -> list[str]:
    """Check the choices of groups, and let every other key through to `check_config`, which lists all faults together.

    Hydra itself would stop at the first unknown key; ``++`` makes it accept them.

    Raises:
        ConfigError: for overrides that cannot be read and for choices that do not exist.
    """
    overrides, faults, choices = [], [], groups()
    for argument in arguments:
        try:
            (override,) = OverridesParser.create().parse_overrides([argument])
        except HydraException:
            faults.append(f"{argument}: is not of the form key=value; see nmtrain --help")
            continue
        key = override.key_or_group
        if key in choices and override.package is None:
            faults += [
                f"{key}={choice}: there is no such {key}. Available: {list(choices[key])}{_near(choice, choices[key])}"
                for choice in _choices(override)
                if choice not in choices[key]
            ]
            overrides.append(argument)
        elif argument.startswith(("+", "~")) or key.startswith("hydra"):
            overrides.append(argument)
        else:
            overrides.append(f"++{argument}")
    if faults:
        raise ConfigError(faults)
    return overrides


def _choices(override: Override) -> list[str]:
    """The choices of a group, one or the several of a sweep."""
    if override.is_delete():
        return []
    if override.is_sweep_override():
        return [str(choice) for choice in override.sweep_string_iterator()]
    return [str(override.value())]


def _near(name: str, known: dict[str, str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def compose_values(overrides: list[str]) -> dict[str, Any]:
    """The resolved config of one run. Raises ConfigError for what Hydra or OmegaConf refuse."""
    with initialize_config_module("nmtrain.conf", version_base="1.3"):
        try:
            return plain(compose("config", overrides=overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(str(error).splitlines()[:1]) from error


def plain(config: DictConfig) -> dict[str, Any]:
    """A resolved plain dict, without what only composition needs."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key not in ("hydra", "experiment")}


def sweep_combinations(overrides: list[str]) -> Iterator[list[str]]:
    """The overrides of each run of a sweep, as Hydra's basic sweeper splits them."""
    kept = [override for override in overrides if not override.lstrip("+~").startswith("hydra")]
    for batch in BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(kept), max_batch_size=None):
        yield from (list(job) for job in batch)


def run_hydra(arguments: list[str], task: Callable[[dict[str, Any]], Any]) -> None:
    """Hand the command line to Hydra: sweeps, launchers, --cfg and completion are its own. ``task`` runs each job."""

    @hydra.main(version_base="1.3", config_path="pkg://nmtrain.conf", config_name="config")
    def job(config: DictConfig) -> None:
        task(plain(config))

    sys.argv = ["nmtrain", *arguments]
    job()
