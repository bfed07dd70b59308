"""Hydra's part: from command-line overrides to the plain nested dicts that `check_config` takes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env

from nmtrain.config.choices import CLAIMS, groups, near
from nmtrain.config.faults import written
from nmtrain.errors import ConfigError
from nmtrain.runs.loaded import provider

EVALUATION_KEYS = ("train.eval_batch_size", "train.device")  # beside those of data, what `nmtrain eval` may be told
_OF_HYDRA = re.compile(r"hydra([./]|$)")
_SEARCH_PATH = "hydra.searchpath"
RUN_NUMBER = "run_number"  # the one axis that Hydra's launchers see of a sweep
_AXES = "hydra.sweeper.params"
# What overrides and YAML files can make Hydra, OmegaConf and PyYAML raise.
_REFUSALS = (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, TypeError, RecursionError)
_SETTING = re.compile(r"[^=]+=")
_NO_SETTING = "is not of the form key=value"
# What Hydra reads outside of quotes: its own signs, and beyond them these only.
_SIGNS = set(",=()[]{}'\"\\$")
_PLAIN = re.compile(r"[A-Za-z0-9_\s:/\-+.%*@?|]")
_UNREADABLE = """\
the value cannot be read; close what is open, and quote what holds , = ~ ( ) [ ] { } or a quote: 'key="a,b"'"""


def prepare_overrides(arguments: list[str], sweep: bool = False) -> list[str]:
    """Check the choices of groups, and let every other key through to `check_config`, which lists all faults together.

    Hydra itself would stop at the first unknown key; ``++`` makes it accept them.

    Raises:
        ConfigError: for overrides that cannot be read and for choices that do not exist.
    """
    overrides: list[str] = []
    faults: list[str] = []
    read: list[tuple[str, Override]] = []
    with _initialized():
        for argument in map(_with_quotes, arguments):
            try:
                read.append((argument, _parser().parse_overrides([argument])[0]))
            except (HydraException, ValueError):
                faults.append(f"{argument}: {_why_unreadable(argument)}")
        choices = groups(_searched(override for _, override in read))
        for argument, override in read:
            key = override.key_or_group
            if not key:
                faults.append(f"{argument}: {_NO_SETTING}")
            elif override.package is not None:
                faults.append(f"{argument}: a group cannot be put elsewhere; write {key}=...")
            elif override.is_sweep_override() and not sweep:
                faults.append(f"{argument}: several values are a sweep; add -m")
            elif _OF_HYDRA.match(key):
                overrides.append(argument)
                if not sweep and key != _SEARCH_PATH:
                    faults.append(f"{argument}: has no effect without -m; nmtrain runs a single run itself")
            elif key in choices:
                faults += _choice_faults(key, override, choices[key])
                if argument.removeprefix("+") != "experiment=null":  # the default, which Hydra cannot be told
                    overrides.append(argument.removeprefix("+") if key in groups() else argument)
            elif key == CLAIMS:
                faults.append(f"{argument}: claims are what nmtrain report decides, and no setting of a run")
            elif "/" in key:
                faults.append(f"{argument}: there is no such group. Available: {list(choices)}{near(key, choices)}")
            else:
                overrides.append(argument if argument.startswith(("+", "~")) else f"++{argument}")
    if faults:
        raise ConfigError(faults)
    return overrides


def _with_quotes(argument: str) -> str:
    """The argument with its value in quotes where that alone makes it readable: ``rés``, ``a#b``, ``~/runs``."""
    key, equals, value = argument.partition("=")
    if set(value) & _SIGNS or all(map(_PLAIN.match, value)):
        return argument
    return f'{key}{equals}"{value}"'


def _why_unreadable(argument: str) -> str:
    if not _SETTING.match(argument):
        return _NO_SETTING
    foreign = [sign for sign in dict.fromkeys(argument.lstrip("~")) if sign not in _SIGNS and not _PLAIN.match(sign)]
    return _UNREADABLE + (f"; {' '.join(foreign)} can stand inside quotes only" if foreign else "")


def _choice_faults(group: str, override: Override, known: dict[str, str]) -> list[str]:
    """A line for each choice of a group, one or the several of a sweep, that does not exist."""
    if override.is_delete():
        return []
    try:
        chosen = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    except HydraException as error:
        return [f"{override.input_line}: {_first_line(error)}"]
    optional = (None,) if group == "experiment" and not override.is_sweep_override() else ()
    names = [choice if choice is None or isinstance(choice, bool) else str(choice) for choice in chosen]
    return [
        f"{group}={written(name)}: {_why_no_choice(group, name, known)}"
        for name in names
        if name not in known and name not in optional
    ]


def _why_no_choice(group: str, name: Any, known: dict[str, str]) -> str:
    if (plugin := provider(group, str(name))) is not None:
        return f"{plugin.origin} registers it, but its defaults are nowhere; write the file {plugin.yaml(group, name)}"
    return f"there is no such {group}. Available: {list(known)}{near(name, known)}"


def _searched(overrides: Iterator[Override]) -> list[Path]:
    """The folders of hydra.searchpath, for --config-dir."""
    found = [override.value() for override in overrides if override.key_or_group == _SEARCH_PATH]
    return [Path(str(path).removeprefix("file://")) for paths in found if isinstance(paths, list) for path in paths]


def search_path_override(folders: list[Path]) -> list[str]:
    """The override that makes Hydra look in ``folders`` too. Raises ConfigError for those that are none."""
    faults = [f"--config-dir={folder}: there is no such folder" for folder in folders if not folder.is_dir()]
    if faults:
        raise ConfigError(faults)
    quoted = ['"file://' + str(folder.resolve()).replace('"', r"\"") + '"' for folder in folders]
    return [f"{_SEARCH_PATH}=[{','.join(quoted)}]"] if folders else []


def search_in_everything(folders: list[Path]) -> None:
    """Make what Hydra runs by itself look in ``folders`` too: completion and --info, which take no such override."""

    class Folders(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in folders:
                search_path.append("nmtrain-plugins", f"file://{folder}")

    Plugins.instance().register(Folders)


_CREDENTIAL = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)


def _env(name: str, *default: Any) -> Any:
    """OmegaConf's ``${oc.env:NAME}``, but for credentials: a config is kept in its run's folder."""
    if _CREDENTIAL.search(name):
        raise ValueError(f"{name}: is a credential, which no config may hold")
    return env(name, *default)


OmegaConf.register_new_resolver("oc.env", _env, replace=True)


@contextmanager
def _initialized() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_module("nmtrain.conf", version_base="1.3"):
        yield


def _parser() -> OverridesParser:
    """With the loader, which ``glob(*)`` needs."""
    return OverridesParser.create(GlobalHydra.instance().config_loader())


def compose_values(overrides: list[str]) -> dict[str, Any]:
    """The resolved config of one run. Raises ConfigError for what Hydra or OmegaConf refuse."""
    with _initialized():
        try:
            config = compose("config", overrides=overrides)
        except _REFUSALS as error:
            raise ConfigError(_fault_lines(error)) from error
        return plain(config)


def _fault_lines(error: Exception) -> list[str]:
    """What Hydra, OmegaConf or YAML object to, without their advice on Hydra."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        return [f"{_first_line(error)}. Available: {list(error.options)}"]
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return [f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"]
    if isinstance(error, RecursionError):
        return ["the defaults or the anchors of a YAML file go in a circle"]
    if isinstance(error, UnicodeDecodeError):
        return [f"a YAML file is not UTF-8: {error}"]
    line = _first_line(error).replace("'++", "'")
    if line.startswith("Unsupported item value in defaults : bool"):
        return ["the defaults of a YAML file name true or false; quote the option: on, off, yes and no are bools"]
    if isinstance(error.__cause__, OmegaConfBaseException):
        cause = _first_line(error.__cause__)
        cause = cause.replace("Cannot merge DictConfig with ListConfig", "a section of keys and values is no list")
        line = f"{line.removeprefix('Error merging override ').lstrip('+')}: {cause}"
    return [line]


def _first_line(error: Exception) -> str:
    """The first line of a message, and the second one where the first ends in a colon."""
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return " ".join([first, *(rest[:1] if first.endswith(":") else ())]).rstrip(".")


def plain(config: DictConfig) -> dict[str, Any]:
    """A resolved plain dict with string keys.

    Raises:
        ConfigError: listing every interpolation that cannot be resolved and every value that is missing.
    """
    faults: list[str] = []
    values = _plain(config, "", faults)
    if faults:
        raise ConfigError(faults)
    assert isinstance(values, dict)
    return values


def _plain(node: Any, prefix: str, faults: list[str]) -> Any:
    if not isinstance(node, Container):
        return node
    keys: list[Any] = list(range(len(node))) if OmegaConf.is_list(node) else list(node)  # type: ignore[arg-type]
    values = []
    for key in keys:
        try:
            values.append(_plain(node[key], f"{prefix}{key}.", faults))
        except (OmegaConfBaseException, RecursionError) as error:
            raw: Any = OmegaConf.to_container(node, resolve=False)
            faults.append(f"{prefix}{key}={raw[key]}: {_first_line(error)}")
            values.append(None)
    return values if OmegaConf.is_list(node) else dict(zip(map(str, keys), values, strict=True))


def evaluation_overrides(arguments: list[str], folders: list[Path]) -> list[str]:
    """The settings of `nmtrain eval`, prepared and checked for what they may change.

    Args:
        folders: further ones with choices, of plug-ins.

    Raises:
        ConfigError: as `prepare_overrides`, and for keys that are the run's own.
    """
    search = search_path_override(folders)
    overrides = prepare_overrides([*search, *arguments], sweep=True)[len(search) :]
    faults = []
    with _initialized():
        parsed = _parser().parse_overrides(overrides)
    for override in parsed:
        key, argument = override.key_or_group, str(override.input_line).lstrip("+")
        if key == "data.name" or not (key.startswith("data.") or key in EVALUATION_KEYS):
            faults.append(f"{argument}: belongs to the run; eval takes data.KEY=VALUE, {' and '.join(EVALUATION_KEYS)}")
        elif override.is_sweep_override() or override.is_delete():
            faults.append(f"{argument}: eval takes one value")
    if faults:
        raise ConfigError(faults)
    return overrides


def overridden(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The values of a config with what `evaluation_overrides` gives put in. Raises ConfigError where that cannot be."""
    if not overrides:
        return values
    with _initialized():
        try:
            config = OmegaConf.create(values)
            for override in _parser().parse_overrides(overrides):
                OmegaConf.update(config, override.key_or_group, override.value())
        except _REFUSALS as error:
            raise ConfigError(_fault_lines(error)) from error
        return plain(config)


def sweep_combinations(overrides: list[str]) -> list[list[str]]:
    """The overrides of each run of a sweep, in the order of Hydra's basic sweeper, which numbers the runs by it.

    Raises:
        ConfigError: for settings of Hydra's own that it refuses, such as a launcher that does not exist.
    """
    of_hydra = [override for override in overrides if _OF_HYDRA.match(key_of(override))]
    search = [override for override in of_hydra if override.startswith(_SEARCH_PATH)]
    with _initialized():
        try:
            compose("config", overrides=of_hydra, return_hydra_config=True)
            parsed = _parser().parse_overrides([override for override in overrides if override not in of_hydra])
            (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        except _REFUSALS as error:
            raise ConfigError(_fault_lines(error)) from error
    return [[*search, *job] for job in jobs]


def with_axes(overrides: list[str]) -> list[str]:
    """The overrides of a sweep, and the axes that its experiment brings where these overrides do not name them.

    A file has its axes where Hydra's own sweeper looks for them: ``hydra: {sweeper: {params: {seed: "0,1"}}}``. That
    sweeper would take ``seed`` and ``++seed`` for two axes, so they go among the overrides, and it is told of none.

    Raises:
        ConfigError: for axes that cannot be read, and where several experiments are swept and one has axes.
    """
    axes = _own_axes(overrides)
    if not axes:
        return overrides
    search = [override for override in overrides if override.startswith(_SEARCH_PATH)]
    own = prepare_overrides([*search, *(f"{key}={value}" for key, value in axes.items())], sweep=True)[len(search) :]
    return [*own, *overrides, f"{_AXES}=null"]


def require_no_axes(overrides: list[str]) -> None:
    """Raises ConfigError if the experiment of a single run is a sweep over what these overrides do not name."""
    if axes := _own_axes(overrides):
        *_, experiment = (override for override in overrides if key_of(override) == "experiment")
        raise ConfigError([f"{experiment}: is a sweep over {', '.join(axes)}; add -m"])


def _own_axes(overrides: list[str]) -> dict[str, str]:
    """The axes that the experiment names and ``overrides`` do not, as the command line would have them."""
    given = {key_of(override) for override in overrides}
    if "experiment" not in given:
        return {}
    base = [override for override in overrides if _OF_HYDRA.match(key_of(override))]
    with _initialized():
        try:
            parsed = _parser().parse_overrides([o for o in overrides if key_of(o) == "experiment"])
            (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
            found = {}
            for (experiment,) in jobs:
                config = compose("config", overrides=[*base, experiment], return_hydra_config=True)
                found[experiment] = dict(OmegaConf.select(config, _AXES) or {})
        except _REFUSALS as error:
            raise ConfigError(_fault_lines(error)) from error
    if len(found) > 1 and any(found.values()):
        raise ConfigError([f"{one}: is a sweep by itself; give it alone" for one, axes in found.items() if axes])
    (axes,) = found.values() if len(found) == 1 else ({},)
    if lists := {key: written(list(value)) for key, value in axes.items() if isinstance(value, ListConfig)}:
        advice = "is no axis; write the values as on a command line"
        raise ConfigError([f'{_AXES}.{key}={value}: {advice}: "{value[1:-1]}"' for key, value in lists.items()])
    return {key: value for key, value in axes.items() if key not in given}


def key_of(override: str) -> str:
    """The key of a prepared override: ``optim.lr`` of ``++optim.lr=1e-3``."""
    return override.lstrip("+~").partition("=")[0]


def varied_settings(overrides: list[str]) -> list[str]:
    """The settings of a sweep that have several values, sorted: ``["recipe=dense,sdgf", "seed=0,1"]``."""
    own = [override for override in overrides if not _OF_HYDRA.match(key_of(override))]
    with _initialized():
        parsed = _parser().parse_overrides(own)
    return sorted(str(override.input_line).lstrip("+") for override in parsed if override.is_sweep_override())


def settings_of_all(overrides: list[str]) -> list[str]:
    """The overrides of a sweep that hold for all its runs, Hydra's own among them."""
    varied = {key_of(setting) for setting in varied_settings(overrides)}
    return [override for override in overrides if key_of(override) not in varied]


def run_hydra(arguments: list[str], task: Callable[[int], Any] | None = None) -> None:
    """Hand the command line to Hydra: launchers, --cfg and completion are its own.

    Args:
        task: runs each job of a sweep over `RUN_NUMBER`, and gets that number.
    """

    @hydra.main(version_base="1.3", config_path="pkg://nmtrain.conf", config_name="config")
    def job(config: DictConfig) -> None:
        if task is not None:
            task(config[RUN_NUMBER])

    before, sys.argv = sys.argv, ["nmtrain", *arguments]
    try:
        job()
    finally:
        sys.argv = before
