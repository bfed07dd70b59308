"""A search by Optuna: which runs it asks for, what it learns from them, and what is refused."""

import json
import re

import pytest

pytest.importorskip("optuna")

from nmtrain.launch import search
from nmtrain.runs.folder import RunFolder

LINE = ["-m", "hydra/sweeper=optuna"]
RATE = "optim.lr=tag(log,interval(1e-5,1e-1))"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Search with a stand-in for training, best at a rate of 1e-3, diverged above 3e-2: the rates asked for."""
    rates, diverged = [], set()

    def train(jobs, overrides):
        rates.extend(job.config.optim.lr for job in jobs)
        diverged.update(job.folder.name for job in jobs if job.config.optim.lr > 3e-2)
        return []

    def score(trial, job):
        from math import log10

        gain = -abs(log10(job.config.optim.lr) + 3)
        return search._Score(gain, f"{gain:.3f}")

    monkeypatch.setattr(RunFolder, "diverged", property(lambda folder: folder.name in diverged))
    monkeypatch.setattr(search, "_train", train)
    monkeypatch.setattr(search, "_score", score)
    return rates


@pytest.mark.slow
def test_it_comes_near_the_best_value_and_a_longer_line_asks_for_the_same_runs_first(nm, tiny, asked):
    for count in (15, 30):
        status, out, err = nm(*LINE, *tiny, RATE, f"hydra.sweeper.n_trials={count}")
        assert (status, err) == (0, "")
    shorter, longer = asked[:15], asked[15:]
    assert longer[:15] == shorter
    assert len(set(longer)) == 30
    near = [rate for rate in longer[15:] if 2e-4 < rate < 5e-3]
    assert len(near) > 7  # of 15; by chance 5
    assert 7e-4 < min(longer, key=lambda rate: abs(rate - 1e-3)) < 1.4e-3
    assert len(re.findall(r"^  -?\d", out.partition("best on validation:")[2], re.M)) == 5


def test_another_seed_asks_for_others(nm, tiny, asked):
    for seed in (0, 1):
        nm(*LINE, *tiny, RATE, "hydra.sweeper.n_trials=3", f"hydra.sweeper.seed={seed}", "hydra.sweeper.n_jobs=3")
    assert not set(asked[:3]) & set(asked[3:])


def test_every_kind_of_axis_is_a_space_of_its_own():
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    axes = [RATE, "++optim.weight_decay=interval(0,0.1)", "recipe=ste,sdgf", "++train.updates=range(4,13,4)"]
    axes += ["++train.ema=null,0.9", "++optim.warmup_fraction=range(0,0.3,0.1)", "++train.log_every=int(interval(1,9))"]
    assert search._space([*axes, "sparsity=1:8"]) == {
        "optim.lr": FloatDistribution(1e-5, 1e-1, log=True),
        "++optim.weight_decay": FloatDistribution(0, 0.1),
        "recipe": CategoricalDistribution(["ste", "sdgf"]),
        "++train.updates": IntDistribution(4, 12, step=4),
        "++train.ema": CategoricalDistribution(["null", "0.9"]),
        "++optim.warmup_fraction": FloatDistribution(0, 0.2, step=0.1),
        "++train.log_every": IntDistribution(1, 9),
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ([], "hydra/sweeper=optuna: there is nothing to search; give several values, or KEY=interval(FROM,TO)"),
        ([RATE, "seed=0,1"], "seed=0,1: is no value to search; give one seed"),
        ([RATE, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: must be a whole number from 1 on"),
        ([RATE, "hydra.sweeper.trials=3"], "Could not override 'hydra.sweeper.trials'"),
        (["optim.lr=tag(log,interval(0,1.0))"], "optim.lr=tag(log,interval(0,1.0)): "),
        ([RATE, "data.evaluate=test"], "data.evaluate=test: a search looks at validation only; leave it out"),
        ([RATE, "tune={optim.weight_decay:[0,0.1]}"], "tune={optim.weight_decay:[0,0.1]}: searches by itself"),
        ([RATE, "sparsity=1:7"], "sparsity=1:7: "),
        ([RATE, "no.such=1"], "no.such=1: there is no such key"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_trained(line, told, nm, tiny):
    status, out, err = nm(*LINE, *tiny, *line)
    assert (status, out) == (2, "")
    assert err.startswith(told)


def test_without_optuna_it_says_what_to_install(nm, tiny, monkeypatch):
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    status, _, err = nm(*LINE, *tiny, RATE)
    assert (status, err) == (2, "hydra/sweeper=optuna: needs Optuna; pip install 'nmtrain[optuna]'\n")


def test_a_trial_that_is_refused_later_is_told_and_counts_as_failed(nm, tiny, asked):
    batches = "train.batch_size=range(16,49)"  # two micro-batches share even ones alone
    status, out, err = nm(*LINE, *tiny, batches, "train.micro_batches=2", "hydra.sweeper.n_trials=9")
    assert status in (0, 2), (out, err)  # 2 if the first of all is refused
    if status == 0:
        assert " is refused: train." in out
        assert 0 < len(asked) < 9


def test_a_dry_run_shows_what_all_trials_cost(nm, tiny, asked):
    status, out, _ = nm(*LINE, *tiny, RATE, "hydra.sweeper.n_trials=4", "--dry-run")
    assert status == 0
    assert "to train: 4 runs" in out
    assert asked == []


@pytest.mark.slow
def test_a_search_trains_runs_and_the_same_line_repeats_none(nm, tiny, tmp_path):
    line = [*LINE, *tiny, RATE, "recipe=ste,sdgf", "measure=off", "train.updates=6", "hydra.sweeper.n_trials=3"]
    status, out, err = nm(*line)
    assert (status, err) == (0, "")
    runs = sorted((tmp_path / "runs").glob("vit-*"))
    assert len(runs) == 3
    shown = re.findall(r"^trial (\d) of 3: accuracy ([\d.]+) %, .*optim\.lr=(\S+).* \((\S+)\)$", out, re.M)
    assert [number for number, *_ in shown] == ["1", "2", "3"]
    for _, accuracy, rate, name in shown:
        summary = json.loads((tmp_path / "runs" / name / "summary.json").read_text())
        assert 100 * summary["metrics"]["val/accuracy"] == pytest.approx(float(accuracy), abs=0.006)
        assert f"lr: {float(rate)}" in (tmp_path / "runs" / name / "config.yaml").read_text()
    (kept,) = (tmp_path / "runs" / "sweeps").glob("*.json")
    assert len(json.loads(kept.read_text())["runs"]) == 3
    made = {run: (run / "summary.json").stat().st_mtime_ns for run in runs}
    status, again, _ = nm(*line, "cluster=local", "hydra.sweeper.n_jobs=1")
    assert status == 0
    assert again.partition("best on")[2] == out.partition("best on")[2]
    assert {run: (run / "summary.json").stat().st_mtime_ns for run in runs} == made
