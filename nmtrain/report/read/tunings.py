"""What tuned sweeps left beside their runs (`nmtrain.runs.tuning`), and what it says of each run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nmtrain.errors import ReportError
from nmtrain.report.read.flat import Flat, without
from nmtrain.report.read.grouping import TUNED
from nmtrain.runs.tuning import FOLDER, Tuning, read_tuning


@dataclass(frozen=True)
class Tunings:
    """The records of a report.

    Attributes:
        records: one per grid and its seeds, with the cells of every sweep that tried it.
        finals: the records that gave a final run its values, by run folder.
        trials: the folders of tuning runs, which no table counts.
    """

    records: list[Tuning]
    finals: dict[Path, list[Tuning]]
    trials: set[Path]

    def setting(self, run: Path, setting: Flat) -> Flat:
        """The setting of a run: what it shares with the others that were tuned is the key, not its best value."""
        keys = self._keys(run)
        return without(setting, keys) | dict.fromkeys(keys, TUNED)

    def options(self, run: Path, options: Flat) -> Flat:
        """The recipe's options of a run without the tuned ones."""
        return without(options, [key.removeprefix("recipe.") for key in self._keys(run)])

    def narrower(self, runs: Sequence[Path]) -> list[Path]:
        """Those final runs of one cell that were tuned over fewer points than others of it: the widest grid counts."""
        widest = max((len(record) for run in runs for record in self.finals.get(run, ())), default=0)
        return [run for run in runs if max(map(len, self.finals.get(run, ())), default=0) < widest]

    def _keys(self, run: Path) -> list[str]:
        return sorted({key for record in self.finals.get(run, ()) for key in record.grid})


def read_tunings(runs: Iterable[Path]) -> Tunings:
    """The records in the folders that hold ``runs``. Raises ReportError for one that cannot be read."""
    finals: dict[Path, list[Tuning]] = {}
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
                    finals.setdefault(folder / name, []).append(tuning)
                trials |= {folder / name for trial in cell.trials for name in trial.runs}
            key = f"{tuning.grid} {tuning.seeds}"
            known = records[key].cells if key in records else []
            cells = {str(cell.trials): cell for cell in [*known, *tuning.cells]}
            records[key] = replace(tuning, cells=list(cells.values()))
    return Tunings(list(records.values()), finals, trials - finals.keys())
