"""What there is to choose: the groups of conf/ and their options. Imports nothing heavy, Hydra included."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import nmtrain.conf

_CONF = Path(next(iter(nmtrain.conf.__path__)))


def groups(folders: Iterable[Path] = (), ours: bool = True) -> dict[str, dict[str, str]]:
    """Every config group and its options, each with the first line of its file's comment.

    Args:
        folders: further folders in the layout of conf/, as ``--config-dir`` names them.
        ours: False leaves out conf/ itself.
    """
    found: dict[str, dict[str, str]] = {}
    searched = [*([_CONF] if ours else []), *folders]
    paths = [path for folder in searched for path in folder.glob("[!.]*/[!.]*.yaml") if path.is_file()]
    for path in sorted(paths, key=lambda path: (path.parent.name, path.stem)):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        comments = [line for line in lines if line.startswith("# ") and "@package" not in line]
        found.setdefault(path.parent.name, {})[path.stem] = comments[0].removeprefix("# ") if comments else ""
    return found


def near(name: object, known: Iterable[str]) -> str:
    """``; did you mean vit?``, or nothing if no known name is near."""
    matches = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""
