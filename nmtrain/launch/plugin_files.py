"""The Python files of one folder as plug-ins: under names of their own, and with their neighbours at hand."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from nmtrain.runs.loaded import Plugin, digest, loading, shown, told

_FILES: dict[str, Path] = {}  # by the names of their modules


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.is_file() and not path.name.startswith("."))


def import_files(folder: Path) -> None:
    """Run every Python file of an absolute folder once, in order, each as a module of a package named for the folder.

    Two folders may so both have a ``mine.py``, and neither hides a module that someone else imports.

    Raises:
        PluginError: for the first file that cannot be imported, with the line.
    """
    package = ModuleType(f"nmtrain_plugins_{digest(str(folder).encode())[:8]}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    names = {f"{package.__name__}.{file.stem.replace('.', '_')}": file for file in python_files(folder)}
    _FILES.update(names)
    for name, file in names.items():
        with told(str(shown(file)), package.__name__):
            import_module(name)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _FILES:
            return None
        return spec_from_file_location(name, _FILES[name], loader=_Loader(name, str(_FILES[name])))


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        """Run the very bytes whose hash is recorded: bytecode beside the file might be of other ones."""
        file, content = Path(self.path), self.get_data(self.path)
        name = f"{file.parent.name}/{file.name}"
        plugin = Plugin(name, None, file, module.__name__, str(shown(file)), digest(content))
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": _neighbours_first(module.__name__)}
        with loading(plugin):
            exec(self.source_to_code(content, self.path), vars(module))


def _neighbours_first(module: str) -> Callable[..., Any]:
    """What ``import`` does in a plug-in: it looks beside the file before anywhere else, as it does for a script."""
    package, _, own = module.rpartition(".")
    (folder,) = sys.modules[package].__path__

    def importing(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        first = name.partition(".")[0]
        beside = f"{package}.{first}" in _FILES or Path(folder, first, "__init__.py").is_file()
        if level or not beside or first in (own, "nmtrain"):
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = builtins.__import__(f"{package}.{name}", globals, locals, fromlist)
        return found if fromlist else getattr(found, first)  # without names, __import__ gives the outermost

    return importing
