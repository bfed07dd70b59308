"""What each of several processes does in a test: one run after the other with the others, without a new start for each.

    python one_rank.py JOBS.json      # with the variables that torchrun sets

A job has ``overrides``, and may have ``before``: Python to run first, which knows ``ranks`` and ``patch``, by which an
attribute is another one until the job's end. What came of it goes to ``JOBS.json.NUMBER.RANK``.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import NmtrainError
from nmtrain.launch.job import checked
from nmtrain.training.distribution.place import place_among_ranks
from nmtrain.training.distribution.ranks import joined
from nmtrain.training.run import run

if __name__ == "__main__":
    place, jobs = place_among_ranks(), Path(sys.argv[1])
    torch.set_num_threads(1)
    with joined(place, lambda error: print(error.told(), file=sys.stderr)) as ranks:
        for number, job in enumerate(yaml.safe_load(jobs.read_text())):
            with pytest.MonkeyPatch.context() as patch:
                exec(job.get("before", ""), {"ranks": ranks, "patch": patch})
                try:
                    config = checked(compose_values(prepare_overrides(job["overrides"])))
                    outcome = {"summary": run(config, ranks)}
                except NmtrainError as error:
                    if not job.get("fails"):
                        raise
                    outcome = {"error": f"{type(error).__name__}: {error}"}
            Path(f"{jobs}.{number}.{place.rank}").write_text(json.dumps(outcome))
