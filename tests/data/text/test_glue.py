import math
import shutil

import datasets
import numpy as np
import pytest
import torch

from nmtrain.data import describe_data, headline, load_data, local_files
from nmtrain.data.shapes import TextShape
from nmtrain.data.text.glue_tasks import TASKS, is_label, to_class, written
from nmtrain.data.text.tokens import ByteTokenizer
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


@pytest.mark.parametrize("task", ["rte", "mnli", "stsb"])
def test_labelled_test_files_of_a_folder_are_evaluated_on(task, load, tmp_path):
    folder = write(task, tmp_path / "set")
    names = {"": "test"} if task != "mnli" else {"matched": "test_matched", "mismatched": "test_mismatched"}
    for number, name in enumerate(names.values()):
        rows(task, 8 + number).to_parquet(folder / f"{name}.parquet")
    val, test = (load(task=task, path=str(folder), evaluate=split) for split in ("val", "test"))
    assert {name: len(found) for name, found in test.val_sets.items()} == dict(zip(names, (8, 9), strict=False))
    assert test.shape == describe_data("glue", task=task, path=str(folder), evaluate="test")
    assert test.shape.val_size == (17 if task == "mnli" else 8)
    assert torch.equal(val.train_batch(0, 4).input_ids, test.train_batch(0, 4).input_ids)
    read = {path.stem for path in local_files("glue", task=task, path=str(folder), evaluate="test")}
    assert read == {"train", *names.values()}
    assert {path.stem for path in local_files("glue", task=task, path=str(folder))} == {
        "train",
        *TASKS[task].splits.values(),
    }


@pytest.mark.parametrize("hidden", [-1, None])
def test_hidden_labels_of_a_test_set_are_refused_with_what_to_do(hidden, load, tmp_path):
    folder = write("rte", tmp_path / "set")
    unlabelled = rows("rte", 4).remove_columns("label").add_column("label", [hidden] * 4)
    unlabelled.to_parquet(folder / "test.parquet")
    with pytest.raises(DataError, match=r"^glue/rte \(test\): example 0 has no label \((-1|None)\): the published"):
        load(task="rte", path=str(folder), evaluate="test")
    load(task="rte", path=str(folder))


def test_the_hub_has_no_labelled_test_sets():
    with pytest.raises(ValueError, match=r"^data\.evaluate: 'test' is not allowed without data\.path: the published"):
        describe_data("glue", evaluate="test")


def test_a_missing_test_set_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no test split; looked for test\.parquet"):
        describe_data("glue", task="rte", path=str(write("rte", tmp_path / "set")), evaluate="test")


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
    files = {file.name for file in (tmp_path / "cache").glob("*.arrow")}
    assert len(files) == 2
    load(task="rte", path=str(folder))
    assert {file.name for file in (tmp_path / "cache").glob("*.arrow")} == files
    load(task="rte", path=str(folder), input_length=40)
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 4
    rows("rte", 14).to_parquet(folder / "train.parquet")
    assert load(task="rte", path=str(folder)).shape.train_size == 14


def test_long_inputs_are_cut(load, tmp_path):
    data = load(task="rte", path=str(write("rte", tmp_path / "set")), input_length=20)
    assert data.cut == 17
    assert data.train.lengths[:, 0].tolist() == [20] * 12


def test_inputs_are_in_the_words_of_t5():
    assert written("cola", ["It rains."]) == "cola sentence: It rains."
    assert written("qqp", ["Who?", ""]) == "qqp question1: Who? question2: "
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


def test_what_is_a_label():
    assert [is_label("rte", text) for text in ("entailment", " entailment ", "Entailment", "", "0")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [is_label("stsb", text) for text in ("2.2", "2.23", "-7", "1e9", "", "nan", "inf", "2,2")] == [
        *[True] * 4,
        *[False] * 4,
    ]


def test_similarities_become_words_by_a_product_in_single_precision_as_in_t5():
    labels = np.arange(501) / 100
    rounded = np.round(labels.astype(np.float32) * np.float32(5)).astype(int).tolist()
    assert [to_class("stsb", label) for label in labels.tolist()] == rounded
    assert [to_class("stsb", label) for label in labels.astype(np.float32).tolist()] == rounded
    assert TASKS["stsb"].labels[to_class("stsb", float(np.float32(4.7)))] == "4.8"


@pytest.mark.parametrize("format", ["jsonl", "csv", "saved"])
def test_similarities_are_the_same_in_every_format(format, load, tmp_path):
    labels = [0.1, 0.7, 1.7, 2.9, 4.7, 4.9, 3.14]
    texts = {"sentence1": ["a"] * 7, "sentence2": ["b"] * 7}
    single = datasets.Features(dict.fromkeys(texts, datasets.Value("string")) | {"label": datasets.Value("float32")})
    vals = []
    for name, kind, features in (("single", "parquet", single), ("double", format, None)):
        folder = write("stsb", tmp_path / name, kind)
        dataset = datasets.Dataset.from_dict(texts | {"label": labels}, features=features)
        if kind == "saved":
            shutil.rmtree(folder / "validation")
            dataset.save_to_disk(folder / "validation")
        else:
            getattr(dataset, {"jsonl": "to_json"}.get(kind, f"to_{kind}"))(folder / f"validation.{kind}")
        vals.append(load(task="stsb", path=str(folder)).val_sets[""])
    assert vals[0].references == vals[1].references == ["0.0", "0.8", "1.6", "2.8", "4.8", "4.8", "3.2"]
    given = ["0.1", "0.9", "1.2", "3", "4", "5", "2"]
    assert vals[0].score(given) == vals[1].score(given)


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


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv", "saved"])
def test_words_dates_and_numbers_reach_the_tokenizer_as_written(format, load, tmp_path):
    one = ["null", "NA", "None", "n/a", "nan", "2019-01-01", "1e5", "007", "True", "x", "y", "z"]
    two = ["2019-01-01"] * 12
    table = datasets.Dataset.from_dict({"sentence1": one, "sentence2": two, "label": [0, 1] * 6})
    folder = write("rte", tmp_path / "set", format)
    if format == "saved":
        shutil.rmtree(folder / "train")
        table.save_to_disk(folder / "train")
    else:
        getattr(table, {"jsonl": "to_json"}.get(format, f"to_{format}"))(folder / f"train.{format}")
    inputs = load(task="rte", path=str(folder)).train.inputs
    texts = [TOKENS.decode(inputs[index]) for index in range(12)]
    assert texts == [f"rte sentence1: {text} sentence2: 2019-01-01" for text in one]


def test_a_missing_text_is_empty_and_a_missing_label_is_named(load, tmp_path):
    folder = write("rte", tmp_path / "set", "csv")
    (folder / "train.csv").write_text("sentence1,sentence2,label\n,null,1\n")
    data = load(task="rte", path=str(folder))
    assert TOKENS.decode(data.train.inputs[0]) == "rte sentence1:  sentence2: null"
    (folder / "train.csv").write_text("sentence1,sentence2,label\na,b,1\na,b,\n")
    with pytest.raises(
        DataError, match=r"glue/rte \(train\): example 1 has the label None, which is none of this task"
    ):
        load(task="rte", path=str(folder))


@pytest.mark.parametrize(
    ("text", "message"), [("7", "is 7, which is no text"), ('"\\ud83d"', "is no text: 'utf-8' codec can't encode")]
)
def test_what_is_no_text_is_named(text, message, load, tmp_path):
    folder = write("sst2", tmp_path / "set", "jsonl")
    (folder / "train.jsonl").write_text(f'{{"sentence": "a", "label": 0}}\n{{"sentence": {text}, "label": 0}}\n')
    with pytest.raises(DataError, match=rf"^glue/sst2 \(train\): example 1, 'sentence', {message}"):
        load(task="sst2", path=str(folder))


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


@pytest.mark.parametrize("task", TASKS)
def test_classifiers_are_given_texts_without_a_prefix_and_pairs_in_the_usual_order(task, load, tmp_path):
    write(task, tmp_path / "glue" / task)
    options = {"task": task, "path": str(tmp_path / "glue")}
    data = load(for_classifier=True, **options)
    assert data.shape == describe_data("glue", True, **options)
    columns = ("premise", "hypothesis") if task == "mnli" else TASKS[task].columns
    source = rows(task, 12)
    inputs = data.train.inputs
    expected = ["\x01".join(row[column] for column in columns) + "\x01" for row in source]
    assert ["".join(chr(max(id - 3, 1)) for id in inputs[index]) for index in range(12)] == expected
    classes = data.train.classes
    if task == "stsb":
        assert (data.shape.labels, data.shape.is_regression, data.shape.outputs) == ((), True, 1)
        assert torch.equal(classes, torch.tensor(source["label"]))
        assert classes.dtype == torch.float32
    else:
        assert (data.shape.labels, data.shape.is_regression) == (TASKS[task].labels, False)
        assert data.shape.outputs == len(TASKS[task].labels)
        assert classes.tolist() == source["label"]
    assert data.train_batch(0, 4).token_types is None  # of bytes


def test_classifiers_may_be_given_the_words_of_t5(load, tmp_path):
    options = {"task": "stsb", "path": str(write("stsb", tmp_path / "set"))}
    assert describe_data("glue", True, form="t5", **options) == describe_data("glue", **options)
    one, other = load(for_classifier=True, form="t5", **options), load(**options)
    assert torch.equal(one.train_batch(0, 4).input_ids, other.train_batch(0, 4).input_ids)
    assert one.shape.outputs == 26


def test_long_pairs_lose_the_end_of_the_longer_text_and_are_counted(load, tmp_path):
    folder = write("rte", tmp_path / "set")
    table = {"sentence1": ["abcdefgh", "ab"], "sentence2": ["xyz", "xy"], "label": [0, 1]}
    datasets.Dataset.from_dict(table).to_parquet(folder / "train.parquet")
    data = load(task="rte", path=str(folder), input_length=10, for_classifier=True)
    assert [TOKENS.decode(data.train.inputs[0][start:]) for start in (0, 6)] == ["abcde", "xyz"]
    assert data.cut == 1 + 5


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
