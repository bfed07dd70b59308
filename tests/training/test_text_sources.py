"""GLUE, WMT and plain text from small local folders, each from the files to the summary."""

import json
import random

import pytest
from safetensors.torch import load_file

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.data.text.glue_tasks import TASKS
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.run import run

TINY = ["sparsity=1:8", "recipe=mdgf", "train.updates=3", "train.batch_size=8", "train.eval_batch_size=8"]
TINY += ["train.precision=fp32", "train.eval_every=0.2", "measure.every=3"]
T5 = [f"model.options.{option}=64" for option in ("d_model", "d_ff")]
T5 += [f"model.options.{option}=1" for option in ("num_layers", "num_decoder_layers")]
BERT = [f"model.options.{option}=64" for option in ("hidden_size", "intermediate_size")]
BERT += ["model.options.num_hidden_layers=1"]
WORDS = ["red", "green", "house", "tree", "runs", "sleeps", "the", "a"]


def sentence(draw):
    return " ".join(draw.choices(WORDS, k=4))


def trained(tmp_path, *overrides):
    line = [*TINY, f"results_dir={tmp_path}/runs", f"data.cache_dir={tmp_path}/cache", *overrides]
    config = check_config(compose_values(prepare_overrides(line)))
    summary = run(config)
    assert json.loads((config.run_folder / "status.json").read_text())["state"] == "finished"
    assert evaluate_run(config.run_folder)["metrics"] == summary["metrics"]  # the same to the last digit
    return summary, config


def write_glue(folder, task, fields, label):
    draw = random.Random(0)
    folder.mkdir()
    splits = {"train": 40, "validation": 12}
    if task == "mnli":
        splits = {"train": 40, "validation_matched": 12, "validation_mismatched": 8}
    for split, count in splits.items():
        rows = [{field: sentence(draw) for field in fields} | {"label": label(draw), "idx": i} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("task", "fields", "label", "metrics"),
    [
        ("rte", ("sentence1", "sentence2"), lambda draw: draw.randrange(2), {"accuracy"}),
        ("mrpc", ("sentence1", "sentence2"), lambda draw: draw.randrange(2), {"accuracy", "f1", "score"}),
        ("stsb", ("sentence1", "sentence2"), lambda draw: 5 * draw.random(), {"pearson", "spearman", "score"}),
        (
            "mnli",
            ("premise", "hypothesis"),
            lambda draw: draw.randrange(3),
            {"accuracy_matched", "accuracy_mismatched"},
        ),
    ],
)
@pytest.mark.parametrize("model", ["t5", "bert"])
def test_glue_from_a_local_folder(task, fields, label, metrics, model, tmp_path):
    write_glue(tmp_path / "glue", task, fields, label)
    options = {"t5": T5, "bert": BERT}[model]
    summary, _ = trained(
        tmp_path, f"model={model}", *options, "data=glue", f"data.task={task}", f"data.path={tmp_path}/glue"
    )
    assert {f"val/{metric}" for metric in metrics} <= summary["metrics"].keys()
    assert f"val/{summary['headline']}" in summary["metrics"]
    assert "signatures" not in summary


@pytest.mark.parametrize("task", ["cola", "sst2", "qqp", "qnli", "wnli"])
def test_what_is_scored_of_the_other_tasks_is_scored_again(task, tmp_path):
    columns = TASKS[task].columns
    write_glue(tmp_path / "glue", task, columns, lambda draw: draw.randrange(2))
    score_by = ["train.score_by=ranking"] if task == "sst2" else []
    trained(tmp_path, "model=t5", *T5, "data=glue", f"data.task={task}", f"data.path={tmp_path}/glue", *score_by)


def test_wmt_from_plain_parallel_text_with_a_beam(tmp_path):
    draw = random.Random(0)
    (tmp_path / "wmt").mkdir()
    for split, count in {"train": 40, "validation": 10}.items():
        for language in ("en", "de"):
            (tmp_path / "wmt" / f"{split}.{language}").write_text("".join(sentence(draw) + "\n" for _ in range(count)))
    data = ["data=wmt", "data.pair=en-de", f"data.path={tmp_path}/wmt", "data.target_length=16", "data.input_length=64"]
    summary, _ = trained(tmp_path, "model=t5", *T5, *data, "train.beams=2")
    assert summary["headline"] == "bleu"
    assert 0 <= summary["metrics"]["val/bleu"] <= 100
    assert summary["signatures"].keys() == {"bleu", "chrf"}
    assert "|tok:13a|" in summary["signatures"]["bleu"]


def test_span_corruption_of_local_text_is_scored_by_perplexity_and_learns(tmp_path):
    draw = random.Random(0)
    (tmp_path / "texts").mkdir()
    for i in range(3):
        (tmp_path / "texts" / f"{i}.txt").write_text("\n".join(sentence(draw) for _ in range(200)))
    data = ["data=text", f"data.path={tmp_path}/texts", "data.window=64"]
    summary, config = trained(
        tmp_path, "model=t5", *T5, *data, "train.updates=30", "optim.lr=0.01", "train.log_every=1"
    )
    assert summary["headline"] == "perplexity"
    lines = [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    weights = load_file(config.run_folder / "model.safetensors")
    kept = [weight for name, weight in weights.items() if "DenseReluDense" in name]
    assert kept
    assert all((weight.unflatten(1, (-1, 8)).count_nonzero(2) == 1).all() for weight in kept)


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny T5 with a word-level tokenizer of its own, as a folder that from_pretrained reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast, T5Config

    words = ["<pad>", "</s>", "<unk>", *WORDS, *"0123456789:the.", "translate", "English", "to", "German", "1"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*words, *(f"<extra_id_{i}>" for i in range(100))]))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    extra = [f"<extra_id_{i}>" for i in range(100)]
    PreTrainedTokenizerFast(tokenizer_object=raw, **special, extra_special_tokens=extra).save_pretrained(
        tmp_path / "t5"
    )
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=256, **sizes)).save_pretrained(tmp_path / "t5")
    (tmp_path / "t5" / "generation_config.json").write_text('{"min_length": 20, "num_beams": 3}')  # of another task
    return tmp_path / "t5"


def test_a_checkpoint_s_own_tokenizer_serves_translation_and_span_corruption(checkpoint, tmp_path):
    draw = random.Random(0)
    (tmp_path / "wmt").mkdir()
    for split, language in ((split, language) for split in ("train", "validation") for language in ("en", "de")):
        (tmp_path / "wmt" / f"{split}.{language}").write_text("".join(sentence(draw) + "\n" for _ in range(20)))
    model = ["model=t5_small", f"model.pretrained={checkpoint}", "train.updates=2"]
    summary, _ = trained(tmp_path, *model, "data=wmt", f"data.path={tmp_path}/wmt", "data.target_length=16")
    assert summary["headline"] == "bleu"
    (tmp_path / "a.txt").write_text("\n".join(sentence(draw) for _ in range(300)))
    summary, _ = trained(tmp_path, *model, "data=text", f"data.path={tmp_path}/a.txt", "data.window=64")
    assert summary["headline"] == "perplexity"
