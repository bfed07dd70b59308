"""What tuned sweeps left beside their runs (`nmtrain.runs.tuning`), and what it says of each run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nmtrain.errors import ReportError
from nmtrain.report.read.flat import Flat, without
from nmtrain.report.read.grouping import TUNED
from nmtrain.runs.metrics import gain
from nmtrain.runs.tuning import FOLDER, TunedCell, Tuning, read_tuning

_RECIPE = "recipe."


@dataclass(frozen=True)
class Choice:
    """What gave a final run its values: a cell of a record."""

    tuning: Tuning
    cell: TunedCell

    @property
    def rank(self) -> tuple[int, int, float]:
        """Of choices for one cell of a report the highest counts: the widest grid, then the most tuning seeds, then
        the best score on validation."""
        score = None if self.cell.best is None else self.cell.best.score
        return len(self.tuning), len(self.tuning.seeds), -math.inf if score is None else gain(self.cell.headline, score)


@dataclass(frozen=True)
class Tunings:
    """The records of a report.

    Attributes:
        records: one per grid and its seeds, with the cells of every sweep that tried it.
        finals: the choices that gave a final run its values, the one that counts first, by run folder.
        trials: the folders of tuning runs, which no table counts.
    """

    records: list[Tuning]
    finals: dict[Path, list[Choice]]
    trials: set[Path]

    def setting(self, run: Path, setting: Flat) -> Flat:
        """The setting of a run: what it shares with the others that were tuned is the key, not its best value.

        Options of the recipe are in no setting: one recipe may be tuned in its own beside the others.
        """
        keys = [key for key in self._keys(run) if not key.startswith(_RECIPE)]
        return without(setting, keys) | dict.fromkeys(keys, TUNED)

    def options(self, run: Path, options: Flat) -> Flat:
        """The recipe's options of a run without the tuned ones."""
        return without(options, [key.removeprefix(_RECIPE) for key in self._keys(run)])

    def outranked(self, runs: Sequence[Path]) -> list[Path]:
        """Those final runs of one cell whose values another choice than the highest gave."""
        ranks = {run: self.finals[run][0].rank for run in runs if run in self.finals}
        return [run for run in runs if ranks and ranks.get(run) != max(ranks.values())]

    def _keys(self, run: Path) -> list[str]:
        return sorted(self.finals[run][0].tuning.grid) if run in self.finals else []


def read_tunings(runs: Iterable[Path]) -> Tunings:
    """The records in the folders that hold ``runs``. Raises ReportError for one that cannot be read."""
    finals: dict[Path, list[Choice]] = {}
    trials: set[Path] = set()
    records: dict[str, Tuning] = {}
    for folder in sorted({run.parent for run in runs}):
        for path in sorted((folder / FOLDER).glob("*.json")):
            try:
                tuning = read_tuning(path)
            except ValueError as error:
                raise ReportError(f"{path}: {error}; remove it, or repeat the sweep that wrote it") from error
            for cell in tuning.cells:
                for name in cell.finals:
                    finals.setdefault(folder / name, []).append(Choice(tuning, cell))
                trials |= {folder / name for trial in cell.trials for name in trial.runs}
            key = f"{tuning.grid} {tuning.seeds}"
            known = records[key].cells if key in records else []
            cells = {str(cell.trials): cell for cell in [*known, *tuning.cells]}
            records[key] = replace(tuning, cells=list(cells.values()))
    for choices in finals.values():
        choices.sort(key=lambda choice: choice.rank, reverse=True)
    return Tunings(list(records.values()), finals, trials - finals.keys())
