"""`train.flops`: as many updates as a recipe and a pattern get for a training budget."""

import json
from dataclasses import dataclass

import pytest
import yaml

from nmtrain.errors import ConfigError
from nmtrain.measure import updates_within
from nmtrain.recipes import Recipe, SparsityState, register
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run
from nmtrain.training.plan import make_plan, shape_faults
from nmtrain.training.run import run

RECIPES = ["dense", "static", "sr_ste", "mdgf", "sdgf", "gmp", "asp", "step", "rigl", "top_kast", "ac_dc", "maxq"]


@pytest.fixture
def budgeted(make_config):
    """A config whose length is a budget; ``length`` gives it another one."""

    def make(*overrides, length=("train.flops=2e9",)):
        return make_config("train.updates=null", *length, *overrides)

    return make


def test_the_largest_number_whose_cost_does_not_exceed_the_budget_by_hand():
    assert [updates_within(budget, lambda total: 3.0 * total) for budget in (2.9, 3, 5.9, 6, 300, 301)] == [
        0,
        1,
        1,
        2,
        100,
        100,
    ]
    half_dense = {1: 1.0, 2: 11.0, 3: 12.0, 4: 22.0, 5: 23.0, 6: 33.0, 7: 34.0, 8: 44.0}  # updates at 10, then at 1
    assert [updates_within(budget, half_dense.__getitem__) for budget in (21, 22, 23, 33)] == [3, 4, 5, 6]


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_update_more_would_exceed_the_budget(budgeted, recipe):
    config = budgeted(f"recipe={recipe}", "mask.roles=[ff,q]", "mask.patterns.q=2:4")
    plan = make_plan(config)
    total = plan.config.total_updates
    assert plan.flops["training"] <= 2e9
    longer = make_plan(
        budgeted(f"recipe={recipe}", "mask.roles=[ff,q]", "mask.patterns.q=2:4", length=[f"train.updates={total + 1}"])
    )
    assert longer.flops["training"] > 2e9
    assert config.run_name == plan.config.run_name


def test_a_sparser_run_gets_more_updates_and_dense_its_own_number(budgeted):
    def updates(*overrides):
        return make_plan(budgeted(*overrides)).config.total_updates

    dense = updates("recipe=dense")
    assert dense == updates("recipe=dense", "sparsity=1:32")
    assert dense < updates("recipe=static", "sparsity=2:4") < updates("recipe=static", "sparsity=1:8")


def test_a_run_keeps_to_its_budget_and_is_that_of_so_many_updates(budgeted, tmp_path):
    config = budgeted("recipe=sdgf")
    summary = run(config)
    folder = config.run_folder
    told = run(budgeted("recipe=sdgf", length=[f"train.updates={summary['updates']}"]))
    assert summary["flops"] == told["flops"]
    assert summary["metrics"] == told["metrics"]
    assert 0 < 2e9 - summary["flops"]["training"] < 2e9 / summary["updates"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["flops"] == 2e9
    assert run(config) == summary  # finished already
    assert evaluate_run(folder)["metrics"] == pytest.approx(summary["metrics"])
    assert "timm.create_model" in export_run(folder, tmp_path / "out")


def test_a_resumed_run_whose_budget_would_pay_for_another_number_is_refused(budgeted, monkeypatch):
    from nmtrain.training import loop, plan

    config = budgeted("train.checkpoint_every=2")
    total = make_plan(config).config.total_updates

    def killed(trainer, split):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "updates_within", lambda budget, flops: total + 1)
        with pytest.raises(ConfigError, match=f"train.flops=2e\\+09: paid for {total} updates when this run began"):
            run(config)
    assert run(config)["updates"] == total


def test_a_budget_of_less_than_an_update_names_the_least_that_will_do(budgeted):
    config = budgeted("recipe=static", length=["train.flops=1000"])
    with pytest.raises(ConfigError) as refusal:
        make_plan(config)
    (fault,) = refusal.value.faults
    assert fault.startswith("train.flops=1000: is less than one update costs; allowed: at least ")
    assert shape_faults([config, config]) == [fault]
    least = fault.rpartition(" ")[2]
    assert make_plan(budgeted("recipe=static", length=[f"train.flops={least}"])).config.total_updates == 1
    assert "pays for more than 1000000000 updates" in shape_faults([budgeted(length=["train.flops=1e30"])])[0]


def test_patterns_that_an_axis_cannot_carry_are_told_of_a_budget_too(budgeted):
    (fault,) = shape_faults([budgeted("recipe=sdgf", "recipe.structure=custom", 'recipe.patterns=["16:128","1:8"]')])
    assert "M = 128 of the phase 16:128 does not divide its input axis of length 64" in fault


TEXT = [
    "model=t5",
    "train=text",
    "experiment=null",
    "data=listops",
    "data.train_size=320",
    "data.val_size=40",
    "data.test_size=40",
]
TEXT += ["model.options.d_model=64", "model.options.d_ff=128", "model.options.num_layers=1", "train.batch_size=32"]
TEXT += ["~model.options.depth", "~model.options.embed_dim"]


@pytest.mark.slow
def test_text_is_paid_for_by_the_lengths_that_its_samples_have(budgeted):
    config = budgeted(*TEXT, "recipe=sr_ste", length=["train.flops=3e9"])
    least = make_plan(config).config.total_updates  # by the longest
    summary = run(config)
    total = summary["updates"]
    assert total > least
    assert summary["flops"]["training"] <= 3e9
    listed = json.loads((config.run_folder / "sparse_tensors.json").read_text())
    assert all(tensor["phases"] == [[0, "1:8"]] for tensor in listed)
    told = run(budgeted(*TEXT, "recipe=sr_ste", length=[f"train.updates={total}"]))
    longer = run(budgeted(*TEXT, "recipe=sr_ste", length=[f"train.updates={total + 1}"]))
    assert told["flops"] == summary["flops"]
    assert told["metrics"] == summary["metrics"]
    assert longer["flops"]["training"] > 3e9


@pytest.mark.usefixtures("registries_as_before")
def test_a_recipe_of_ones_own_that_goes_to_and_fro_keeps_to_its_budget(budgeted):
    @register
    @dataclass(frozen=True, kw_only=True)
    class ToAndFro(Recipe):
        name = "to_and_fro"
        options = ()

        def between(self, done, length):
            return SparsityState(self.target if done % 2 else None)

    plan = make_plan(budgeted("recipe=dense", "recipe.name=to_and_fro"))
    total = plan.config.total_updates
    assert plan.flops["training"] <= 2e9
    assert [phase["first_update"] for phase in plan.flops["phases"][:4]] == [0, 1, 2, 3]
    assert make_plan(budgeted("recipe=static")).config.total_updates > total
