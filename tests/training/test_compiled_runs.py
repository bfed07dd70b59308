"""Whole runs by torch.compile: after the first update of a phase no graph is made, but for the first other length."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.training.loop import Trainer
from nmtrain.training.run import run

TEXT = ["data.max_length=48", "data.train_size=640", "data.val_size=20", "data.test_size=4"]
T5 = [f"model.options.{option}=64" for option in ("d_model", "d_ff")]
T5 += [f"model.options.{option}=1" for option in ("num_layers", "num_decoder_layers")]
BERT = ["model.options.hidden_size=64", "model.options.intermediate_size=64"]
BERT += ["model.options.num_hidden_layers=1", "model.options.num_attention_heads=2"]
MODELS = {
    "vit": ["experiment=smoke", "model.options.depth=1", "model.options.embed_dim=64"],
    "t5": ["model=t5", *TEXT, *T5],
    "bert": ["model=bert", *TEXT, *BERT],
}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_graphs_are_made_at_the_first_update_of_a_phase(model, tmp_path, monkeypatch):
    torch._dynamo.reset()
    counter, made = CompileCounterWithBackend("eager"), []
    original, update = torch.compile, Trainer.update

    def watched(self, number):
        before = counter.frame_count
        found = update(self, number)
        made.append(counter.frame_count - before)
        return found

    monkeypatch.setattr(torch, "compile", lambda module, mode: original(module, backend=counter))
    monkeypatch.setattr(Trainer, "update", watched)
    line = ["sparsity=1:8", "train.batch_size=32", "measure=off", "train.updates=14", "train.compile=true"]
    line += ["recipe=sdgf_stepwise", "recipe.dense_fraction=0.3", f"results_dir={tmp_path}", "train.eval_every=0.3"]
    run(check_config(compose_values(prepare_overrides([*MODELS[model], *line]))))
    torch._dynamo.reset()
    assert made[0] == 1
    assert made[1] == (model != "vit")  # lengths, of which there is more than one
    assert made[2:] == [0, 0, 1, *[0] * 9]  # and where weights are sparse


@pytest.mark.slow
def test_compiled_fp16_gives_the_losses_of_eager_fp16(make_config):
    def losses(*overrides):
        config = make_config("train.precision=fp16", "train.log_every=1", "train.updates=6", *overrides)
        run(config)
        lines = (config.run_folder / "metrics.jsonl").read_text().splitlines()
        return [float(line.split('"loss": ')[1].split(",")[0]) for line in lines if '"train"' in line]

    assert losses("train.compile=true") == pytest.approx(losses(), abs=5e-3)
