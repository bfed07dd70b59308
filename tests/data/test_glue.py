import math

import datasets
import pytest
import torch

from nmtrain.data import describe_data, headline, load_data
from nmtrain.data.glue_tasks import TASKS, score, to_class, written
from nmtrain.data.source import TextShape
from nmtrain.data.tokens import ByteTokenizer
from nmtrain.errors import DataError

TOKENS = ByteTokenizer()


def rows(task: str, count: int) -> datasets.Dataset:
    labels = (
        [1.2 * (i % 5) for i in range(count)] if task == "stsb" else [i % len(TASKS[task].labels) for i in range(count)]
    )
    texts = {column: [f"{column} number {i} " + "x" * (i % 7) for i in range(count)] for column in TASKS[task].columns}
    return datasets.Dataset.from_dict(texts | {"label": labels, "idx": list(range(count))})


def write(task: str, folder, format: str = "parquet"):
    folder.mkdir(parents=True)
    splits = {"train": 12} | {split: 5 + number for number, split in enumerate(TASKS[task].splits.values())}
    made = {split: rows(task, count) for split, count in splits.items()}
    if format == "saved":
        datasets.DatasetDict(made).save_to_disk(folder)
    for split, dataset in made.items():
        if format != "saved":
            getattr(dataset, {"jsonl": "to_json"}.get(format, f"to_{format}"))(folder / f"{split}.{format}")
    return folder


@pytest.fixture
def load(tmp_path):
    return lambda **options: load_data(
        "glue", **({"cache_dir": str(tmp_path / "cache"), "seed": 0, "tokenizer": TOKENS} | options)
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_task_loads_from_a_folder(task, load, tmp_path):
    write(task, tmp_path / "glue" / task)
    options = {"task": task, "path": str(tmp_path / "glue")}
    data, shape = load(**options), describe_data("glue", **options)
    val_size = 5 + 6 if task == "mnli" else 5
    longest = max(len(label) for label in TASKS[task].labels)
    assert shape == TextShape(12, val_size, input_length=128, target_length=longest + 2, labels=TASKS[task].labels)
    assert data.shape == shape
    assert data.headline == headline("glue", **options)
    assert list(data.val_sets) == (["matched", "mismatched"] if task == "mnli" else [""])
    batch = data.train_batch(0, 12)
    texts = sorted(TOKENS.decode(row) for row in batch.input_ids.tolist())
    source = rows(task, 12)
    assert texts == sorted(written(task, [row[column] for column in TASKS[task].columns]) for row in source)
    assert [TOKENS.decode(row) for row in batch.labels.clamp(min=0).tolist()] == [
        shape.labels[c] for c in batch.classes
    ]
    for val in data.val_sets.values():
        perfect = val.score(val.references)
        assert set(perfect) == {*TASKS[task].metrics, data.headline}
        assert perfect[data.headline] == pytest.approx(1.0, abs=1e-3)  # stsb's references are rounded


@pytest.mark.parametrize("format", ["jsonl", "csv", "saved"])
def test_every_format_gives_the_same_batches(format, load, tmp_path):
    write("mrpc", tmp_path / "parquet" / "mrpc")
    reference = load(task="mrpc", path=str(tmp_path / "parquet")).train_batch(0, 4)
    options = {"task": "mrpc", "path": str(write("mrpc", tmp_path / "set", format))}
    assert describe_data("glue", **options).train_size == 12
    batch = load(**options).train_batch(0, 4)
    assert torch.equal(batch.input_ids, reference.input_ids)
    assert torch.equal(batch.classes, reference.classes)


def test_tokens_are_cached_and_made_anew_for_other_options(load, tmp_path):
    folder = write("rte", tmp_path / "set")
    load(task="rte", path=str(folder))
    files = {file.name for file in (tmp_path / "cache").glob("*.safetensors")}
    assert len(files) == 2
    load(task="rte", path=str(folder))
    assert {file.name for file in (tmp_path / "cache").glob("*.safetensors")} == files
    load(task="rte", path=str(folder), input_length=40)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 4
    rows("rte", 14).to_parquet(folder / "train.parquet")
    assert load(task="rte", path=str(folder)).shape.train_size == 14


def test_long_inputs_are_cut(load, tmp_path):
    data = load(task="rte", path=str(write("rte", tmp_path / "set")), input_length=20)
    assert data.cut == 17
    assert data.train.lengths[:, 0].tolist() == [20] * 12


def test_inputs_are_in_the_words_of_t5():
    assert written("cola", ["It rains."]) == "cola sentence: It rains."
    assert written("qqp", ["Who?", None]) == "qqp question1: Who? question2: "
    assert written("mnli", ["H.", "P."]) == "mnli hypothesis: H. premise: P."
    assert TASKS["stsb"].labels[:3] == ("0.0", "0.2", "0.4")
    assert TASKS["stsb"].labels[-1] == "5.0"
    assert len(TASKS["stsb"].labels) == 26


@pytest.mark.parametrize(
    ("task", "label", "word"),
    [
        ("rte", 1, "not_entailment"),
        ("wnli", 1, "entailment"),
        ("mnli", 2, "contradiction"),
        ("sst2", 0.0, "negative"),
        ("stsb", 0, "0.0"),
        ("stsb", 2.57, "2.6"),
        ("stsb", 3.5, "3.6"),
        ("stsb", 4.95, "5.0"),
        ("stsb", 5, "5.0"),
    ],
)
def test_labels_become_words(task, label, word):
    assert TASKS[task].labels[to_class(task, label)] == word


@pytest.mark.parametrize(
    ("task", "label"),
    [("rte", -1), ("rte", 2), ("rte", None), ("rte", "1"), ("rte", 0.5), ("stsb", math.nan), ("stsb", 5.2)],
)
def test_other_labels_become_none(task, label):
    assert to_class(task, label) is None


def words(task: str, classes: list[int]) -> list[str]:
    return [TASKS[task].labels[index] for index in classes]


def test_accuracy_counts_matches_and_nothing_else():
    given = ["entailment", " neutral ", "contradictio", "", "entailment"]
    assert score("mnli", [0, 1, 2, 0, 1], given) == {"accuracy": pytest.approx(2 / 5)}


def test_matthews_by_hand():
    # 2 of each kind right, 1 of each kind wrong: (2*2 - 1*1) / sqrt(3 * 3 * 3 * 3)
    truth = [1, 1, 1, 0, 0, 0]
    assert score("cola", truth, words("cola", [1, 1, 0, 0, 0, 1])) == {"matthews": pytest.approx(1 / 3)}
    garbled = ["acceptable", "acceptable", "?", "unacceptable", "unacceptable", "?"]
    assert score("cola", truth, garbled) == {"matthews": pytest.approx(1 / 3)}
    assert score("cola", truth, words("cola", [1] * 6)) == {"matthews": 0.0}


def test_f1_by_hand():
    # 2 found, 1 missed, 1 taken wrongly: F1 = 2*2 / (2*2 + 1 + 1); 5 of 7 right.
    values = score("mrpc", [1, 1, 1, 0, 0, 0, 0], words("mrpc", [1, 1, 0, 0, 0, 0, 1]))
    assert values == pytest.approx({"accuracy": 5 / 7, "f1": 2 / 3, "score": (5 / 7 + 2 / 3) / 2})
    garbled = score("qqp", [1, 1, 1, 0, 0, 0, 0], [*words("qqp", [1, 1]), "no", *words("qqp", [0, 0, 0]), "no"])
    assert garbled == pytest.approx(values)
    assert score("mrpc", [1, 0], ["", ""]) == {"accuracy": 0.0, "f1": 0.0, "score": 0.0}


def test_correlations_by_hand():
    # Deviations (-2, -1, 3) and (-1, 0, 1): 5 / sqrt(14 * 2); the order is the same.
    values = score("stsb", [0.0, 1.0, 5.0], ["0.0", "1.0", "2.0"])
    assert values == pytest.approx(
        {"pearson": 5 / math.sqrt(28), "spearman": 1.0, "score": (5 / math.sqrt(28) + 1) / 2}
    )


def test_what_is_no_similarity_is_the_middle_of_the_scale():
    truth = [0.0, 1.0, 5.0]
    assert score("stsb", truth, ["0", "similar", "1e9"]) == score("stsb", truth, ["0.0", "2.5", "5.0"])
    assert score("stsb", truth, ["0", "nan", "-3"]) == score("stsb", truth, ["0.0", "2.5", "0.0"])
    assert score("stsb", truth, ["a", "b", "c"]) == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}


def test_similarities_half_way_between_fifths_go_to_the_even_one_as_in_t5(load, tmp_path):
    folder = write("stsb", tmp_path / "set")
    dataset = datasets.Dataset.from_dict({"sentence1": ["a"] * 3, "sentence2": ["b"] * 3, "label": [0.5, 2.5, 4.5]})
    dataset.to_parquet(folder / "validation.parquet")
    assert load(task="stsb", path=str(folder)).val_sets[""].references == ["0.4", "2.4", "4.4"]


def test_similarities_are_scored_before_rounding(load, tmp_path):
    folder = write("stsb", tmp_path / "set")
    dataset = datasets.Dataset.from_dict({"sentence1": ["a"] * 3, "sentence2": ["b"] * 3, "label": [0.05, 0.11, 0.29]})
    dataset.to_parquet(folder / "validation.parquet")
    val = load(task="stsb", path=str(folder)).val_sets[""]
    assert val.references == ["0.0", "0.2", "0.2"]
    assert val.score(["0", "0.2", "0.2"])["pearson"] < 0.9


def test_hidden_labels_are_refused(load, tmp_path):
    folder = write("rte", tmp_path / "set")
    datasets.Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [-1]}).to_parquet(
        folder / "train.parquet"
    )
    with pytest.raises(DataError, match=r"glue/rte \(train\): example 0 has the label -1, which is none of this task"):
        load(task="rte", path=str(folder))


def test_headlines_are_the_tasks_own():
    own = {"cola": "matthews", "mrpc": "score", "qqp": "score", "stsb": "score"}
    assert {task: headline("glue", task=task) for task in TASKS} == dict.fromkeys(TASKS, "accuracy") | own


def test_sizes_of_the_hub_need_no_data():
    assert describe_data("glue", task="mnli").train_size == 392702
    assert describe_data("glue", task="mnli").val_size == 19647


def refusal(**options) -> list[str]:
    with pytest.raises(ValueError, match=r"^data\.") as raised:
        describe_data("glue", **options)
    return str(raised.value).splitlines()


def test_bad_options_are_refused_with_what_is_allowed(tmp_path):
    assert refusal(task="squad") == ["data.task: 'squad' is not allowed; allowed: " + ", ".join(TASKS)]
    assert refusal(path="/no/where") == ["data.path=/no/where: there is no such folder"]
    assert refusal(input_length=4) == ["data.input_length: 4 is not allowed; allowed: whole numbers from 8 to 100000"]
    lines = refusal(task="mnli", path=str(tmp_path))
    assert [line.split(";")[0] for line in lines] == [
        f"data.path={tmp_path}: has no {split} split"
        for split in ("train", "validation_matched", "validation_mismatched")
    ]
