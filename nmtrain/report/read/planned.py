"""What sweeps plan and have not finished (`nmtrain.runs.sweeps`), in a sentence each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nmtrain.report.read.folders import name_some
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.sweeps import sweeps_beside


def planned_notices(runs: Iterable[Path]) -> list[str]:
    """A sentence for each sweep beside ``runs`` of which some runs are not finished."""
    said = []
    for file, sweep in sweeps_beside(runs).items():
        names = {run.run: RunFolder(file.parent.parent / run.run).state_or_none for run in sweep.runs}
        missing = sorted(name for name, state in names.items() if state != "finished")
        if missing:
            begun = sum(names[name] is not None for name in missing)
            told = f"{len(names) - len(missing)} of {len(names)} finished, {len(missing) - begun} not begun"
            said.append(f"The sweep {file.stem} is not complete: {told}. Missing: {name_some(missing)}.")
    return said
