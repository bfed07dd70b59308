"""What a tuned sweep tried and chose: RESULTS_DIR/tuning/NAME.json, written by the sweep and read by reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmtrain.runs.whole import write_beside_runs

FOLDER = "tuning"  # beside the run folders
SCHEMA = 1


@dataclass(frozen=True)
class Trial:
    """One point of the grid.

    Attributes:
        values: of the tuned keys.
        runs: names of the tuning runs, one per tuning seed.
        scores: the final headline metric of each on validation; None where the run diverged.
    """

    values: dict[str, Any]
    runs: list[str]
    scores: list[float | None]

    @property
    def score(self) -> float | None:
        """The mean over tuning seeds; None where one of them diverged, or there is none."""
        known = [score for score in self.scores if score is not None and math.isfinite(score)]
        return sum(known) / len(known) if known and len(known) == len(self.scores) else None


@dataclass(frozen=True)
class TunedCell:
    """One recipe at one pattern, and whatever else the sweep varies.

    Attributes:
        variant: of the recipe.
        pattern: None for dense runs.
        varied: what else of the command line tells this cell from the others.
        headline: the metric that chose.
        trials: in the order of the grid.
        chosen: index of the best trial; None where all diverged or one did not finish, so that nothing was chosen.
        finals: names of the runs that train with the best values.
    """

    variant: str
    pattern: str | None
    varied: list[str]
    headline: str
    trials: list[Trial]
    chosen: int | None
    finals: list[str]

    @property
    def best(self) -> Trial | None:
        return None if self.chosen is None else self.trials[self.chosen]

    def edges(self, grid: Mapping[str, list[Any]]) -> list[str]:
        """The keys whose chosen number is the smallest or the largest of its grid: a better one may lie beyond."""
        return [
            key
            for key, tried in grid.items()
            if self.best
            and all(isinstance(value, int | float) and not isinstance(value, bool) for value in tried)
            and self.best.values[key] in (min(tried), max(tried))
        ]


@dataclass(frozen=True)
class Tuning:
    """``grid``: the values tried, by key; ``seeds``: of the tuning runs."""

    grid: dict[str, list[Any]]
    seeds: list[int]
    cells: list[TunedCell]

    def __len__(self) -> int:
        """Points of the grid."""
        return math.prod(map(len, self.grid.values()))

    def write(self, path: Path) -> None:
        """Replace ``path`` as a whole. Raises RunFolderError where it cannot be written."""
        write_beside_runs(path, {"schema": SCHEMA} | asdict(self))


def read_tuning(path: Path) -> Tuning:
    """Raises ValueError, saying what is wrong, where the file is none that `Tuning.write` left."""
    try:
        content = json.loads(path.read_bytes())
        if content.pop("schema") != SCHEMA:
            raise ValueError("is of another schema")
        cells = [
            TunedCell(**cell | {"trials": [Trial(**trial) for trial in cell["trials"]]}) for cell in content["cells"]
        ]
        return Tuning(**content | {"cells": cells})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is damaged ({error!r})") from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
