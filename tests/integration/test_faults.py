"""Sweeps on one machine that are shot and started twice: what comes out is what an undisturbed one gives."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from nmtrain import cli
from nmtrain.training.run import run

pytestmark = pytest.mark.slow

KILLS = 20
LINE = [
    "experiment=smoke",
    "sparsity=1:8",
    "train.batch_size=32",
    "model.options.depth=1",
    "model.options.embed_dim=64",
]
LINE += ["train.updates=150", "train.eval_every=0.6", "train.checkpoint_every=10", "train.log_every=1", "measure=off"]
SWEEP = ["-m", "recipe=ste,mdgf", "seed=0,1"]
FORK = multiprocessing.get_context("fork")  # of this process, which has imported everything: a start takes no time


def _sweep(results, out):
    os.setsid()
    terminal = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    sys.stdout = sys.stderr = os.fdopen(terminal, "w", buffering=1)  # in place of what pytest has put there
    os._exit(cli._main([*LINE, *SWEEP, f"results_dir={results}"]))


def start(results, out):
    process = FORK.Process(target=_sweep, args=(results, out))
    process.start()
    return process


def starts(folder):
    return [json.loads(file.read_text() or "{}") for file in sorted(folder.glob("starts/*.json"))]


def updates(results):
    return sum(file.read_text().count("\n") for file in results.glob("*/metrics.jsonl"))


def assert_equal(one, other):
    """Weights to the bit, and every line of the records: no update missing or done twice."""
    names = sorted(file.parent.name for file in one.glob("*/summary.json"))
    assert sorted(file.parent.name for file in other.glob("*/summary.json")) == names != []
    for name in names:
        weights, again = (load_file(folder / name / "model.safetensors") for folder in (one, other))
        assert all(torch.equal(weights[tensor], again[tensor]) for tensor in weights)
        assert (one / name / "metrics.jsonl").read_text() == (other / name / "metrics.jsonl").read_text()


def test_20_kills_at_random_lose_nothing(tmp_path, make_config):
    run(make_config("train.updates=1", "measure=off"))  # what a process does once
    torch.set_num_threads(1)
    dice, results, out = random.Random(0), tmp_path / "shot", tmp_path / "out"
    for _ in range(KILLS):
        sweep = start(results, out)
        until = updates(results) + dice.randint(5, 40)  # may be before the last checkpoint, or in another run
        patience = time.monotonic() + 300
        while updates(results) < until and sweep.is_alive():
            assert time.monotonic() < patience
            time.sleep(0.01)
        time.sleep(dice.random() / 10)
        assert sweep.is_alive(), out.read_text()
        os.kill(sweep.pid, signal.SIGKILL)
        sweep.join()
    sweep = start(results, out)
    sweep.join(600)
    assert sweep.exitcode == 0, out.read_text()
    print({folder.name: len(starts(folder)) for folder in results.glob("vit-*")})
    alone = start(tmp_path / "alone", tmp_path / "alone.out")
    alone.join(600)
    assert_equal(tmp_path / "alone", results)
    assert sum(len(starts(folder)) for folder in results.glob("vit-*")) > KILLS


def test_two_sweeps_of_one_line_started_together_train_every_run_once_and_both_show_the_table(tmp_path, make_config):
    run(make_config("train.updates=1", "measure=off"))
    torch.set_num_threads(1)
    outs = [tmp_path / "one", tmp_path / "other"]
    both = [start(tmp_path / "sweep", out) for out in outs]
    for sweep, out in zip(both, outs, strict=True):
        sweep.join(600)
        assert sweep.exitcode == 0, out.read_text()
        assert "4 of 4 runs are finished and counted." in out.read_text()
    folders = sorted((tmp_path / "sweep").glob("vit-*"))
    assert len(folders) == 4
    assert [len(starts(folder)) for folder in folders] == [1] * 4  # nobody went on with what another had begun
    assert len({start["pid"] for folder in folders for start in starts(folder)}) == 2
