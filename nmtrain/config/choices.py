"""What there is to choose: the groups of conf/ and their options. Imports nothing heavy, Hydra included."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import nmtrain.conf

_CONF = Path(next(iter(nmtrain.conf.__path__)))
CLAIMS = "claims"  # a folder of conf/ that is no group: what reports decide


def groups(folders: Iterable[Path] = (), ours: bool = True) -> dict[str, dict[str, str]]:
    """Every config group and its options; see `described`."""
    return {group: options for group, options in described(folders, ours).items() if group != CLAIMS}


def described(folders: Iterable[Path] = (), ours: bool = True) -> dict[str, dict[str, str]]:
    """Every file of conf/, by group and in the end the claims, each with the first line of its comment.

    Args:
        folders: further folders in the layout of conf/, as ``--config-dir`` names them.
        ours: False leaves out conf/ itself.
    """
    found: dict[str, dict[str, str]] = {}
    searched = [*([_CONF] if ours else []), *folders]
    paths = [
        (path.relative_to(folder).with_suffix(""), path)
        for folder in searched
        for depth in ("[!.]*", "[!.]*/[!.]*")  # experiment=study/g2p is a file in a folder of its group
        for path in folder.glob(f"{depth}/[!.]*.yaml")
        if path.is_file()
    ]
    for place, path in sorted(paths, key=lambda found: (found[0].parts[0] == CLAIMS, found)):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        comments = [line for line in lines if line.startswith("# ") and "@package" not in line]
        name = "/".join(place.parts[1:])
        found.setdefault(place.parts[0], {})[name] = comments[0].removeprefix("# ") if comments else ""
    return found


def near(name: object, known: Iterable[str]) -> str:
    """``; did you mean vit?``, or nothing if no known name is near."""
    matches = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""
