"""What one run computes: updates, accumulation, precision, projection, records."""

import json
import math

import pytest
import timm
import torch
from safetensors.torch import load_file

from nmtrain.config.schema import AdafactorConfig, AdamWConfig, SGDConfig
from nmtrain.runs.folder import RunFolderError
from nmtrain.sparsity import sparsity_control
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run, load_run
from nmtrain.training.image_task import ImageClassification
from nmtrain.training.loop import Trainer
from nmtrain.training.optim import build_optimizer, learning_rate, optimizer_bytes
from nmtrain.training.run import run

ADAMW = {
    "name": "adamw",
    "lr": 1.0,
    "schedule": "cosine",
    "weight_decay": 0.1,
    "betas": [0.9, 0.99],
    "eps": 1e-8,
    "warmup_fraction": 0.2,
    "final_lr": 0.0,
    "clip_norm": None,
}


def lines(config, split=None):
    records = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if split in (None, record["split"])]


def test_learning_rate_warms_up_linearly_then_follows_a_cosine():
    config = AdamWConfig(**ADAMW)
    rates = [learning_rate(config, update, 10) for update in range(11)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2] == 1.0
    assert rates[6] == pytest.approx(0.5)  # half-way through the eight updates of the cosine
    assert rates[10] == pytest.approx(0.0)
    assert rates[4] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_other_schedules_after_the_warm_up():
    def rates(schedule, **changes):
        config = AdamWConfig(**{**ADAMW, "schedule": schedule, "final_lr": 0.1} | changes)
        return [learning_rate(config, update, 12) for update in (2, 4, 8, 12)]

    # Two updates of warm-up; then ten in a line from 1 to 0.1, or as sqrt(2 / update).
    assert rates("linear") == pytest.approx([1.0, 0.82, 0.46, 0.1])
    assert rates("inverse_sqrt") == pytest.approx([1.0, 0.5**0.5, 0.5, (1 / 6) ** 0.5])
    assert rates("inverse_sqrt", final_lr=0.6)[2:] == [0.6, 0.6]
    assert rates("constant") == [1.0] * 4
    # The last half of twelve goes down in a line: at 8, a third of it is done.
    assert rates("wsd", cooldown_fraction=0.5) == pytest.approx([1.0, 1.0, 0.7, 0.1])
    # A fifth of twelve is two updates: ten is still the whole rate, eleven half-way.
    config = AdamWConfig(**{**ADAMW, "schedule": "wsd", "final_lr": 0.1})
    assert [learning_rate(config, update, 12) for update in (10, 11, 12)] == pytest.approx([1.0, 0.55, 0.1])


def test_adafactor_never_exceeds_one_over_the_square_root_of_the_update_and_keeps_rows_and_columns():
    config = AdafactorConfig(
        name="adafactor",
        lr=0.5,
        schedule="constant",
        weight_decay=0.0,
        beta2_decay=-0.8,
        clip_update=1.0,
        warmup_fraction=0.0,
        final_lr=0.0,
        clip_norm=None,
    )
    assert [learning_rate(config, update, 100) for update in (0, 3, 15)] == [0.5, 0.5, 0.25]
    model = torch.nn.Linear(6, 4)
    optimizer = build_optimizer(model, config)
    model(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    kept = [x for state in optimizer.state.values() for key, x in state.items() if key != "step"]
    assert optimizer_bytes(model, config) == 4 * sum(x.numel() for x in kept) == 4 * (6 + 4 + 4)


def test_warmup_starts_and_cosine_ends_at_the_final_rate():
    config = AdamWConfig(**{**ADAMW, "final_lr": 0.1, "warmup_fraction": 0.9})
    assert learning_rate(config, 0, 10) == pytest.approx(0.2)
    assert learning_rate(config, 8, 10) == pytest.approx(1.0)
    assert learning_rate(config, 10, 10) == pytest.approx(0.1)


def test_weight_decay_spares_vectors_and_embeddings():
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=64, depth=1, num_heads=2)
    decayed, rest = build_optimizer(model, AdamWConfig(**ADAMW)).param_groups
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
        "head.weight",
    }
    assert {"pos_embed", "cls_token", "norm.bias"} <= {names[id(p)] for p in rest["params"]}


def test_sgd_is_torch_s_own_with_momentum_and_nesterov():
    config = SGDConfig(
        name="sgd",
        schedule="cosine",
        lr=0.1,
        weight_decay=0.0,
        momentum=0.9,
        nesterov=True,
        warmup_fraction=0.0,
        final_lr=0.0,
        clip_norm=None,
    )
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config)
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["nesterov"] is True


def test_accumulation_changes_the_result_by_rounding_only(make_config):
    whole, parts = make_config("train.micro_batches=1"), make_config("train.micro_batches=4")
    run(whole)
    run(parts)
    for one, four in zip(lines(whole, "train"), lines(parts, "train"), strict=True):
        assert one["update"] == four["update"]
        assert one["loss"] == pytest.approx(four["loss"], abs=1e-4)
        assert one["pattern"] == four["pattern"]
        assert one["flops"] == four["flops"]


def test_masks_are_made_once_per_update_and_reused_by_micro_batches(make_config, monkeypatch):
    from nmtrain.sparsity import control

    made = []
    one, several = control.nm_mask, control.write_masks
    monkeypatch.setattr(control, "nm_mask", lambda *args: made.append(1) or one(*args))
    monkeypatch.setattr(control, "write_masks", lambda pairs, *args: made.append(len(pairs)) or several(pairs, *args))
    config = make_config("train.micro_batches=4", "recipe=ste", "train.updates=3", "train.eval_every=100")
    run(config)
    tensors = 2  # fc1 and fc2 of the one block
    surgery, projection = 2, 1  # the plan sparsifies a twin on the meta device; what is baked in are the masks in force
    assert sum(made) == tensors * (surgery + 3 + projection)


def test_flops_are_told_by_phase(make_config):
    config = make_config("recipe=sdgf", "train.log_every=5", "train.updates=40", "train.eval_every=1", "measure=off")
    run(config)
    phases = json.loads((config.run_folder / "summary.json").read_text())["flops"]["phases"]
    starts = [first for first, _ in config.recipe.phases(40)]
    assert [phase["first_update"] for phase in phases] == starts
    assert len(starts) > 2
    before = [sum(phase["flops"] for phase in phases[:number]) for number in range(len(phases))]
    for line in lines(config):
        assert line["phase"] == max(number for number, first in enumerate(starts) if first < line["update"])
        assert line["flops"] == before[line["phase"]] + line["phase_flops"]
    assert line["phase_flops"] == phases[-1]["flops"]


def test_every_line_stands_at_its_update_and_flops_only_grow(make_config):
    config = make_config("train.log_every=5", "train.updates=12", "train.eval_every=0.1")
    run(config)
    assert [line["update"] for line in lines(config, "train")] == [5, 10, 12]
    every = max(1, round(0.1 * config.updates_per_epoch))
    assert [line["update"] for line in lines(config, "val")] == list(range(every, 12, every))
    assert [line["update"] for line in lines(config, "final")] == [12]
    flops = [line["flops"] for line in lines(config)]
    assert flops == sorted(flops)
    summary = json.loads((config.run_folder / "summary.json").read_text())
    assert flops[-1] == summary["flops"]["training"]
    assert summary["metrics"]["val/accuracy"] == lines(config, "final")[0]["accuracy"]


@pytest.mark.parametrize("recipe", ["mdgf_exponential", "sdgf_geometric", "ste"])
def test_final_model_has_exactly_n_in_every_group_and_is_the_one_that_was_scored(recipe, make_config):
    config = make_config(f"recipe={recipe}", "recipe.finetune_fraction=0.0")
    summary = run(config)
    state = load_file(config.run_folder / "model.safetensors")
    for name in ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"):
        groups = state[name].unflatten(1, (-1, 8))
        assert (groups.count_nonzero(2) == 1).all()
        assert not groups[groups == 0].signbit().any()
    assert state["blocks.0.attn.qkv.weight"].count_nonzero() == state["blocks.0.attn.qkv.weight"].numel()
    again = evaluate_run(config.run_folder)["metrics"]
    assert again["val/accuracy"] == summary["metrics"]["val/accuracy"]
    assert again["val/loss"] == pytest.approx(summary["metrics"]["val/loss"], rel=1e-6)
    assert summary["density"] == 0.125


def test_dense_run_is_dense_and_its_name_has_no_pattern(make_config):
    config = make_config("recipe=dense")
    assert config.run_folder == make_config("recipe=dense", "sparsity=1:4", "mask.axis=output").run_folder
    summary = run(config)
    assert summary["density"] == summary["active_share"] == 1.0
    assert summary["sparsity"] is None
    assert summary["flops"]["training"] == summary["flops"]["training_dense"]
    assert summary["bytes"]["dense"] == summary["bytes"]["sparse"]
    assert summary["bytes"]["exported"] == (config.run_folder / "model.safetensors").stat().st_size
    assert json.loads((config.run_folder / "sparse_tensors.json").read_text()) == []


def test_export_loads_in_plain_timm_with_equal_logits(make_config, tmp_path):
    config = make_config()
    run(config)
    plain = eval(export_run(config.run_folder, tmp_path / "export"), {"timm": timm}).eval()
    _, ours = load_run(config.run_folder)
    images = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain(images), ours.eval()(images))
    assert (plain.blocks[0].mlp.fc1.weight == 0).float().mean() == 0.875


def test_a_tampered_model_is_refused_by_eval_and_export(make_config):
    from safetensors.torch import save_file

    config = make_config()
    run(config)
    state = load_file(config.run_folder / "model.safetensors")
    state["blocks.0.mlp.fc1.weight"][3, 8:16] = 1.0
    save_file(state, config.run_folder / "model.safetensors")
    with pytest.raises(RunFolderError, match=r"blocks\.0\.mlp\.fc1\.weight: group \(3, 1\) .* has 8 non-zero weights"):
        load_run(config.run_folder)


def test_bf16_autocast_keeps_fp32_weights_and_trains(make_config):
    config = make_config("train.precision=bf16")
    summary = run(config)
    assert math.isfinite(summary["metrics"]["val/loss"])
    state = load_file(config.run_folder / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    exact = make_config()
    run(exact)
    pairs = zip(lines(config, "train"), lines(exact, "train"), strict=True)
    differences = [abs(low["loss"] - full["loss"]) for low, full in pairs]
    assert 0 < max(differences) < 0.05  # close, and not the same arithmetic


def test_recipe_state_reaches_the_forward_at_the_update_it_names(make_config, monkeypatch):
    seen = []
    original = Trainer.update

    def watched(self, number):
        result = original(self, number)
        (_, _, mask, state), *_ = sparsity_control(self.model).sparse_tensors()
        seen.append((number, str(state.pattern), mask.float().mean().item()))
        return result

    monkeypatch.setattr(Trainer, "update", watched)
    config = make_config("recipe=sdgf_stepwise", "recipe.finetune_fraction=0.0", "train.updates=8")
    run(config)
    patterns = ["7:8", "7:8", "4:8", "4:8", "2:8", "2:8", "1:8", "1:8"]
    densities = {"7:8": 0.875, "4:8": 0.5, "2:8": 0.25, "1:8": 0.125}
    assert seen == [(number, pattern, densities[pattern]) for number, pattern in enumerate(patterns)]


def test_dropout_draws_by_seed_and_update_number_and_by_nothing_else(make_config, monkeypatch):
    drawn = {}
    original = Trainer.update

    def watched(self, number):
        states = []
        hook = self.model.blocks[0].mlp.drop1.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()))
        torch.rand(len(drawn) + 1)  # what others drew before does not matter
        result = original(self, number)
        hook.remove()
        assert len(states) == 1
        drawn.setdefault((self.config.seed, number), []).append(tuple(states[0].tolist()))
        return result

    monkeypatch.setattr(Trainer, "update", watched)
    for seed, updates in ((0, 3), (1, 3), (0, 4)):
        run(make_config(f"seed={seed}", f"train.updates={updates}", "model.options.proj_drop_rate=0.1"))
    assert sorted(drawn) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]
    assert all(len(set(states)) == 1 for states in drawn.values())
    assert len({states[0] for states in drawn.values()}) == 7


@pytest.mark.parametrize("recipe", ["sdgf", "dense"])
@pytest.mark.parametrize(("every", "expected"), [(4, [4, 8, 12]), (5, [5, 10, 12]), (12, [12])])
def test_each_evaluation_is_made_once_the_last_one_too(recipe, every, expected, make_config, monkeypatch):
    evaluated = []
    original = Trainer.evaluate
    scored = []
    score = ImageClassification.evaluate
    monkeypatch.setattr(Trainer, "evaluate", lambda self, split: evaluated.append(self.done) or original(self, split))
    monkeypatch.setattr(ImageClassification, "evaluate", lambda self, *args: scored.append(1) or score(self, *args))
    config = make_config(f"recipe={recipe}", f"train.eval_every={every / make_config().updates_per_epoch}")
    run(config)
    assert evaluated == expected
    assert len(scored) == len(expected)
    assert [(r["update"], r["split"]) for r in lines(config) if r["split"] != "train"] == [
        *((update, "val") for update in expected[:-1]),
        (12, "final"),
    ]
    evaluated.clear()
    for name in ("summary.json", "model.safetensors"):  # as a kill after the last checkpoint leaves it
        (config.run_folder / name).unlink()
    (config.run_folder / "status.json").write_text('{"state": "running", "reason": null}')
    run(config)
    assert evaluated == [12]


@pytest.mark.slow
def test_compiled_training_gives_the_losses_of_eager_training(make_config):
    eager, compiled = make_config(), make_config("train.compile=true")
    run(eager)
    run(compiled)
    for a, b in zip(lines(eager, "train"), lines(compiled, "train"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-3)
