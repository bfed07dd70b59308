"""One of the processes that `nmtrain.launch.ranks` starts for a run: ``python -m nmtrain.launch.rank FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nmtrain.errors import NmtrainError
from nmtrain.launch.job import checked, log_to_terminal, run_as_rank
from nmtrain.launch.plugins import load_plugins
from nmtrain.launch.ranks import JOB, OUTCOME, together
from nmtrain.runs.folder import write_whole
from nmtrain.training.distribution.place import place_among_ranks


def main(folder: Path) -> None:
    """Train the run that ``folder`` holds; what ends it goes there too."""

    def tell(error: NmtrainError) -> None:
        content = json.dumps({"kind": type(error).__name__, "message": str(error)}).encode()
        write_whole(folder / OUTCOME, lambda file: file.write(content))

    job = json.loads((folder / JOB).read_text())
    sys.argv = job["command"]  # environment.json names it
    place = place_among_ranks()
    assert place is not None, "started by a launcher"
    log_to_terminal(place.rank)
    load_plugins(job["plugins"])
    together(place, lambda ranks: run_as_rank(checked(job["values"]), ranks), tell)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
