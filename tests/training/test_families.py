"""One tiny checkpoint of every family of language models that the docs name, from the plan to the export."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import ConfigError
from nmtrain.models.roles import weights_by_role
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run, load_run
from nmtrain.training.loading import load_task
from nmtrain.training.on_meta import has_idle_weights
from nmtrain.training.plan import make_plan, shape_faults
from nmtrain.training.run import run

LISTOPS = ["data=listops", "data.train_size=64", "data.val_size=12", "data.test_size=1", "data.max_length=24"]
SHORT = ["train=text", "train.updates=2", "train.batch_size=8", "train.eval_every=1", "measure=off", "sparsity=1:4"]
# Which tiny checkpoints stand for a name in docs/choosing.md.
NAMED = {
    "T5": ["t5", "t5_v1_1"],
    "mT5": ["mt5"],
    "ByT5": ["byt5"],
    "LongT5": ["longt5_local", "longt5_global"],
    "BART": ["bart", "mbart", "pegasus", "marian", "blenderbot", "blenderbot_small", "m2m_100", "plbart", "led"],
    "BERT": ["bert"],
    "RoBERTa": ["roberta"],
    "ELECTRA": ["electra"],
    "DeBERTa": ["deberta", "deberta_relative", "deberta_v2"],
    "DistilBERT": ["distilbert"],
}
# Settings of another task, as a checkpoint may bring them. Marian's folder has them in config.json, as old ones do.
OF_ANOTHER_TASK = {"min_length": 15, "num_beams": 2, "repetition_penalty": 5.0, "suppress_tokens": [2, 7]}


def test_every_family_that_the_page_names_has_a_checkpoint_here():
    page = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text()
    families = re.search(r"another encoder-decoder \(([^)]*)\) or classifier \(([^)]*)\)", page).groups()
    named = [name for group in families for name in re.split(r", | and its kin", group) if name]
    assert set(named) <= NAMED.keys()
    assert set(NAMED) <= set(named)


def config_of(folder, kind, tmp_path, *overrides):
    model = "t5" if kind == "text_to_text" else "bert"
    line = [f"model={model}", f"model.pretrained={folder}", *LISTOPS, *SHORT, f"results_dir={tmp_path}/runs"]
    return check_config(compose_values(prepare_overrides([*line, *overrides])))


@pytest.mark.parametrize("family", [family for families in NAMED.values() for family in families])
def test_a_checkpoint_is_planned_trained_evaluated_and_exported(family, checkpoint, tmp_path):
    folder, kind = checkpoint(family), checkpoint.families[family][0]
    file = "config.json" if family == "marian" else "generation_config.json"
    if kind == "text_to_text":
        before = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(before | OF_ANOTHER_TASK))
        if family == "marian":
            (folder / "generation_config.json").unlink()
    config = config_of(folder, kind, tmp_path, "recipe=ste", "mask.roles=[ff,q,k,v,o]")
    summary = run(config)
    assert 0 < summary["flops"]["training"] < summary["flops"]["training_dense"]
    assert 0 < summary["flops"]["inference"] < summary["flops"]["inference_dense"]
    assert evaluate_run(config.run_folder)["metrics"] == summary["metrics"]

    loaded = eval(export_run(config.run_folder, tmp_path / "out"), {"transformers": transformers})
    _, ours = load_run(config.run_folder)
    task = load_task(config, ours, torch.device("cpu"))
    (batch,) = task.data.val_sets[""].batches(12)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    ours.eval()
    with torch.no_grad():
        if kind == "text_to_text":
            written = [task.data.tokenizer.decode(row[1:]) for row in loaded.generate(**inputs).tolist()]
            assert written == task._generated(batch)
            inputs["decoder_input_ids"] = task._shifted(batch.labels)
        assert torch.equal(loaded(**inputs).logits, ours(**inputs).logits)
    weights = loaded.state_dict()
    for role, name, rows in weights_by_role(loaded):
        weight = weights[name][slice(*rows)] if rows else weights[name]
        assert (weight.unflatten(1, (-1, 4)).count_nonzero(2) <= 1).all(), (role, name)


@pytest.mark.parametrize("family", ["bart", "deberta_v2"])
def test_a_dense_run_of_a_checkpoint_says_that_it_costs_what_a_dense_one_does(family, checkpoint, tmp_path):
    config = config_of(checkpoint(family), checkpoint.families[family][0], tmp_path, "recipe=dense")
    flops = run(config)["flops"]
    assert flops["training"] == flops["training_dense"] > 0


@pytest.mark.parametrize("recipe", [["step", "optim=adamw"], ["sr_ste", "optim=sgd"]], ids=" ".join)
def test_layers_may_be_skipped_while_training(recipe, checkpoint, tmp_path):
    """LayerDrop: half of the layers' weights have no gradient at an update; what they cost counts as if all had one."""
    name, *overrides = recipe
    overrides += [f"recipe={name}", "train.updates=8", "measure=default", "measure.every=1", "measure.window=3"]
    folder, dropped = checkpoint("bart"), ["model.options.encoder_layerdrop=0.5", "model.options.decoder_layerdrop=0.5"]
    whole = make_plan(config_of(folder, "text_to_text", tmp_path, *overrides))
    config = config_of(folder, "text_to_text", tmp_path, *overrides, *dropped)
    run(config)
    assert make_plan(config).flops == whole.flops
    assert has_idle_weights(config)  # as DDP has to know
    records = [json.loads(line) for line in (config.run_folder / "noise.jsonl").read_text().splitlines()]
    skipped = [record["update"] for record in records if record["grad_abs_mean"] == 0]
    assert 0 < len(skipped) < len(records)


def test_processes_that_share_the_weights_refuse_layers_that_each_would_skip_by_itself(checkpoint, tmp_path):
    folder = checkpoint("bart", decoder_layerdrop=0.25)
    replicas, sharded, whole = (
        config_of(folder, "text_to_text", tmp_path, "recipe=ste", "launch.processes=2", *overrides)
        for overrides in (
            ["launch.strategy=ddp"],
            ["launch.strategy=fsdp"],
            ["launch.strategy=fsdp", "model.options.decoder_layerdrop=0.0"],
        )
    )
    told = r"launch.strategy=fsdp: not with model.options.decoder_layerdrop=0.25 .*; allowed: 0.0, or ddp"
    with pytest.raises(ConfigError, match=told):
        make_plan(sharded)
    assert shape_faults([replicas, whole]) == []
    assert len(shape_faults([replicas, sharded])) == 1
