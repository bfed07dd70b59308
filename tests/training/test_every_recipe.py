"""What the paper's set-up adds to training, all at once, under every recipe: fp16 with its scale, layer decay, a rate
by the batch, accumulation, mixing, drop path, dropout and a teacher. The end is exactly N:M, and a resume is exact."""

import json

import pytest
import torch

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.sparsity import nm_mask
from nmtrain.training.export import load_run
from nmtrain.training.loop import Trainer
from nmtrain.training.run import run

QUICK = ["dense", "ste", "sr_ste", "mdgf_exponential", "sdgf_stepwise"]
OTHERS = [
    *("static", "mdgf_linear", "sdgf_geometric"),
    *("gmp", "asp", "step", "s_ste", "feather", "rigl", "top_kast", "ac_dc", "maxq"),
]
OPTIONS = {"rigl": ["recipe.every=3"], "top_kast": ["recipe.every=3"], "ac_dc": ["recipe.rounds=2"]}
SET_UP = ["train.precision=fp16", "optim.layer_decay=0.8", "optim.lr_batch=16", "train.micro_batches=2"]
SET_UP += ["train.mixup=0.2", "train.cutmix=1.0"]
SET_UP += ["++model.options.drop_path_rate=0.2", "++model.options.drop_rate=0.1", "model.options.depth=2"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    line = ["experiment=smoke", "recipe=dense", "train.updates=4", "train.batch_size=32"]
    line += ["model.options.depth=1", "model.options.embed_dim=64", f"results_dir={tmp_path_factory.mktemp('runs')}"]
    config = check_config(compose_values(prepare_overrides(line)))
    run(config)
    return config.run_folder


@pytest.mark.parametrize("recipe", [*QUICK, *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in OTHERS)])
def test_the_paper_s_set_up(recipe, teacher, make_config, assert_resumes, monkeypatch):
    options = [f"recipe={recipe}", *OPTIONS.get(recipe, []), *SET_UP, f"train.teacher={teacher}"]
    config = make_config(*options, "train.checkpoint_every=1", "train.updates=8")
    original = Trainer.update

    def watched(self, number):
        """Masks are those of the weights before the update, whatever the precision."""
        before = [tensor.part_of(weight).clone() for tensor, weight, _, _ in self.control.sparse_tensors()]
        found = original(self, number)
        for weight, (tensor, _, mask, state) in zip(before, self.control.sparse_tensors(), strict=True):
            if recipe in ("ste", "sr_ste", "mdgf_exponential", "sdgf_stepwise"):
                assert mask.equal(nm_mask(weight, tensor.fit(state.pattern), tensor.axis))
        return found

    monkeypatch.setattr(Trainer, "update", watched)
    summary = assert_resumes(config, [2, 5])
    assert (summary["batch_size"], summary["micro_batches"]) == (32, 2)
    assert summary["flops"]["teacher"] > 0
    _, model = load_run(config.run_folder)  # verified group by group
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_rate_used_is_linear_in_the_batch_and_the_last_one_is_not_scaled(make_config):
    plain, scaled = make_config(), make_config("optim.lr_batch=128")
    assert scaled.optim.lr == plain.optim.lr * 32 / 128
    assert scaled.optim.final_lr == plain.optim.final_lr
    assert scaled.values["optim"]["lr"] == plain.optim.lr
    run(scaled)
    records = [json.loads(line) for line in (scaled.run_folder / "metrics.jsonl").read_text().splitlines()]
    rates = [record["learning_rate"] for record in records if record["split"] == "train"]
    assert max(rates) < scaled.optim.lr * (1 + 1e-9)


def test_a_dry_run_shows_the_rate_used(nm, tiny):
    status, out, _ = nm(*tiny, "optim.lr=1e-3", "optim.lr_batch=4096", "train.batch_size=64", "--dry-run")
    assert status == 0
    assert "highest learning rate 1.5625e-05 (optim.lr=0.001 for 4096 samples)" in out.splitlines()


def test_new_keys_change_no_name_where_they_change_nothing(make_config):
    name = make_config().run_name
    same = ["optim.layer_decay=null", "optim.lr_batch=null", "train.teacher=null", "train.teacher_weight=0.5"]
    assert make_config(*same).run_name == name
    assert make_config("train.compile=default").run_name == make_config("train.compile=true").run_name != name
    assert make_config("optim.layer_decay=0.5").run_name != name


def test_layer_decay_is_refused_where_layers_are_not_known(nm, own, monkeypatch):
    files = {
        "mine.py": "from torch import nn\nfrom nmtrain.models import register\n\n\n@register\ndef flat(shape):\n"
        "    size = shape.channels * shape.image_size**2\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size, shape.num_classes))\n",
        "model/flat.yaml": "# One layer.\nkind: image_classifier\nname: flat\nroles: []\noptions: {}\n",
    }
    line = ["model=flat", "data=digits", "recipe=dense", "mask.names=['1.weight']", "mask.roles=[]", "measure=off"]
    status, _, err = nm("--plugins", str(own(files)), *line, "optim.layer_decay=0.7", "--dry-run")
    assert status == 2
    assert err.startswith("optim.layer_decay=0.7: model.name=flat: its layers are not known; allowed: models of timm")


def test_graphs_of_cuda_and_accumulation_are_refused_together(make_config):
    with pytest.raises(ValueError, match=r"train\.compile=reduce-overhead: its CUDA graphs .*micro_batches=2 adds up"):
        make_config("train.compile=reduce-overhead", "train.micro_batches=2")


def test_modes_of_the_compiler_are_handed_to_it(make_config, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, mode: asked.append(mode) or model)
    for mode in ("true", "default", "max-autotune", "false"):
        run(make_config(f"train.compile={mode}", "train.updates=1", "force=true"))
    assert asked == [None, None, "max-autotune"]
