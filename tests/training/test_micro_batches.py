"""An update is the same however it is cut into micro-batches. Weights are compared, not losses: what is added once per
micro-batch, per reading of a weight or at the wrong scale shows at once."""

import pytest
import torch

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.sparsity import sparsity_control
from nmtrain.training.loop import Trainer
from nmtrain.training.run import run

# Every recipe and gradient rule.
RECIPES = {
    "dense": ["recipe=dense"],
    "static": ["recipe=static"],
    "ste": ["recipe=ste"],
    "sr_ste": ["recipe=sr_ste", "recipe.penalty=0.05"],
    "mdgf masked": ["recipe=mdgf", "recipe.gradient=masked"],
    "mdgf straight-through": ["recipe=mdgf", "recipe.gradient=straight_through"],
    "sdgf masked": ["recipe=sdgf", "recipe.gradient=masked"],
    "sdgf straight-through": ["recipe=sdgf", "recipe.gradient=straight_through"],
    "sdgf with decay": ["recipe=sdgf", "recipe.decay=linear", "recipe.gradient=masked"],
}
ONE_PLAIN_STEP = ["train.updates=1", "optim=sgd", "optim.momentum=0", "optim.nesterov=false", "optim.clip_norm=null"]
ONE_PLAIN_STEP += ["optim.lr=1.0", "optim.warmup_fraction=0.0", "optim.weight_decay=0.0"]
VIT = ["experiment=smoke", "sparsity=1:8", "train.batch_size=32", "model.options.depth=1", "model.options.embed_dim=64"]
T5 = ["model=t5", "sparsity=1:8", "train.batch_size=32", "measure=off"]
T5 += ["data.train_size=64", "data.val_size=20", "data.test_size=4", "data.max_length=24"]
T5 += [f"model.options.{option}=64" for option in ("d_model", "d_ff")]
T5 += [f"model.options.{option}=1" for option in ("num_layers", "num_decoder_layers")]


@pytest.fixture
def after_one_update(tmp_path, monkeypatch):
    """The weights after the one update of a run, by name; of sparse tensors also weight and mask before it."""

    def train(*overrides):
        seen = {}
        original = Trainer.update

        def watched(self, number):
            states = {target: recipe.at(number, self.total) for target, recipe in self.config.recipes.items()}
            self.control.update(states)
            sparse = sparsity_control(self.model).sparse_tensors()
            seen["before"] = {tensor.label: (weight.clone(), mask.clone()) for tensor, weight, mask, _ in sparse}
            result = original(self, number)
            seen["after"] = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            seen["sparse"] = {t.label: w.detach().clone() for t, w, _, _ in self.control.sparse_tensors()}
            return result

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "update", watched)
            line = [*overrides, *ONE_PLAIN_STEP, f"results_dir={tmp_path}/runs"]
            run(check_config(compose_values(prepare_overrides(line))))
        return seen

    return train


def assert_same_weights(one, other):
    for name, weight in one["after"].items():
        torch.testing.assert_close(
            other["after"][name], weight, rtol=0, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_of_an_image_model_under_every_recipe_and_gradient_rule(recipe, after_one_update):
    whole = after_one_update(*VIT, *recipe)
    for micro_batches in (2, 4, 8):
        assert_same_weights(whole, after_one_update(*VIT, *recipe, f"train.micro_batches={micro_batches}"))


@pytest.mark.parametrize("recipe", ["sr_ste", "mdgf masked"])
def test_of_a_t5_whose_forward_reads_a_weight_several_times(recipe, after_one_update):
    whole = after_one_update(*T5, *RECIPES[recipe])
    assert_same_weights(whole, after_one_update(*T5, *RECIPES[recipe], "train.micro_batches=8"))


@pytest.mark.parametrize("model", [VIT, [*VIT, "train.precision=fp16"], T5], ids=["vit", "vit in fp16", "t5"])
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_sr_ste_moves_pruned_weights_once_by_rate_times_lambda_times_themselves(model, micro_batches, after_one_update):
    """Plain STE has the same gradients otherwise, and the rate is 1."""
    plain = after_one_update(*model, "recipe=ste", f"train.micro_batches={micro_batches}")
    penalised = after_one_update(*model, *RECIPES["sr_ste"], f"train.micro_batches={micro_batches}")
    assert penalised["before"]
    for label, (weight, mask) in penalised["before"].items():
        moved = plain["sparse"][label] - penalised["sparse"][label]
        torch.testing.assert_close(moved, 0.05 * weight * ~mask, rtol=0, atol=1e-6)
