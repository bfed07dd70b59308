"""Text tasks run through the one loop: learning, scoring, exact resume, cost by length, export."""

import json
import math
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import ConfigError
from nmtrain.models import build_model
from nmtrain.models.language import build_tokenizer
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run, load_run
from nmtrain.training.loading import load_task
from nmtrain.training.plan import make_plan
from nmtrain.training.run import run

LISTOPS = ["data.train_size=256", "data.val_size=60", "data.test_size=4", "data.max_length=24"]
SHORT = ["sparsity=1:8", "train.updates=8", "train.batch_size=16", "train.eval_every=0.2", "train.log_every=3"]
SHORT += ["measure.every=4", "measure.window=3", "train.eval_batch_size=16", "train.keep_after=true"]
T5 = [f"model.options.{option}=64" for option in ("d_model", "d_ff")]
T5 += [f"model.options.{option}=1" for option in ("num_layers", "num_decoder_layers")]
BERT = [f"model.options.{option}=64" for option in ("hidden_size", "intermediate_size")]
BERT += ["model.options.num_hidden_layers=1"]


@pytest.fixture
def make_config(tmp_path):
    def make(*overrides, model="t5"):
        plain = ["model.pretrained=null", "data=listops", "train=text"]
        options = {"t5": T5, "bert": BERT, "t5_v1_1_base": [*T5, *plain]}[model]
        line = [f"model={model}", *options, *LISTOPS, *SHORT, f"results_dir={tmp_path}/runs", *overrides]
        return check_config(compose_values(prepare_overrides(line)))

    return make


def task_of(config):
    torch.manual_seed(0)
    model = build_model(config.model, config.data_shape)
    return model, load_task(config, model, torch.device("cpu"))


def lines(config, split):
    records = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["split"] == split]


@pytest.mark.parametrize("model", ["t5", "bert"])
def test_a_run_records_scores_throughput_padding_and_noise(model, make_config):
    config = make_config("recipe=mdgf", model=model)
    summary = run(config)
    assert summary["headline"] == "accuracy"
    assert 0 <= summary["metrics"]["val/accuracy"] <= 1
    assert summary["throughput"]["unit"] == "tokens"
    assert 0 < summary["padding"] < 0.5
    assert summary["flops"]["training"] < summary["flops"]["training_dense"]
    assert len(lines(config, "val")) == 2
    assert (config.run_folder / "noise.jsonl").read_text().count('"tensor": "mean"') == 2
    assert evaluate_run(config.run_folder)["metrics"] == summary["metrics"]


def test_the_loss_of_an_untrained_model_is_that_of_teacher_forcing_by_transformers_itself(make_config):
    config = make_config()
    model, task = task_of(config)
    model.eval()
    (part,) = task.batches(0)
    expected = model(
        input_ids=part.batch.input_ids, attention_mask=part.batch.attention_mask, labels=part.batch.labels
    ).loss
    assert task.loss(model, part).item() == pytest.approx(expected.item(), rel=1e-6)


def test_accumulation_gives_the_gradient_of_the_whole_batch_though_parts_differ_in_tokens(make_config):
    gradients = []
    for parts in (1, 4):
        model, task = task_of(make_config(f"train.micro_batches={parts}"))
        for part in task.batches(3):
            task.loss(model, part).backward()
        gradients.append(model.shared.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_ranking_chooses_the_label_with_the_largest_likelihood(make_config):
    model, task = task_of(make_config("train.score_by=ranking"))
    model.eval()
    val = task.data.val_sets[""]
    batch = next(iter(val.batches(5)))
    tokenizer = task.data.tokenizer
    scores = torch.empty(5, 10)
    with torch.no_grad():
        for i, word in enumerate(task.data.shape.labels):
            labels = torch.tensor([*tokenizer.encode([word])[0], tokenizer.end]).expand(5, -1).contiguous()
            for row in range(5):
                one = model(
                    input_ids=batch.input_ids[row : row + 1],
                    attention_mask=batch.attention_mask[row : row + 1],
                    labels=labels[row : row + 1],
                )
                scores[row, i] = -one.loss * labels.shape[1]
        expected = [task.data.shape.labels[i] for i in scores.argmax(1).tolist()]
        assert task._ranked(batch) == expected
    metrics = task.evaluate(model, 16)
    assert set(metrics) == {"loss", "perplexity", "token_accuracy", "accuracy"}


def test_generation_scores_what_the_model_writes(make_config, monkeypatch):
    model, task = task_of(make_config("train.beams=2"))
    val = task.data.val_sets[""]
    written = iter([val.references[i] for i in val.order.tolist()])

    def generate(input_ids, generation_config, **settings):
        assert generation_config.num_beams == 2
        rows = [[0, *task.data.tokenizer.encode([next(written)])[0], 1] for _ in range(len(input_ids))]
        return torch.tensor(rows)

    monkeypatch.setattr(model, "generate", generate)
    assert task.evaluate(model, 16)["accuracy"] == 1.0  # each answer at its own question, in whatever order


def test_the_share_of_answers_that_are_no_label_is_a_metric(make_config, monkeypatch):
    model, task = task_of(make_config())
    written = iter(["12", "", " 7 ", *["3"] * 57])
    monkeypatch.setattr(task, "_generated", lambda batch: [next(written) for _ in range(len(batch.input_ids))])
    assert task.evaluate(model, 16)["invalid"] == 2 / 60
    model, task = task_of(make_config("train.score_by=ranking"))
    assert "invalid" not in task.evaluate(model, 16)  # a ranking can choose nothing else
    model, task = task_of(make_config(model="bert"))
    assert "invalid" not in task.evaluate(model, 16)


def test_evaluation_by_generation_uses_the_masks_that_train(make_config):
    config = make_config("recipe=ste", "train.updates=2")
    run(config)
    _, model = load_run(config.run_folder)
    for name, weight in model.state_dict().items():
        if "DenseReluDense" in name:
            assert (weight.unflatten(1, (-1, 8)).count_nonzero(2) == 1).all()


def test_perplexity_is_the_exponential_of_the_loss(make_config):
    model, task = task_of(make_config())
    metrics = task.evaluate(model, 16)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))


def test_cost_counts_tokens_and_not_padding(make_config):
    config = make_config("recipe=dense")
    summary = run(config)
    plan = make_plan(config)
    _, task = task_of(config)
    expected = 0.0
    for update in range(8):
        for source, target in task.data.train_lengths(update, 16).tolist():
            moments = [source**p * target**q for p, q in ((0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1))]
            expected += 6 * plan.by_length.mean(moments, 1).total
    assert summary["flops"]["training"] == pytest.approx(expected, rel=1e-12)
    assert lines(config, "final")[-1]["flops"] == summary["flops"]["training"]
    assert summary["flops"]["training"] < plan.flops["training"]  # where every sample counts as the longest


@pytest.mark.parametrize("recipe", [["recipe=sdgf", "recipe.dense_fraction=0.2"], ["recipe=mdgf", "optim=adafactor"]])
def test_resume_is_bitwise_exact(recipe, make_config, tmp_path):
    config = make_config(*recipe, "train.checkpoint_every=1", "train.keep=100", "model.options.dropout_rate=0.1")
    run(config)
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    expected = load_file(reference / "model.safetensors")
    for update in (1, 4, 7):
        shutil.copytree(reference, config.run_folder)
        for path in (config.run_folder / "checkpoints").iterdir():
            if int(path.name.split("-")[0]) > update:
                path.unlink()
        (config.run_folder / "status.json").write_text('{"state": "running", "reason": null}')
        run(config)
        got = load_file(config.run_folder / "model.safetensors")
        assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())
        for name in ("metrics.jsonl", "noise.jsonl"):
            assert (config.run_folder / name).read_text() == (reference / name).read_text()
        shutil.rmtree(config.run_folder)


@pytest.mark.parametrize("model", ["t5", "t5_v1_1_base", "bert"])
def test_an_export_is_what_plain_from_pretrained_loads_with_the_same_logits(model, make_config, tmp_path):
    import transformers

    config = make_config("mask.roles=[ff,q,k,v,o]", model=model)
    run(config)
    expression = export_run(config.run_folder, tmp_path / "out")
    loaded = eval(expression, {"transformers": transformers})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    _, ours = load_run(config.run_folder)
    ours.eval()
    loaded.eval()
    inputs = tokenizer(["[MAX 2 9 [MIN 4 7 ] 0 ]", "[SM 1 2 ]"], padding=True, return_tensors="pt")
    if model != "bert":
        inputs = dict(inputs) | {"decoder_input_ids": torch.tensor([[0, 55], [0, 52]])}
        assert loaded.lm_head.weight is loaded.shared.weight
    else:
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        assert loaded.config.id2label[3] == "3"
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, ours(**inputs).logits, rtol=0, atol=1e-5)
    sparse = [
        weight for name, weight in loaded.named_parameters() if "DenseReluDense" in name or "intermediate" in name
    ]
    for weight in sparse:
        if weight.dim() == 2:
            assert (weight.unflatten(1, (-1, 8)).count_nonzero(2) == 1).all()
    assert build_tokenizer(config.model).encode(["[SM 1 2 ]"])[0] == tokenizer("[SM 1 2 ]")["input_ids"][:-1]


def test_a_run_that_starts_from_a_pretrained_folder_resumes_and_exports_its_own_weights(make_config, tmp_path):
    first = make_config("recipe=dense")
    run(first)
    export_run(first.run_folder, tmp_path / "start")
    config = make_config(f"model.pretrained={tmp_path / 'start'}", "model.name=t5_small", "train.updates=1")
    summary = run(config)
    trained, start = (load_file(path / "model.safetensors") for path in (config.run_folder, first.run_folder))
    assert summary["model"] == "t5_small"
    name = "encoder.final_layer_norm.weight"
    assert 0 < (trained[name] - start[name]).abs().max() < 0.01  # one update away
    export_run(config.run_folder, tmp_path / "end")
    assert torch.equal(load_file(tmp_path / "end" / "model.safetensors")[name], trained[name])


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_what_a_run_and_its_export_write_may_be_read_as_every_new_file(mask, make_config, tmp_path):
    before = os.umask(mask)
    try:
        config = make_config("train.updates=1")
        run(config)
        export_run(config.run_folder, tmp_path / "out")
    finally:
        os.umask(before)
    files = [file for place in (config.run_folder, tmp_path / "out") for file in place.rglob("*") if file.is_file()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~mask}
    assert (tmp_path / "out" / "model.safetensors") in files


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.precision=fp16"], r"train\.precision=fp16: overflows: .*allowed: fp32, bf16"),
        (["data=glyphs"], r"data=glyphs: holds images, which model=t5 \(text_to_text\) does not read.*listops"),
        (["train.score_by=ranking", "train.beams=4"], r"train\.beams=4: has no effect with train\.score_by=ranking"),
        (["train.score_by=rank"], r"train\.score_by=rank: "),
        (["mask.stacks=[middle]"], r"mask\.stacks"),
        (["data=text", "train.beams=4"], r"train\.beams=4: has no effect with data=text, which is not generated"),
        (["data=text", "data.noise_density=0"], r"data\.noise_density: 0 is not allowed; allowed: numbers above 0"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        check_config(compose_values(prepare_overrides(["model=t5", f"results_dir={tmp_path}", *overrides])))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=vit", "data=listops"], r"data=listops: holds text, which model=vit .*glyphs"),
        (["model=vit", "train.beams=4"], r"train\.beams=4: has no effect with model\.kind=image_classifier"),
        (["model=vit", "model.tokenizer=x"], r"model\.tokenizer=x: has no effect with model\.kind=image_classifier"),
        (
            ["model=bert", "train.score_by=ranking"],
            r"train\.score_by=ranking: has no effect with model\.kind=text_class",
        ),
    ],
)
def test_options_of_text_models_are_refused_elsewhere(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        check_config(compose_values(prepare_overrides([f"results_dir={tmp_path}", *overrides])))


def test_the_order_of_stacks_and_naming_both_of_them_make_no_other_run(make_config):
    names = {
        make_config(*stacks).run_name
        for stacks in ([], ["mask.stacks=[encoder,decoder]"], ["mask.stacks=[decoder,encoder]"])
    }
    assert len(names) == 1
    assert make_config("mask.stacks=[encoder]").run_name not in names


def test_bf16_trains(make_config):
    summary = run(make_config("train.precision=bf16", "train.updates=3"))
    assert math.isfinite(summary["metrics"]["val/loss"])
