"""Classifiers of texts and pairs: what they are given, and that an export fed the usual way gets our scores."""

import json
import random

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import pearsonr
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import ConfigError
from nmtrain.models import build_model
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run, load_run
from nmtrain.training.loading import load_task
from nmtrain.training.run import run

WORDS = ["red", "green", "house", "tree", "runs", "sleeps", "the", "a"]
SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY = ["sparsity=1:8", "train.updates=2", "train.batch_size=8", "train.eval_batch_size=5", "measure=off"]
BYTES = [f"model.options.{option}={value}" for option, value in SIZES.items()]
TASKS = {  # columns as a classifier is given them, and a label
    "mnli": (("premise", "hypothesis"), lambda draw: draw.randrange(3)),
    "stsb": (("sentence1", "sentence2"), lambda draw: round(5 * draw.random(), 2)),
    "sst2": (("sentence",), lambda draw: draw.randrange(2)),
}


def rows(task: str, split: str) -> list[dict]:
    columns, label = TASKS[task]
    draw = random.Random(split)
    texts = [[" ".join(draw.choices(WORDS, k=draw.randrange(9))) for _ in columns] for _ in range(16)]
    return [dict(zip(columns, pair, strict=True)) | {"label": label(draw)} for pair in texts]


@pytest.fixture
def data(tmp_path):
    for task in TASKS:
        (tmp_path / "glue" / task).mkdir(parents=True)
        splits = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
        for split in ["train", *splits]:
            lines = "".join(json.dumps(row) + "\n" for row in rows(task, split))
            (tmp_path / "glue" / task / f"{split}.jsonl").write_text(lines)
    return ["data=glue", f"data.path={tmp_path}/glue", f"data.cache_dir={tmp_path}/cache", "data.input_length=12"]


def bert_words(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)


def write_bert(folder):
    bert_words(folder)
    BertModel(BertConfig(vocab_size=16, **SIZES)).save_pretrained(folder)


def write_roberta(folder):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    RobertaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    config = RobertaConfig(vocab_size=len(pieces), max_position_embeddings=40, type_vocab_size=1, **SIZES)
    RobertaModel(config).save_pretrained(folder)


def write_distilbert(folder):
    bert_words(folder)  # gives token types, which this model does not read
    config = DistilBertConfig(vocab_size=16, dim=64, hidden_dim=64, n_layers=1, n_heads=2)
    DistilBertModel(config).save_pretrained(folder)


WRITERS = {"bert": write_bert, "roberta": write_roberta, "distilbert": write_distilbert}


@pytest.fixture
def make_config(data, tmp_path):
    def make(kind, *overrides):
        model = BYTES if kind == "bytes" else [f"model.pretrained={tmp_path / kind}"]
        line = ["model=bert", *model, *data, *TINY, f"results_dir={tmp_path}/runs", *overrides]
        values = compose_values(prepare_overrides(line))
        if kind != "bytes":
            torch.manual_seed(0)
            WRITERS[kind](tmp_path / kind)
            values["model"]["options"] = {}
        return check_config(values)

    return make


def fed_the_usual_way(folder, task, split, reads_types):
    """Logits of an export, and the labels, as anybody would get them."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    examples = rows(task, split)
    texts = [[row[column] for row in examples] for column in TASKS[task][0]]
    inputs = tokenizer(*texts, truncation=True, max_length=12, padding=True, return_tensors="pt")
    assert ("token_type_ids" in inputs and inputs["token_type_ids"].any().item()) == (reads_types and len(texts) == 2)
    with torch.no_grad():
        return model.eval()(**inputs).logits, torch.tensor([row["label"] for row in examples]), model.config


@pytest.mark.parametrize("kind", ["bert", "roberta", "bytes"])
@pytest.mark.parametrize("task", ["mnli", "sst2"])
def test_an_exported_classifier_scores_the_same_for_whoever_feeds_it_the_usual_way(kind, task, make_config, tmp_path):
    config = make_config(kind, f"data.task={task}")
    metrics = run(config)["metrics"]
    export_run(config.run_folder, tmp_path / "out")
    splits = {"_matched": "validation_matched", "_mismatched": "validation_mismatched"}
    losses = []
    for suffix, split in (splits if task == "mnli" else {"": "validation"}).items():
        logits, labels, described = fed_the_usual_way(tmp_path / "out", task, split, kind == "bert")
        assert metrics[f"val/accuracy{suffix}"] == (logits.argmax(1) == labels).float().mean().item()
        losses.append(torch.nn.functional.cross_entropy(logits, labels).item())
    assert metrics["val/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-6)
    assert described.problem_type == "single_label_classification"
    assert list(described.id2label.values()) == list(config.data_shape.labels)


@pytest.mark.parametrize("kind", ["bert", "roberta", "bytes"])
def test_stsb_is_a_regression_on_the_labels_themselves(kind, make_config, tmp_path):
    config = make_config(kind, "data.task=stsb")
    summary = run(config)
    assert summary["headline"] == "score"
    export_run(config.run_folder, tmp_path / "out")
    logits, labels, described = fed_the_usual_way(tmp_path / "out", "stsb", "validation", kind == "bert")
    assert logits.shape == (16, 1)
    assert described.problem_type == "regression"
    assert described.num_labels == 1
    metrics = summary["metrics"]
    # Hardly trained, the model answers with almost one number, whose rounding the correlation shows.
    given, wanted = logits[:, 0].double().numpy(), labels.numpy()
    assert metrics["val/loss"] == pytest.approx(np.mean((given - wanted) ** 2), rel=1e-5)
    assert metrics["val/pearson"] == pytest.approx(pearsonr(given, wanted).statistic, abs=1e-3)
    assert metrics["val/score"] == (metrics["val/pearson"] + metrics["val/spearman"]) / 2
    assert "val/invalid" not in metrics
    assert evaluate_run(config.run_folder)["metrics"] == metrics


@pytest.mark.parametrize("task", ["mnli", "stsb"])
def test_the_loss_is_that_of_transformers_itself(task, make_config):
    config = make_config("bert", f"data.task={task}")
    model = build_model(config.model, config.data_shape).eval()
    task = load_task(config, model, torch.device("cpu"))
    (part,) = task.batches(0)
    batch = part.batch
    expected = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        token_type_ids=batch.token_types,
        labels=batch.classes,
    ).loss
    assert task.loss(model, part).item() == pytest.approx(expected.item(), rel=1e-6)


def test_pairs_are_the_tokenizer_s_own_with_their_types(make_config):
    config = make_config("bert", "data.task=mnli", "data.input_length=20")
    task = load_task(config, build_model(config.model, config.data_shape), torch.device("cpu"))
    tokenizer = AutoTokenizer.from_pretrained(config.model.pretrained)
    batch = task.data.train_batch(0, 16)
    found = {
        (tuple(ids[: sum(mask)]), tuple(types[: sum(mask)]))
        for ids, mask, types in zip(
            batch.input_ids.tolist(), batch.attention_mask.tolist(), batch.token_types.tolist(), strict=True
        )
    }
    examples = rows("mnli", "train")
    expected = tokenizer(*([row[column] for row in examples] for column in ("premise", "hypothesis")))
    assert found == {
        (tuple(ids), tuple(types)) for ids, types in zip(expected["input_ids"], expected["token_type_ids"], strict=True)
    }
    assert batch.token_types.shape == batch.input_ids.shape
    assert batch.part(0, 4).token_types.shape == (4, batch.input_ids.shape[1])
    assert not batch.token_types[batch.attention_mask == 0].any()


def test_a_model_without_token_types_is_given_none(make_config):
    config = make_config("distilbert", "data.task=mnli")
    metrics = run(config)["metrics"]
    assert 0 <= metrics["val/accuracy"] <= 1
    _, model = load_run(config.run_folder)
    task = load_task(config, model, torch.device("cpu"))
    assert next(iter(task.data.val_sets["matched"].batches(4))).token_types is not None


@pytest.mark.parametrize("task", ["mnli", "stsb"])
def test_a_run_from_before_pairs_is_evaluated_as_it_was_trained(task, make_config, tmp_path):
    config = make_config("bert", f"data.task={task}", "data.form=t5")
    metrics = run(config)["metrics"]
    _, model = load_run(config.run_folder)
    assert model.config.num_labels == {"mnli": 3, "stsb": 26}[task]
    values = yaml.safe_load((config.run_folder / "config.yaml").read_text())
    del values["data"]["form"]
    (config.run_folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert evaluate_run(config.run_folder)["metrics"] == metrics
    export_run(config.run_folder, tmp_path / "out")
    assert make_config("bert", f"data.task={task}").run_name != config.run_name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=t5", "data.form=t5"], r"data\.form=t5: has no effect with model\.kind=text_to_text"),
        (["model=bert", "data.form=pair"], r"data\.form: 'pair' is not allowed; allowed: auto, t5"),
        (
            ["model=bert", "data.task=stsb", "train.label_smoothing=0.1"],
            r"train\.label_smoothing=0\.1: has no effect on the regression that this task is here",
        ),
        (["model=bert", "++data.for_classifier=true"], r"data\.for_classifier=True: data=glue has no such option"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, message, data):
    with pytest.raises(ConfigError, match=message):
        check_config(compose_values(prepare_overrides([*overrides[:1], *data, "data.task=sst2", *overrides[1:]])))


@pytest.mark.parametrize("option", ["num_labels=3", "problem_type=regression"])
def test_what_the_data_say_of_the_head_is_not_an_option(option, make_config):
    config = make_config("bytes", "data.task=sst2", f"++model.options.{option}")
    with pytest.raises(ValueError, match=rf"^model\.options\.{option}: the data say it"):
        build_model(config.model, config.data_shape)
