"""The moving average of the weights, by hand and beside training."""

import pytest
import torch
from torch import nn

from nmtrain.errors import RunFolderError
from nmtrain.runs.weights import EMA
from nmtrain.sparsity import NMPattern, SparsityRule, SparsityState, sparsify_model, sparsity_control, stock_state_dict
from nmtrain.training.ema import WeightAverage
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.run import run

TARGET = NMPattern(1, 4)


def layer(*rows):
    module = nn.Linear(4, len(rows), bias=False)
    module.weight.data = torch.tensor(rows)
    return module


def average_of(averaged, module):
    with averaged.in_place():
        return {name: tensor.clone() for name, tensor in stock_state_dict(module).items()}


def test_an_average_moves_by_one_minus_the_decay_from_the_weights_before_training():
    module = layer([4.0, 0.0, 0.0, 8.0])
    averaged = WeightAverage(module, 0.75)
    for weights in ([8.0, 0.0, 4.0, 8.0], [8.0, 4.0, 0.0, 8.0]):
        module.weight.data = module.weight.data.copy_(torch.tensor([weights]))
        averaged.update()
    # 4 -> 5 -> 5.75; 0 -> 0 -> 1; 0 -> 1 -> 0.75; 8.
    assert average_of(averaged, module)["weight"].tolist() == [[5.75, 1.0, 0.75, 8.0]]
    assert module.weight.tolist() == [[8.0, 4.0, 0.0, 8.0]]


def test_it_is_timms_statistics_of_batch_norm_included():
    from timm.utils import ModelEmaV3

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    averaged, theirs = WeightAverage(module, 0.9), ModelEmaV3(module, decay=0.9)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    for _ in range(4):
        module(torch.randn(6, 3)).square().sum().backward()
        optimizer.step()
        averaged.update()
        theirs.update(module)
    expected = theirs.module.state_dict()
    assert expected["1.running_mean"].abs().sum() > 0
    for name, tensor in average_of(averaged, module).items():
        assert torch.equal(tensor, expected[name]), name


def test_the_masks_are_those_of_the_weights_and_not_of_their_average():
    module = layer([4.0, 1.0, 0.0, 0.0])
    sparsify_model(module, [SparsityRule("weight", TARGET)])
    control, averaged = sparsity_control(module), WeightAverage(module, 0.5)
    module.parametrizations.weight.original.data.copy_(torch.tensor([[0.0, 3.0, 0.0, 0.0]]))
    averaged.update()  # 2, 2, 0, 0: its own mask would keep the first
    control.update({TARGET: SparsityState(TARGET, decay=0.5)})
    assert average_of(averaged, module)["weight"].tolist() == [[1.0, 2.0, 0.0, 0.0]]
    control.update({TARGET: SparsityState(TARGET)})
    assert average_of(averaged, module)["weight"].tolist() == [[0.0, 2.0, 0.0, 0.0]]
    assert module.weight.tolist() == [[0.0, 3.0, 0.0, 0.0]]


def test_the_models_own_weights_are_back_after_a_failure():
    module = layer([4.0, 0.0, 0.0, 8.0])
    averaged = WeightAverage(module, 0.5)
    place = module.weight.data_ptr()
    module.weight.data.mul_(2)

    def fail():
        with averaged.in_place():
            assert module.weight.tolist() == [[4.0, 0.0, 0.0, 8.0]]
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert module.weight.tolist() == [[8.0, 0.0, 0.0, 16.0]]
    assert module.weight.data_ptr() == place


def test_a_shared_weight_is_averaged_once():
    module = nn.ModuleList([layer([1.0, 2.0, 3.0, 4.0]), layer([0.0, 0.0, 0.0, 0.0])])
    module[1].weight = module[0].weight
    averaged = WeightAverage(module, 0.5)
    module[0].weight.data.zero_()
    averaged.update()
    assert average_of(averaged, module)["1.weight"].tolist() == [[0.5, 1.0, 1.5, 2.0]]


@pytest.mark.parametrize(("decay", "told"), [("1", "less than 1"), ("0", "greater than 0"), ("-0.5", "greater than 0")])
def test_a_decay_outside_of_zero_to_one_is_refused(decay, told, refused):
    assert refused(f"train.ema={decay}") == f"train.ema={decay}: should be {told}"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_too_the_average_is_what_is_scored(precision, make_config):
    """Autocast keeps its copies of weights until it ends, and would score the weights of the moment twice."""
    config = make_config("recipe=dense", "train.ema=0.9", f"train.precision={precision}")
    metrics = run(config)["metrics"]
    again = evaluate_run(config.run_folder, weights=EMA)["metrics"]
    assert metrics["val/ema_loss"] == pytest.approx(again["val/loss"], rel=1e-4)
    assert metrics["val/ema_loss"] != pytest.approx(metrics["val/loss"], rel=1e-4)


def test_a_run_without_one_says_so(make_config):
    config = make_config("train.updates=1")
    summary = run(config)
    assert "val/ema_loss" not in summary["metrics"]
    with pytest.raises(RunFolderError, match=r"has no model_ema\.safetensors; runs with train\.ema=DECAY keep it"):
        evaluate_run(config.run_folder, weights=EMA)


def test_names_of_runs_without_it_stay(make_config):
    from nmtrain.config.naming import result_digest

    config = make_config()
    values = config.values | {
        "train": {k: v for k, v in config.values["train"].items() if k not in ("ema", "keep_best")}
    }
    values["train"].pop("gradient_checkpointing")
    assert config.run_name.endswith(result_digest(values, False))
    assert make_config("train.ema=0.9").run_name != config.run_name
    assert make_config("train.keep_best=true").run_name != config.run_name
