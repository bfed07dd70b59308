"""What a sweep is made of: RESULTS_DIR/sweeps/NAME.json, written when it starts, read by it, by status and by reports.

    {"schema": 1,
     "line": ["experiment=smoke", "recipe=dense,sdgf", "seed=0,1,2"],     as given last
     "base": {"train.epochs": 1.0, ...},     the values by dotted key that all its runs share
     "code": "1f0c...",                      a digest of the code that runs depend on
     "data": {"/data/train.txt": "9a41..."}, digests of the local files that its runs read
     "runs": [{"settings": ["recipe=dense", "seed=0"], "run": "vit-digits-dense-s0-3f2a9c1b"}, ...]}

The runs are those of all lines that were this sweep: one with more seeds or recipes extends it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nmtrain
from nmtrain.runs.whole import write_beside_runs

FOLDER = "sweeps"  # beside the run folders
SCHEMA = 1
_RESULT_FREE = ("cli.py", "__main__.py", "launch", "report", "tracking")  # of the code, what no result depends on


@dataclass(frozen=True)
class PlannedRun:
    """One run: its name, and what the line says of it that it does not say of all."""

    settings: list[str]
    run: str


@dataclass(frozen=True)
class Sweep:
    """The content of one file, see the module."""

    line: list[str]
    base: dict[str, Any]
    code: str
    data: dict[str, str]
    runs: list[PlannedRun]

    def extending(self, before: Sweep | None) -> Sweep:
        """This sweep with the runs that it had before and that are not among these, by name or by settings."""
        names, settings = {run.run for run in self.runs}, [run.settings for run in self.runs]
        others = [run for run in before.runs if run.run not in names and run.settings not in settings] if before else []
        return Sweep(self.line, self.base, self.code, self.data, [*others, *self.runs])

    def write(self, path: Path) -> None:
        """Replace ``path`` as a whole. Raises RunFolderError where it cannot be written."""
        write_beside_runs(path, {"schema": SCHEMA} | asdict(self))


def read_sweep(path: Path) -> Sweep:
    """Raises ValueError, saying what is wrong, where the file is none that `Sweep.write` left."""
    try:
        content = json.loads(path.read_bytes())
        if content.pop("schema") != SCHEMA:
            raise ValueError("is of another schema")
        runs = [PlannedRun(list(run["settings"]), _plain_name(run["run"])) for run in content["runs"]]
        return Sweep(**content | {"runs": runs})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is damaged ({error!r})") from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def _plain_name(name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"is damaged (the run {name!r} is no name)")
    return name


def sweeps_beside(runs: Iterable[Path]) -> dict[Path, Sweep]:
    """The sweeps in the folders that hold ``runs``, by file; what cannot be read plans nothing."""
    found = {}
    for folder in sorted({run.parent for run in runs}):
        for path in sorted((folder / FOLDER).glob("*.json")):
            try:
                found[path] = read_sweep(path)
            except ValueError:
                continue
    return found


@cache
def code_digest() -> str:
    """A digest of the package's files that a result may depend on."""
    root = Path(nmtrain.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(root.rglob("*")):
        place = file.relative_to(root)
        if file.is_file() and place.parts[0] not in (*_RESULT_FREE, "conf") and "__pycache__" not in place.parts:
            digest.update(place.as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
