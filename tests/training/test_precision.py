"""fp16: gradients have their size again before anything looks at them, and an update that overflows moves no weight."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nmtrain.errors import TrainingError
from nmtrain.training import precision
from nmtrain.training.loop import Trainer
from nmtrain.training.precision import LossScale, autocast
from nmtrain.training.run import run


@pytest.fixture
def optimizer():
    return torch.optim.SGD([nn.Parameter(torch.tensor([1.0, -2.0]))], lr=0.1)


def weight_of(optimizer):
    return optimizer.param_groups[0]["params"][0]


def backward(scale, optimizer, factor=1.0):
    """The gradient of ``factor * sum(w^2)`` by way of a scaled loss."""
    optimizer.zero_grad()
    scale.scaled((weight_of(optimizer) ** 2).sum() * factor).backward()


def test_gradients_have_their_size_again_and_fp32_is_never_scaled(optimizer):
    for name, enlarged in (("fp16", 65536.0), ("bf16", 1.0), ("fp32", 1.0)):
        scale = LossScale(torch.device("cpu"), name)
        backward(scale, optimizer)
        assert weight_of(optimizer).grad.tolist() == [2 * enlarged, -4 * enlarged]
        assert scale.unscale(optimizer)
        assert weight_of(optimizer).grad.tolist() == [2.0, -4.0]
        assert scale.record() == ({"loss_scale": 65536.0, "skipped_updates": 0} if name == "fp16" else {})


def test_gradients_that_overflow_halve_the_scale_until_they_are_too_large_as_they_are(optimizer):
    scale = LossScale(torch.device("cpu"), "fp16")
    for skipped in range(1, 17):
        backward(scale, optimizer, float("inf"))
        assert not scale.unscale(optimizer)
        assert scale.record() == {"loss_scale": 65536.0 / 2**skipped, "skipped_updates": skipped}
    again = LossScale(torch.device("cpu"), "fp16")
    again.load_state_dict(scale.state_dict())
    assert again.record() == scale.record()
    backward(scale, optimizer, float("inf"))
    with pytest.raises(TrainingError, match=r"exceed the 65504 of half precision as they are; train\.precision=bf16"):
        scale.unscale(optimizer)


def test_products_are_made_in_the_precision_asked_for():
    weights = torch.ones(4, 4)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with autocast(torch.device("cpu"), name):
            assert (weights @ weights).dtype == dtype


def test_under_a_large_penalty_fp16_ends_where_fp32_does(make_config):
    """A penalty of the scaled gradient's size would be 65536 times too small."""
    settings = ["recipe=sr_ste", "recipe.penalty=1.0", "optim=sgd", "optim.lr=0.02", "optim.clip_norm=null"]
    ends = {}
    for name, options in (("fp32", []), ("fp16", ["train.precision=fp16"]), ("no penalty", ["recipe.penalty=0"])):
        config = make_config(*settings, *options)
        run(config)
        content = torch.load(max((config.run_folder / "checkpoints").iterdir()), weights_only=True)
        ends[name] = content["model"]["blocks.0.mlp.fc1.parametrizations.weight.original"]
    distance = (ends["fp32"] - ends["no penalty"]).norm()
    assert (ends["fp32"] - ends["fp16"]).norm() < 0.01 * distance


@pytest.fixture
def too_large(monkeypatch):
    """A first scale at which the gradients of a few updates overflow."""
    monkeypatch.setattr(precision.torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**26))


def test_a_skipped_update_moves_recipe_and_masks_but_no_weight_and_resumes(
    make_config, too_large, assert_resumes, monkeypatch
):
    moved, skipped, patterns = [], [], []
    original = Trainer.update

    def watched(self, number):
        before = [p.detach().clone() for p in self.model.parameters()]
        found = original(self, number)
        moved.append(any(not a.equal(b) for a, b in zip(before, self.model.parameters(), strict=True)))
        skipped.append(self.loss_scale.skipped)
        patterns.append([state.pattern for _, _, _, state in self.control.sparse_tensors()])
        return found

    monkeypatch.setattr(Trainer, "update", watched)
    options = ["train.precision=fp16", "train.checkpoint_every=1", "train.log_every=1", "measure.every=2"]
    config = make_config("recipe=sdgf_stepwise", *options)
    summary = assert_resumes(config, [1, 4])
    count = summary["skipped_updates"]
    assert 2 <= count < 10
    whole = slice(0, 12)  # before the resumes
    assert moved[whole] == [False] * count + [True] * (12 - count)
    assert skipped[whole] == [*range(1, count + 1), *[count] * (12 - count)]
    assert patterns[whole] == [[config.recipe.at(update, 12).pattern] * 2 for update in range(12)]
    metrics, noise = (
        [json.loads(line) for line in (config.run_folder / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "noise.jsonl")
    )
    train = [line for line in metrics if line["split"] == "train"]
    assert [line["skipped_updates"] for line in train] == skipped[whole]
    assert [line["loss_scale"] for line in train][:count] == [2.0 ** (25 - i) for i in range(count)]
    assert {line["update"] for line in noise} == {update for update in range(2, 13, 2) if update > count}


def test_a_finished_fp16_run_is_evaluated_in_fp16(make_config):
    from nmtrain.training.evaluation import evaluate_run

    config = make_config("train.precision=fp16", "recipe=sr_ste")
    summary = run(config)
    assert evaluate_run(config.run_folder)["metrics"] == summary["metrics"]
    assert {t.dtype for t in load_file(config.run_folder / "model.safetensors").values()} == {torch.float32}


def test_fp16_is_refused_for_models_of_text(refused):
    for model in ("t5", "bert"):
        assert refused(f"model={model}", "train.precision=fp16") == (
            "train.precision=fp16: overflows: the activations of T5 exceed the 65504 of half precision;"
            " allowed: fp32, bf16"
        )
