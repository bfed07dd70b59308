"""Gradient checkpointing trains the same, to the bit, whatever a model has inside."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nmtrain.errors import ConfigError
from nmtrain.models.recompute import recompute_blocks, statistics_kept
from nmtrain.runs.weights import EMA, LAST
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.plan import make_plan, shape_faults
from nmtrain.training.run import run

SMALL_T5 = ["data=listops", "data.train_size=128", "data.val_size=32", "train.eval_batch_size=32"]
MODELS = {
    "vit": ["model.options.depth=2", "model.options.proj_drop_rate=0.1", "model.options.drop_path_rate=0.2"],
    "resnet": ["model=resnet", "~model.options.depth", "~model.options.embed_dim", "model.options.drop_rate=0.1"],
    "swin": ["model=swin", "~model.options.depth", "model.options.embed_dim=64", "model.options.drop_path_rate=0.2"],
}


def switched(*overrides):
    return [[*overrides, f"train.gradient_checkpointing={on}"] for on in ("false", "true")]


def assert_equal_runs(one, other):
    """Both have one name, since how gradients are computed changes no result: so in folders of their own."""
    for config in (one, other):
        run(config)
    for file in one.run_folder.glob("*.safetensors"):
        weights = [load_file(folder / file.name) for folder in (one.run_folder, other.run_folder)]
        assert weights[0].keys() == weights[1].keys()
        for name, tensor in weights[0].items():
            assert torch.equal(tensor, weights[1][name]), name
    for file in ("metrics.jsonl", "noise.jsonl"):
        assert (one.run_folder / file).read_bytes() == (other.run_folder / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sr_ste", "mdgf"])
@pytest.mark.parametrize("model", MODELS)
def test_image_models_train_the_same(model, recipe, make_config, tmp_path):
    roles = "[conv]" if model == "resnet" else "[ff,q]"
    common = [*MODELS[model], f"recipe={recipe}", f"mask.roles={roles}", "measure.every=4", "train.micro_batches=2"]
    plain, config = switched(*common)
    assert_equal_runs(make_config(*plain), make_config(*config, f"results_dir={tmp_path}/checkpointed"))


def test_it_does_not_enter_the_name(make_config):
    plain, config = switched()
    assert make_config(*plain).run_name == make_config(*config).run_name


class Normed(nn.Module):
    """A block with batch norm, of timm's kind."""

    grad_checkpointing = False

    def __init__(self, momentum):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=momentum)
        self.head = nn.Linear(4, 1)

    def set_grad_checkpointing(self, enable=True):
        self.grad_checkpointing = enable

    def block(self, x):
        return self.norm(self.linear(x)).relu()

    def forward(self, x):
        from timm.models import checkpoint

        return self.head(checkpoint(self.block, x) if self.grad_checkpointing else self.block(x))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_sees_a_batch_once(momentum):
    torch.manual_seed(0)
    plain = Normed(momentum)
    model = copy.deepcopy(plain)
    layers = recompute_blocks(model)
    assert layers == [model.norm]
    for _ in range(3):
        inputs = torch.randn(8, 4)
        plain(inputs).square().sum().backward()
        loss = model(inputs).square().sum()
        with statistics_kept(layers):
            loss.backward()
    assert model.norm.num_batches_tracked == 3
    assert model.norm.momentum == momentum
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_model_without_it_is_refused_by_name(make_config):
    config = make_config("model.name=convit_tiny", "model.options={}", "train.gradient_checkpointing=true")
    told = "train.gradient_checkpointing=true: model.name=convit_tiny: has no gradient checkpointing in timm"
    with pytest.raises(ConfigError, match=told):
        make_plan(config)
    plain = make_config("model.name=convit_tiny", "model.options={}")
    assert [fault[: len(told)] for fault in shape_faults([plain, config])] == [told]
    with pytest.raises(ValueError, match="has no gradient checkpointing"):
        recompute_blocks(nn.Linear(2, 2))


def test_timm_takes_the_kind_that_reaches_a_first_block_whatever_the_environment_says(monkeypatch):
    from timm.layers import set_reentrant_ckpt, use_reentrant_ckpt

    set_reentrant_ckpt(True)
    recompute_blocks(Normed(0.1))
    assert not use_reentrant_ckpt()


def test_a_plan_counts_the_same_flops_and_less_memory(make_config):
    """Of four blocks one is there at a time, beside the inputs of all."""
    depth, samples, tokens, width = 4, 32, 17, 64  # digits are 8 x 8, in patches of 2, and one class token
    plans = [make_plan(make_config(*each, f"model.options.depth={depth}")) for each in switched()]
    plain, plan = plans
    assert plan.flops == plain.flops
    assert plan.cost == plain.cost
    (all_kept, kept), more = (each.memory["activations"] for each in plans), plan.spared
    assert more == all_kept - kept
    assert plain.spared == 0
    # One block more costs a whole block without, and its input with.
    deeper = [make_plan(make_config(*each, f"model.options.depth={depth + 1}")) for each in switched()]
    block = deeper[0].memory["activations"] - all_kept
    assert deeper[1].memory["activations"] - kept == 4 * samples * tokens * width
    assert block > 10 * 4 * samples * tokens * width
    assert more == pytest.approx((depth - 1) * block, rel=0.15)


@pytest.mark.slow
def test_compiled_too(make_config, tmp_path):
    common = ["model.options.depth=2", "train.compile=true", "train.updates=3", "recipe=ste"]
    configs = [make_config(*each, f"results_dir={tmp_path}/{number}") for number, each in enumerate(switched(*common))]
    losses = []
    for config in configs:
        run(config)
        records = (config.run_folder / "metrics.jsonl").read_text().splitlines()
        losses.append([record["loss"] for record in map(json.loads, records)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["t5", "bert"])
def test_language_models_train_the_same(model, tmp_path, make_config):
    from nmtrain.config.check import check_config
    from nmtrain.config.compose import compose_values, prepare_overrides

    dropout = "model.options.dropout_rate=0.1" if model == "t5" else "model.options.hidden_dropout_prob=0.1"
    common = [f"model={model}", *SMALL_T5, "train.updates=6", "train.batch_size=16", "train.micro_batches=2"]
    common += ["recipe=sr_ste", "sparsity=1:8", "mask.roles=[ff,q]", "train.log_every=2", "measure.every=2", dropout]
    common += ["train.ema=0.5", "train.keep_best=true"]
    configs = [
        check_config(compose_values(prepare_overrides([*each, f"results_dir={tmp_path}/{number}"])))
        for number, each in enumerate(switched(*common))
    ]
    assert_equal_runs(*configs)
    # What was averaged is scored as it was, by what it writes too.
    for weights, prefix in ((LAST, ""), (EMA, "ema_")):
        again = evaluate_run(configs[1].run_folder, weights=weights)["metrics"]
        summary = json.loads((configs[1].run_folder / "summary.json").read_text())["metrics"]
        names = [name.removeprefix("val/") for name in again]
        assert [again[f"val/{name}"] for name in names] == [summary[f"val/{prefix}{name}"] for name in names]
