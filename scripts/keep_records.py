"""Copy the records of finished and failed runs, without weights, to where they are published: tens of kilobytes each.

    python scripts/keep_records.py results/runs/study results/study

`nmtrain report` reads the copies as it reads the runs, and a sweep into their folder trains none of them again. Of the
noise records they hold the averages over tensors, which is what reports show; of the records of training, the first of
each phase and about fifty others. Tuning records and scores that `nmtrain eval` kept come along, and of failed runs
what there is, so that reports count them as lost.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

FILES = ("config.yaml", "environment.json", "sparse_tensors.json", "summary.json")


def keep(run: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (run / name).exists():
            shutil.copyfile(run / name, out / name)
    if (run / "metrics.jsonl").exists():
        with open(run / "metrics.jsonl") as lines, open(out / "metrics.jsonl", "w") as kept:
            kept.writelines(thinned((line for line in lines if line.endswith("\n")), length(run)))  # a kill cuts one
    for score in sorted(run.glob("test/*.json")):
        (out / "test").mkdir(exist_ok=True)
        shutil.copyfile(score, out / "test" / score.name)
    if (run / "noise.jsonl").exists():
        with open(run / "noise.jsonl") as lines, open(out / "noise.jsonl", "w") as kept:
            kept.writelines(line for line in lines if json.loads(line)["tensor"] == "mean")
    shutil.copyfile(run / "status.json", out / "status.json")  # last: from here on the copy is whole


def length(run: Path) -> int:
    """Updates of a finished run, and those that a failed one logged."""
    if (run / "summary.json").exists():
        return int(json.loads((run / "summary.json").read_text())["updates"])
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    return max((json.loads(line)["update"] for line in lines if line.endswith("\n")), default=1)


def thinned(lines: Iterable[str], updates: int) -> Iterator[str]:
    """The evaluations, and of the records of training the first of each phase and about fifty others.

    What is left of kept lines is the same lines.
    """
    phase, last = None, 0
    for line in lines:
        record = json.loads(line)
        if record["split"] == "train":
            if record["phase"] == phase and record["update"] - last < updates / 50:
                continue
            phase, last = record["phase"], record["update"]
        yield line


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    for status in sorted(source.rglob("status.json")):
        run = status.parent
        if json.loads(status.read_text())["state"] in ("finished", "failed") and (run / "config.yaml").exists():
            keep(run, target / run.relative_to(source))
    for tuning in sorted(source.rglob("tuning/*.json")):
        (target / tuning.parent.relative_to(source)).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tuning, target / tuning.relative_to(source))


if __name__ == "__main__":
    main()
