"""How long `nmtrain report` takes on 1,001 runs of some 1,020 lines each: the wall time of whole calls.

    python scripts/bench_report.py            # six minutes of training, then five calls

Eleven runs are real (dense and five recipes at 1:8 and 1:32, 1,000 updates of the small ViT on scanned digits, each
update recorded). Each stands for 91 seeds: its copies differ from it by their seed and by random changes to all that
was measured, so that nothing is read twice.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TRAIN = (
    "-m", "data=digits", "sparsity=1:8,1:32",
    "recipe=dense,sr_ste,mdgf_exponential,mdgf_linear,sdgf_stepwise,sdgf_geometric",
    "train.updates=1000", "train.batch_size=8", "train.log_every=1", "train.eval_every=0.28",
)  # fmt: skip
SEEDS = 91
MEASURED = ("loss", "accuracy", "grad", "second_moment", "flip", "sad")  # what names of measured values begin with


def nmtrain(*arguments: str) -> None:
    command = Path(sys.executable).with_name("nmtrain")  # of the environment that this script runs in
    subprocess.run([command, *arguments], check=True, stdout=subprocess.DEVNULL)


def multiply(folder: Path, runs: Path) -> None:
    """Write the run in ``folder`` once per seed into ``runs``."""
    config, environment = (folder / "config.yaml").read_text(), folder / "environment.json"
    summary = json.loads((folder / "summary.json").read_text())
    lines = {name: (folder / name).read_text().splitlines() for name in ("metrics.jsonl", "noise.jsonl")}
    records = {name: [json.loads(line) for line in texts] for name, texts in lines.items()}
    for seed in range(SEEDS):
        draw = random.Random(f"{folder.name} {seed}")
        copy = runs / f"{folder.name}-{seed}"
        copy.mkdir(parents=True)
        (copy / "config.yaml").write_text(config.replace("seed: 0\n", f"seed: {seed}\n", 1))
        shutil.copy(environment, copy)
        shutil.copy(folder / "status.json", copy)
        metrics = changed(summary["metrics"], draw, "val/")
        (copy / "summary.json").write_text(json.dumps(summary | {"seed": seed, "run": copy.name, "metrics": metrics}))
        for name, originals in records.items():
            (copy / name).write_text("".join(json.dumps(changed(line, draw)) + "\n" for line in originals))


def changed(record: dict[str, Any], draw: random.Random, prefix: str = "") -> dict[str, Any]:
    """``record`` with all measured values smaller by up to a tenth."""
    return {
        key: value * draw.uniform(0.9, 1) if value and key.removeprefix(prefix).startswith(MEASURED) else value
        for key, value in record.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--runs", type=Path, help="keep the runs in this folder, or use what an earlier call left there"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = arguments.runs or Path(folder, "runs")
        if not runs.exists():
            nmtrain(*TRAIN, f"results_dir={folder}/trained")
            for trained in sorted(Path(folder, "trained").glob("*/")):
                if (trained / "summary.json").exists():
                    multiply(trained, runs)
        count = sum(1 for _ in runs.iterdir())
        seconds = []
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            nmtrain("report", str(runs), "--out", f"{folder}/report")
            seconds.append(time.perf_counter() - start)
    calls = ", ".join(f"{value:.1f}" for value in seconds)
    print(f"nmtrain report on {count} runs, Python {platform.python_version()}, {platform.machine()}, wall time:")
    print(f"  median {statistics.median(seconds):.1f} s  ({calls}; wanted: under 10)")


if __name__ == "__main__":
    main()
