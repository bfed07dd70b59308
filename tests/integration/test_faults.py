"""Sweeps on one machine that are shot, started twice, and go on: what comes out is what an undisturbed one gives."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

KILLS = 20
LINE = ["experiment=smoke", "sparsity=1:8", "train.batch_size=32", "model.options.depth=1"]
LINE += ["model.options.embed_dim=64", "train.updates=400", "train.checkpoint_every=20", "measure=off"]
LINE += ["-m", "recipe=ste,mdgf", "seed=0,1"]


def start(tmp_path, *more, out=subprocess.DEVNULL):
    command = [sys.executable, "-m", "nmtrain.cli", *LINE, f"results_dir={tmp_path}/runs", *more]
    return subprocess.Popen(
        command, stdout=out, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, start_new_session=True
    )


def starts(folder):
    return [json.loads(file.read_text() or "{}") for file in sorted(folder.glob("starts/*.json"))]


def owners(results):
    """The processes that train something now, by what their runs say."""
    last = [found[-1] for folder in results.glob("vit-*") if (found := starts(folder)) and found[-1]]
    return [start["pid"] for start in last if not start["ended"] and os.path.exists(f"/proc/{start['pid']}")]


def updates(results):
    return sum(file.read_text().count("\n") for file in results.glob("*/metrics.jsonl"))


def assert_as_alone(one, other):
    """Weights to the bit, and every line of the records: no update missing or done twice."""
    names = sorted(file.parent.name for file in one.glob("*/summary.json"))
    assert sorted(file.parent.name for file in other.glob("*/summary.json")) == names != []
    for name in names:
        weights, again = (load_file(folder / name / "model.safetensors") for folder in (one, other))
        assert all(torch.equal(weights[tensor], again[tensor]) for tensor in weights)
        assert (one / name / "metrics.jsonl").read_text() == (other / name / "metrics.jsonl").read_text()


def test_20_kills_at_random_lose_nothing(tmp_path):
    dice, results, kills, whole, given = random.Random(0), tmp_path / "runs", 0, 0, 0
    sweep = None
    while kills < KILLS:
        if sweep is None or sweep.poll() is not None:
            finished = len(list(results.glob("*/summary.json")))
            if finished == 4:
                break
            sweep, given = start(tmp_path, "cluster=local", "cluster.jobs=2"), given + 1
        before, until = updates(results), time.monotonic() + 300
        while updates(results) < before + dice.randint(1, 8) and sweep.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(dice.random())
        if sweep.poll() is not None or not (training := owners(results)):
            continue
        kills += 1
        if dice.random() < 0.3:  # everything at once, as a machine that loses its power
            os.killpg(sweep.pid, signal.SIGKILL)
            sweep.wait()
            whole += 1
        else:
            os.kill(dice.choice(training), signal.SIGKILL)
    if sweep.poll() is None:
        sweep.wait(timeout=900)
    end = start(tmp_path, "cluster=local", "cluster.jobs=2", out=subprocess.PIPE)
    out, _ = end.communicate(timeout=900)
    assert end.returncode == 0, out
    begun = {folder.name: len(starts(folder)) for folder in results.glob("vit-*")}
    print(f"{kills} kills, {whole} of them of the whole sweep, which was given {given + 1} times; starts: {begun}")
    alone = tmp_path / "alone"
    alone.mkdir()
    undisturbed = start(alone)
    assert undisturbed.wait(timeout=900) == 0
    assert_as_alone(alone / "runs", results)
    assert kills >= KILLS / 2


def test_two_sweeps_of_one_line_started_together_train_every_run_once_and_both_show_the_table(tmp_path):
    both = [start(tmp_path, out=subprocess.PIPE) for _ in range(2)]
    for sweep in both:
        out, _ = sweep.communicate(timeout=900)
        assert sweep.returncode == 0, out
        assert "4 of 4 runs are finished and counted." in out
    folders = sorted((tmp_path / "runs").glob("vit-*"))
    assert len(folders) == 4
    assert [len(starts(folder)) for folder in folders] == [1] * 4  # nobody went on with what another had begun
    assert len({start["pid"] for folder in folders for start in starts(folder)}) == 2
