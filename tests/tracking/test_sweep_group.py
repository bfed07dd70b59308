"""The runs of a sweep stand together in wandb, under a name made from what varies in it."""

import logging
import os
import re
from pathlib import Path

import pytest

from nmtrain import cli
from nmtrain.launch.running import _grouped
from nmtrain.launch.sweep import _sweep_name

SWEEP = ["seed=0,1", "recipe=ste", "train.updates=2", "measure=off", "tracking=wandb"]


@pytest.fixture
def sweep(tiny, tmp_path, offline, monkeypatch):
    """Runs a sweep of the command line; returns {run folder: (its wandb group, its wandb id)}."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "HYDRA_FULL_ERROR", "1")
    loggers = [logging.getLogger("nmtrain"), logging.getLogger()]
    before = [list(logger.handlers) for logger in loggers]

    def run(*settings: str) -> dict[Path, tuple[str, str]]:
        assert cli._main([*tiny, "-m", *settings]) == 0
        shown = {folder: offline(folder).run for folder in sorted((tmp_path / "runs").glob("vit-*"))}
        return {folder: (run.run_group, run.run_id) for folder, run in shown.items()}

    yield run
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers


@pytest.mark.slow
def test_runs_of_worker_processes_share_a_group_which_a_resumed_sweep_keeps(sweep):
    first = sweep(*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert len(first) == 2
    ((group, _), _) = first.values()
    assert re.fullmatch("seed=0,1-[0-9a-f]{8}", group)
    assert {other for other, _ in first.values()} == {group}

    interrupted = min(first)
    (interrupted / "summary.json").unlink()
    (interrupted / "status.json").write_text('{"state": "running", "reason": null}')
    again = sweep(*reversed(SWEEP), "train.log_every=1")  # neither order nor what only logs makes another sweep
    assert again == first


def test_a_group_of_ones_own_stays_and_runs_without_wandb_get_none(make_config):
    for settings in ([], ["tracking=tensorboard"], ["tracking=wandb", "tracking.group=mine"]):
        values = make_config(*settings).values
        assert _grouped(values, "sweep") == values


def test_other_runs_are_another_sweep():
    one, other = (_sweep_name(["seed=0,1"], folders) for folders in ([Path("a"), Path("b")], [Path("a"), Path("c")]))
    assert one != other


def test_a_sweep_of_one_run_has_a_name():
    assert _sweep_name(["recipe=ste"], [Path("a")]).startswith("sweep-")


def test_a_long_sweep_has_a_name_that_wandb_takes(make_config):
    seeds = "seed=" + ",".join(map(str, range(100)))
    name = _sweep_name([seeds, "sparsity=1:8,2:4", '++mask.roles=["ff"],["ff","q"]'], [Path("a")])
    assert name.startswith("mask.roles=_ff_,_ff_,_q_-seed=0,1,")
    config = make_config("tracking=wandb", f"tracking.group='{name}'")
    assert _grouped(make_config("tracking=wandb").values, name) == config.values
