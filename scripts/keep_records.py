"""Copy the records of finished runs, without weights, to where they are published: tens of kilobytes a run.

    python scripts/keep_records.py results/runs/study results/study

`nmtrain report` reads the copies as it reads the runs, and a sweep into their folder trains none of them again. Of the
noise records they hold the averages over tensors, which is what reports show. Tuning records come along.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

FILES = ("config.yaml", "environment.json", "metrics.jsonl", "sparse_tensors.json", "summary.json")


def keep(run: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(run / name, out / name)
    if (run / "noise.jsonl").exists():
        with open(run / "noise.jsonl") as lines, open(out / "noise.jsonl", "w") as kept:
            kept.writelines(line for line in lines if json.loads(line)["tensor"] == "mean")
    shutil.copyfile(run / "status.json", out / "status.json")  # last: from here on the copy is a finished run


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    for status in sorted(source.rglob("status.json")):
        run = status.parent
        if json.loads(status.read_text())["state"] == "finished":
            keep(run, target / run.relative_to(source))
    for tuning in sorted(source.rglob("tuning/*.json")):
        (target / tuning.parent.relative_to(source)).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tuning, target / tuning.relative_to(source))


if __name__ == "__main__":
    main()
