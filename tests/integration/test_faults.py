"""Sweeps on one machine that are shot and started twice: what comes out is what an undisturbed one gives."""

import os
import random
import signal
import time

import pytest

from nmtrain.training.run import run
from tests.integration.commands import LINE, assert_equal, ended, start, starts, updates

pytestmark = pytest.mark.slow

KILLS = 20
SWEEP = [*LINE, "-m", "recipe=ste,mdgf", "seed=0,1"]


@pytest.fixture(autouse=True)
def _warm(make_config):
    run(make_config("train.updates=1", "measure=off"))  # what a process does once


def test_20_kills_at_random_lose_nothing(tmp_path):
    dice, results, out = random.Random(0), tmp_path / "shot", tmp_path / "out"
    line = [*SWEEP, f"results_dir={results}"]
    for _ in range(KILLS):
        sweep = start(line, out)
        until = updates(results) + dice.randint(5, 40)  # may be before the last checkpoint, or in another run
        patience = time.monotonic() + 300
        while updates(results) < until and sweep.is_alive():
            assert time.monotonic() < patience
            time.sleep(0.01)
        time.sleep(dice.random() / 10)
        assert sweep.is_alive(), out.read_text()
        os.kill(sweep.pid, signal.SIGKILL)
        sweep.join()
    assert ended(start(line, out), 600) == 0, out.read_text()
    print({folder.name: len(starts(folder)) for folder in results.glob("vit-*")})
    ended(start([*SWEEP, f"results_dir={tmp_path}/alone"], tmp_path / "alone.out"), 600)
    assert_equal(tmp_path / "alone", results)
    assert sum(len(starts(folder)) for folder in results.glob("vit-*")) > KILLS


def test_two_sweeps_of_one_line_started_together_train_every_run_once_and_both_show_the_table(tmp_path):
    outs = [tmp_path / "one", tmp_path / "other"]
    both = [start([*SWEEP, f"results_dir={tmp_path}/sweep"], out) for out in outs]
    for sweep, out in zip(both, outs, strict=True):
        assert ended(sweep, 600) == 0, out.read_text()
        assert "4 of 4 runs are finished and counted." in out.read_text()
    folders = sorted((tmp_path / "sweep").glob("vit-*"))
    assert len(folders) == 4
    assert [len(starts(folder)) for folder in folders] == [1] * 4  # nobody went on with what another had begun
    assert len({start["pid"] for folder in folders for start in starts(folder)}) == 2
