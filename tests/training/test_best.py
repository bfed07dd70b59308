"""The weights of the best evaluation."""

import json
import math

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from nmtrain.errors import ConfigError
from nmtrain.runs.weights import BEST
from nmtrain.sparsity import NMPattern, SparsityRule, SparsityState, sparsify_model, sparsity_control
from nmtrain.training.best import BestWeights
from nmtrain.training.run import run

TARGET = NMPattern(1, 4)


def seen(metric, *values):
    model = nn.Linear(1, 1)
    best = BestWeights(metric)
    for update, value in enumerate(values, start=1):
        model.weight.data.fill_(update)
        best.see(update, value, True, lambda: model)
    assert not best.weights or best.weights["weight"].item() == best.update
    return best.update, best.value


def test_best_is_the_first_of_the_highest_or_where_lower_is_better_of_the_lowest():
    assert seen("accuracy", 0.1, 0.4, 0.2, 0.4) == (2, 0.4)
    assert seen("loss", 0.1, 0.4, 0.05, 0.4) == (3, 0.05)
    assert seen("perplexity", 3.0, 2.0) == (2, 2.0)
    assert seen("somebodys_metric", 3.0, 2.0) == (1, 3.0)
    assert seen("matthews", math.nan, 0.2, math.nan, 0.1) == (2, 0.2)
    assert seen("matthews", math.nan)[0] == 0


def test_only_what_is_strictly_at_its_target_counts():
    model = nn.Linear(8, 1, bias=False)
    model.weight.data = torch.arange(1.0, 9.0)[None]
    sparsify_model(model, [SparsityRule("weight", TARGET)])
    best = BestWeights("accuracy")
    states = [SparsityState(None), SparsityState(NMPattern(2, 4)), SparsityState(TARGET, 0.1), SparsityState(TARGET)]
    for update, state in enumerate(states):
        sparsity_control(model).update({TARGET: state})
        best.see(update, 1 - update / 10, sparsity_control(model).at_target, lambda: model)
        assert bool(best.weights) == (update == 3)
    assert best.weights["weight"].tolist() == [[0, 0, 0, 4, 0, 0, 0, 8]]
    assert list(best.weights) == ["weight"]


def test_a_run_keeps_what_was_best_though_it_went_on(make_config, nm, tmp_path):
    """A rate that is far too high in the end: the weights of the last update are not the best."""
    common = ["recipe=ste", "optim.schedule=constant", "optim.lr=0.3", "optim.warmup_fraction=1", "train.updates=24"]
    config = make_config(*common, "train.keep_best=true")
    summary = run(config)
    records = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    scores = {record["update"]: record["accuracy"] for record in records if record["split"] in ("val", "final")}
    best = max(scores, key=scores.get)
    assert best < 24
    assert summary["best"] == {"update": best, "metric": "val/accuracy", "value": scores[best]}
    weights = load_file(config.run_folder / BEST.file)
    status, out, _ = nm("export", str(config.run_folder), "--best")
    assert status == 0
    assert "export_best" in out
    model = timm.create_model(f"local-dir:{config.run_folder}/export_best", pretrained=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    status, out, _ = nm("eval", str(config.run_folder), "--best")
    assert f"val/accuracy: {scores[best]:.6f}" in out
    # The test split is scored on request, and does not replace what reports read of the last weights.
    status, out, _ = nm("eval", str(config.run_folder), "--best", "data.evaluate=test")
    assert status == 0
    assert "test/accuracy" in out
    assert [path.name for path in (config.run_folder / "test").iterdir()] == ["metrics_best.json"]
    status, _, err = nm("eval", str(config.run_folder), "--ema")
    assert status == 2
    assert err.strip().endswith("has no model_ema.safetensors; runs with train.ema=DECAY keep it")
    status, _, err = nm("export", str(config.run_folder), "--ema", "--best")
    assert (status, err.strip()) == (2, "--ema and --best: are two kinds of weights; name one")


def test_choosing_on_the_test_split_is_refused(make_config):
    with pytest.raises(ConfigError, match=r"train\.keep_best=true: would choose the best update on test"):
        make_config("train.keep_best=true", "data.evaluate=test")
