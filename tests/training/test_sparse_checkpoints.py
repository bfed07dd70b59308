"""A sparse checkpoint is trained further, also at a denser pattern: kept weights that are exactly zero are no fault."""

import json

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run
from nmtrain.training.run import run

LINE = [
    "model=t5_small",
    "model.tokenizer=bytes",
    "data=listops",
    "train=text",
    "train.updates=2",
    "train.batch_size=8",
]
LINE += ["data.train_size=64", "data.val_size=12", "data.test_size=4", "data.max_length=24", "measure=off"]
DEAD = 5  # hidden units of the encoder's FF that no input reaches: ReLU lets no gradient back to their weights


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=384, **sizes))
    with torch.no_grad():
        model.encoder.block[0].layer[1].DenseReluDense.wi.weight[:DEAD] = 0.0
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def train(checkpoint, tmp_path, *overrides):
    line = [*LINE, f"model.pretrained={checkpoint}", f"results_dir={tmp_path}/runs", *overrides]
    config = check_config(compose_values(prepare_overrides(line)))
    return config, run(config)


@pytest.mark.parametrize("recipe", ["mdgf", "static", "sr_ste"])
def test_one_of_four_and_then_two_of_four(recipe, checkpoint, tmp_path, caplog):
    config, summary = train(checkpoint, tmp_path, f"recipe={recipe}", "sparsity=1:4")
    zeros = DEAD * 32 // 4  # one kept weight of each group in the rows that are zero
    assert summary["kept_zeros"] == zeros
    assert f"{zeros} kept weights are exactly zero" in caplog.text
    export_run(config.run_folder, tmp_path / "export")
    config, summary = train(tmp_path / "export", tmp_path, f"recipe={recipe}", "sparsity=2:4")
    assert json.loads((config.run_folder / "status.json").read_text())["state"] == "finished"
    assert summary["kept_zeros"] >= 2 * zeros
    assert evaluate_run(config.run_folder)["metrics"]["val/accuracy"] == summary["metrics"]["val/accuracy"]
    export_run(config.run_folder, tmp_path / "again")


def test_a_run_without_such_zeros_says_nothing_of_them(tmp_path, caplog):
    line = ["experiment=smoke", "train.updates=2", "model.options.depth=1", f"results_dir={tmp_path}/runs"]
    assert run(check_config(compose_values(prepare_overrides(line))))["kept_zeros"] == 0
    assert "exactly zero" not in caplog.text
