"""What was loaded from outside: who provides which name, what the run folder records of it, where its errors are.

`launch/plugins.py` finds and loads it; the registries of recipes, data and models enter names by `enter`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nmtrain.errors import PluginError

_NAME = re.compile(r"\w[\w.+-]*")  # what a file, a run folder and a sweep can be named after

_TAKEN = re.compile(r"Overwriting (\S+) in registry")  # what timm warns of


@dataclass(eq=False)
class Plugin:
    """A Python file of a folder that --plugins names, or an installed package.

    Args:
        file: of a folder's file.
        module: what the names of its modules begin with.
        origin: what messages and `nmtrain list` call it: ``my_folder/mine.py``, ``package my-sparse 0.3``.
        hash: of the file, or of all files of the package that were imported.
        provides: ``recipe mine``, ``data mine``, ``model mine``.
    """

    name: str
    version: str | None
    file: Path | None
    module: str
    origin: str
    hash: str = ""
    provides: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Its entry in environment.json."""
        source = {"package": self.module} if self.file is None else {"file": str(self.file)}
        return {"name": self.name, "version": self.version, **source, "hash": self.hash, "provides": self.provides}

    def yaml(self, group: str, name: str) -> Path:
        """The file that makes what it provides an option of a config group."""
        conf = Path(self.module, "conf") if self.file is None else shown(self.file.parent)
        return conf / group / f"{name}.yaml"


LOADED: list[Plugin] = []
_loading: list[Plugin] = []  # the innermost last: a plug-in may import another


@contextmanager
def loading(plugin: Plugin) -> Iterator[None]:
    """What is registered meanwhile is this plug-in's; models that it registers with timm itself too."""
    if plugin not in LOADED:
        LOADED.append(plugin)
    _loading.append(plugin)
    try:
        yield
    finally:
        _loading.pop()
    timm: Any = sys.modules.get("timm")
    for name in timm.list_models() if timm else ():
        module = timm.model_entrypoint(name).__module__
        if f"{module}.".startswith(f"{plugin.module}.") and f"model {name}" not in plugin.provides:
            plugin.provides.append(f"model {name}")


@contextmanager
def told(what: str, root: str) -> Iterator[None]:
    """Whatever goes wrong while a plug-in is loaded becomes one line with file and line.

    Args:
        what: names the plug-in where the error has no line in it.
        root: what the names of its modules begin with.

    Raises:
        PluginError: for all that is raised inside, an exit of the interpreter too.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", _TAKEN.pattern, module=re.escape(root))
            yield
    except (Exception, SystemExit) as error:
        raise PluginError(f"{place(error) or what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return str(error)
    if taken := _TAKEN.match(str(error)):
        return f"model {taken[1]}: the name is taken by timm; choose another"
    first, *_ = (error.msg if isinstance(error, SyntaxError) else str(error)).splitlines() or [""]
    return f"{type(error).__name__}: {first}".removesuffix(": ")


def enter(kind: str, name: Any, thing: Any, registry: dict[str, Any], ours: Iterable[str] = ()) -> None:
    """Put what is registered into its registry; a second time is fine (by its decorator, and by an entry point).

    Args:
        ours: names that are taken beside those of the registry.

    Raises:
        PluginError: for a name that cannot be one, and for one that is taken; the message says by whom.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(f"{kind} {name!r}: is no name; allowed: letters, digits, and _ . + - after the first")
    if registry.get(name) is thing:
        return
    if name in registry or name in ours:
        owner = provider(kind, name)
        raise PluginError(
            f"{kind} {name}: the name is taken by {owner.origin if owner else 'nmtrain itself'}; choose another"
        )
    registry[name] = thing
    if _loading:
        _loading[-1].provides.append(f"{kind} {name}")


def provider(kind: str, name: str) -> Plugin | None:
    """The plug-in that a name is from; None for our own and for unknown ones."""
    return next((plugin for plugin in LOADED if f"{kind} {name}" in plugin.provides), None)


def missing_plugin(
    values: Mapping[str, Any], environment: Mapping[str, Any], known: Mapping[str, Collection[str]]
) -> str | None:
    """A line for the first of a run's recipe, data and model that was from a plug-in which is not loaded now.

    Args:
        values, environment: the contents of its config.yaml and environment.json.
        known: the names there are by kind: what a plug-in provided may have become ours.
    """
    for kind, name, recorded in _used(values, environment):
        if provider(kind, name) is None and name not in known[kind]:
            called = " ".join(filter(None, [recorded.get("name"), recorded.get("version")]))
            file = recorded.get("file")
            remedy = (
                f"give --plugins {shlex.quote(str(Path(file).parent))} (or where it is now)" if file else "install it"
            )
            return f"its {kind}={name} is of the plug-in {called}, which is not loaded; {remedy}"
    return None


def changed_plugins(values: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    """A line for each plug-in that a run used and that is not as it was then."""
    used = [(provider(kind, name), recorded) for kind, name, recorded in _used(values, environment)]
    changed = {now.origin for now, recorded in used if now is not None and now.hash != recorded.get("hash")}
    return [f"{origin} is not what this run was trained with" for origin in sorted(changed)]


def _used(values: Mapping[str, Any], environment: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for kind in ("recipe", "data", "model"):
        name = (values.get(kind) or {}).get("name")
        for recorded in environment.get("plugins") or ():
            if f"{kind} {name}" in recorded.get("provides", ()):
                yield kind, str(name), recorded


def place(error: BaseException) -> str | None:
    """``my_folder/mine.py, line 3``, where an error comes out of a plug-in; None for all others."""
    roots = {plugin.module.partition(".")[0] for plugin in LOADED}
    frames = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] in roots
    ]
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        frames.append((Path(error.filename), error.lineno or 1))
    return f"{shown(frames[-1][0])}, line {frames[-1][1]}" if frames else None


def in_plugin(error: BaseException) -> str:
    """What a message adds to an error that comes out of a plug-in, nothing to others."""
    where = place(error)
    return f" ({where})" if where else ""


def shown(path: Path) -> Path:
    """A path as short as it can be read from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(os.getcwd()) else path


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
