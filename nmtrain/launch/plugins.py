"""Recipes, models, data and YAML from outside: installed packages with entry points, and folders that a user names.

Nothing else is loaded: what a run folder asks for may come from anyone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from nmtrain.config.choices import groups
from nmtrain.errors import PluginError
from nmtrain.launch.plugin_files import import_files, python_files
from nmtrain.runs.loaded import LOADED, Plugin, digest, loading, provider, shown, told

VARIABLE = "NMTRAIN_PLUGINS"
_ENTRY_POINTS = ("nmtrain.recipes", "nmtrain.data", "nmtrain.models")  # named as the modules with their `register`
_FOLDERS: list[Path] = []
_CONF: dict[Path, str | None] = {}  # folders in the layout of conf/, and the packages that they are of


def load_plugins(named: Sequence[str]) -> None:
    """Load the installed packages, the folders of ``NMTRAIN_PLUGINS`` and the ``named`` ones; each of them once.

    What fails of a package is left out, and one line on stderr says so: whoever runs this command may not need it.

    Raises:
        PluginError: for folders that are none, and for what is wrong with the content of one.
    """
    folders = _folders(named)
    _load_packages()
    for folder in folders:
        if not any(folder.samefile(other) for other in _FOLDERS):
            _FOLDERS.append(folder)
            _add_conf(folder, None)
            import_files(folder)


def plugin_folders() -> list[str]:
    """The folders that are loaded, as another process can load them."""
    return list(map(str, _FOLDERS))


def conf_folders() -> list[Path]:
    """The folders in the layout of conf/ that plug-ins bring."""
    return list(_CONF)


def origin(group: str, option: str) -> str | None:
    """Where an option of a config group is from; None for our own."""
    if (plugin := provider(group, option)) is not None:
        return plugin.origin
    files = {folder / group / f"{option}.yaml": package for folder, package in _CONF.items()}
    return next((package or str(shown(file)) for file, package in files.items() if file.is_file()), None)


def without_yaml(choices: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str, Plugin]]:
    """What is registered and no choice yet: its group, its name, and the plug-in."""
    for plugin in LOADED:
        for provided in plugin.provides:
            group, _, name = provided.partition(" ")
            if name not in choices[group]:
                yield group, name, plugin


def _folders(named: Sequence[str]) -> list[Path]:
    """Those of the environment first. Raises PluginError listing all that cannot be."""
    given = [(VARIABLE, part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    given += [("--plugins", part) for part in named]
    faults, folders = [], []
    for source, text in given:
        folder = Path(os.path.abspath(Path(text).expanduser()))
        if not folder.exists():
            faults.append(f"{source}={text}: there is no such folder")
        elif not folder.is_dir():
            faults.append(f"{source}={text}: is not a folder; name the folder that it lies in")
        elif not python_files(folder) and not groups([folder], ours=False):
            faults.append(
                f"{source}={text}: holds nothing to load, neither Python files nor YAML in the layout of conf/, such as"
                " recipe/mine.yaml"
            )
        folders.append(folder)
    if faults:
        raise PluginError("\n".join(faults))
    return folders


def _add_conf(folder: Path, package: str | None) -> None:
    """Add the options that a folder holds to the choices. Raises PluginError where there are such already."""
    known = groups(_CONF)
    faults = [
        f"{shown(folder / group / f'{option}.yaml')}: {group}={option} is taken by"
        f" {origin(group, option) or 'nmtrain itself'}; choose another name"
        for group, options in groups([folder], ours=False).items()
        for option in options
        if option in known.get(group, ())
    ]
    if faults:
        raise PluginError("\n".join(faults))
    _CONF[folder] = package


@cache
def _load_packages() -> None:
    found: dict[tuple[str, str], Plugin] = {}  # by the names of distribution and package
    by_group = entry_points()
    for entry in [entry for group in _ENTRY_POINTS for entry in by_group.select(group=group)]:
        top = entry.module.partition(".")[0]
        name, version = (entry.dist.name, entry.dist.version) if entry.dist else (top, None)
        called = " ".join(filter(None, ["package", name, version]))
        plugin = found.setdefault((name, top), Plugin(name, version, None, top, called))
        try:
            with told(entry.value, top):
                _load_entry(entry, plugin)
            _add_conf_of(entry.module, called)
        except PluginError as error:
            where = f"{called}, entry point {entry.name} of {entry.group}"
            print(f"warning: {where}: {error}; it is left out", file=sys.stderr)
    for plugin in found.values():
        plugin.hash = digest(b"".join(file.read_bytes() for file in _imported_files(plugin.module)))
        if not plugin.provides:
            LOADED.remove(plugin)


def _load_entry(entry: EntryPoint, plugin: Plugin) -> None:
    """Register what an entry point names, unless its own module has done so."""
    with loading(plugin):
        thing = entry.load()
    if isinstance(thing, ModuleType):
        if not plugin.provides:
            raise PluginError(f"{entry.value} registers nothing")
    elif f"model {getattr(thing, '__name__', None)}" not in plugin.provides:  # it may have told timm
        with loading(plugin):
            import_module(entry.group).register(thing)


def _add_conf_of(module: str, package: str) -> None:
    """Add the folder conf/ of the package around a module, the innermost that has one."""
    around = [module.rsplit(".", levels)[0] for levels in range(module.count(".") + 1)]
    paths = [Path(path, "conf") for name in around for path in getattr(sys.modules[name], "__path__", ())]
    folder = next(filter(Path.is_dir, paths), None)
    if folder is not None and folder not in _CONF:
        _add_conf(folder, package)


def _imported_files(package: str) -> list[Path]:
    names = sorted(name for name in sys.modules if f"{name}.".startswith(f"{package}."))
    return [Path(file) for name in names if (file := getattr(sys.modules[name], "__file__", None))]
