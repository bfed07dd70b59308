"""What tuned sweeps left beside their runs (`nmtrain.runs.tuning`), and what it says of each run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nmtrain.errors import ReportError
from nmtrain.report.read.flat import Flat, without
from nmtrain.runs.tuning import FOLDER, Tuning, read_tuning


@dataclass(frozen=True)
class Tunings:
    """The records of a report.

    Attributes:
        records: one per grid and its seeds, with the cells of every sweep that tried it.
        grids: the grid whose best values a final run was given, by run folder.
        trials: the folders of tuning runs, which no table counts.
    """

    records: list[Tuning]
    grids: dict[Path, dict[str, list[Any]]]
    trials: set[Path]

    def setting(self, run: Path, setting: Flat) -> Flat:
        """The setting of a run: what it shares with the others that were tuned alike is the grid, not its best."""
        grid = self.grids.get(run)
        return setting if grid is None else without(setting, grid) | {f"tune.{key}": grid[key] for key in grid}

    def options(self, run: Path, options: Flat) -> Flat:
        """The recipe's options of a run without the tuned ones."""
        return without(options, [key.removeprefix("recipe.") for key in self.grids.get(run, ())])


def read_tunings(runs: Iterable[Path]) -> Tunings:
    """The records in the folders that hold ``runs``. Raises ReportError for one that cannot be read."""
    grids: dict[Path, dict[str, list[Any]]] = {}
    trials: set[Path] = set()
    records: dict[str, Tuning] = {}
    for folder in sorted({run.parent for run in runs}):
        for path in sorted((folder / FOLDER).glob("*.json")):
            try:
                tuning = read_tuning(path)
            except ValueError as error:
                raise ReportError(f"{path}: {error}; remove it, or repeat the sweep that wrote it") from error
            for cell in tuning.cells:
                grids |= {folder / name: tuning.grid for name in cell.finals}
                trials |= {folder / name for trial in cell.trials for name in trial.runs}
            key = f"{tuning.grid} {tuning.seeds}"
            known = records[key].cells if key in records else []
            cells = {str(cell.trials): cell for cell in [*known, *tuning.cells]}
            records[key] = replace(tuning, cells=list(cells.values()))
    return Tunings(list(records.values()), grids, trials - grids.keys())
