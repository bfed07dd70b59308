import errno
import fcntl
import json

import datasets
import pytest

from nmtrain.data.splits import examples, find_split
from nmtrain.errors import DataError

ROWS = [{"text": f"line {number}, with\na break", "label": number} for number in range(5)]


def table() -> datasets.Dataset:
    return datasets.Dataset.from_list(ROWS)


def write_parquet(folder):
    table().to_parquet(folder / "train.parquet")


def write_shards(folder):
    (folder / "data").mkdir()
    table().select(range(3)).to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    table().select(range(3, 5)).to_parquet(folder / "data" / "train-00001-of-00002.parquet")


def write_folder(folder):
    (folder / "train").mkdir()
    table().to_parquet(folder / "train" / "anything.parquet")


def write_json_lines(folder):
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "\n")


def write_json_list(folder):
    (folder / "train.json").write_text("\n" + json.dumps(ROWS, indent=1))


def write_csv(folder):
    table().to_csv(folder / "train.csv")


def write_saved(folder):
    datasets.DatasetDict(train=table()).save_to_disk(folder, num_shards={"train": 2})


WRITERS = [write_parquet, write_shards, write_folder, write_json_lines, write_json_list, write_csv, write_saved]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_is_counted_and_read(tmp_path, write):
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder)
    split = find_split(folder, "train")
    assert split.count() == 5
    read = examples(split.read(str(tmp_path / "cache")), ("label", "text"), "set")
    assert list(read) == [(row["label"], row["text"]) for row in ROWS]


def test_similar_names_are_other_splits(tmp_path):
    table().to_parquet(tmp_path / "validation_matched.parquet")
    table().select(range(2)).to_parquet(tmp_path / "validation_mismatched-0.parquet")
    assert find_split(tmp_path, "validation_matched").count() == 5
    assert find_split(tmp_path, "validation_mismatched").count() == 2
    with pytest.raises(ValueError, match=r"has no validation split; looked for validation\.parquet"):
        find_split(tmp_path, "validation")


def test_two_formats_of_one_split_are_refused(tmp_path):
    write_parquet(tmp_path)
    write_csv(tmp_path)
    with pytest.raises(ValueError, match="has the train split in more than one format: csv, parquet"):
        find_split(tmp_path, "train")


@pytest.mark.parametrize(("name", "content"), [("train.parquet", "no table"), ("train.json", "[1, ")])
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    split = find_split(tmp_path, "train")
    with pytest.raises(ValueError, match=rf"^data.path: .*{name} cannot be read: "):
        split.count()
    with pytest.raises(DataError, match=rf"^data.path: .*{name} cannot be read: "):
        split.read(str(tmp_path / "cache"))


def test_a_cache_that_cannot_be_written_is_named_by_its_key(tmp_path):
    write_parquet(tmp_path)
    (tmp_path / "cache").touch()
    told = rf"^data\.cache_dir={tmp_path}/cache: cannot be written \({tmp_path}/cache is not a folder\)"
    with pytest.raises(DataError, match=told):
        find_split(tmp_path, "train").read(str(tmp_path / "cache"))


def test_a_cache_on_a_file_system_without_locks_is_named_by_its_key(tmp_path, monkeypatch):
    write_parquet(tmp_path)

    def without(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    told = rf"^data\.cache_dir={tmp_path}/cache: cannot be written \(No locks available\); name a folder that can"
    with pytest.raises(DataError, match=told):
        find_split(tmp_path, "train").read(str(tmp_path / "cache"))


@pytest.mark.parametrize(("name", "content"), [("train.jsonl", "\n"), ("train.json", "[]"), ("train.csv", "text\n")])
def test_a_split_without_examples_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"^data.path: there is no example in .*{name}$"):
        find_split(tmp_path, "train").count()


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"^set: there is no column label2 among text, label$"):
        list(examples(table(), ("text", "label2"), "set"))
