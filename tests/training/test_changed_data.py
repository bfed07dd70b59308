"""Data that change in place between a stop and its resume are noticed, and named."""

import json
import os
import random

import pytest

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import DataError
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.run import run

LINE = ["sparsity=1:8", "train.updates=4", "train.batch_size=8", "train.checkpoint_every=2", "train.precision=fp32"]
T5 = ["model=t5", *(f"model.options.{option}=64" for option in ("d_model", "d_ff")), "measure=off"]
T5 += [f"model.options.{option}=1" for option in ("num_layers", "num_decoder_layers")]


def write_rte(folder):
    draw = random.Random(0)
    for split, count in {"train": 40, "validation": 12}.items():
        rows = [
            {"sentence1": f"a 1{draw.random()}", "sentence2": "b", "label": draw.randrange(2)} for _ in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data=glue", "data.task=rte", f"data.path={folder}"], ["train.jsonl", "validation.jsonl"]


def write_wmt(folder):
    for split in ("train", "validation"):
        for language in ("en", "de"):
            (folder / f"{split}.{language}").write_text("".join(f"{language} a {i}\n" for i in range(20)))
    names = ["train.en", "train.de", "validation.en", "validation.de"]
    return ["data=wmt", f"data.path={folder}", "data.input_length=64", "data.target_length=16"], names


def write_text(folder):
    (folder / "sub").mkdir()
    for name in ("a.txt", "sub/b.txt"):
        (folder / name).write_text("".join(f"a {i}th line of {name}\n" for i in range(200)))
    return ["data=text", f"data.path={folder}", "data.window=64"], ["a.txt", "sub/b.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_rte, write_wmt, write_text])
def test_a_resume_names_the_file_that_changed_and_goes_on_when_it_is_back(write, tmp_path, stopped):
    folder = tmp_path / "data"
    folder.mkdir()
    data, names = write(folder)

    def config(*more):
        line = [*LINE, *T5, *data, f"data.cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/runs", *more]
        return check_config(compose_values(prepare_overrides(line)))

    stopped(config())
    digests = json.loads((config().run_folder / "environment.json").read_text())["data"]
    assert set(digests) == {"examples", *(str(folder / name) for name in names)}
    for name in names:
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before.replace(b"a 1", b"a 7"))  # as many lines, as many bytes
        with pytest.raises(DataError) as refusal:
            run(config())
        assert str(refusal.value) == (
            f"{folder / name} is not what this run began with;"
            " put back what was there, or force=true starts the run from nothing"
        )
        (folder / name).write_bytes(before)
    assert run(config())["status"] == "finished"
    (folder / names[-1]).write_bytes(before.replace(b"a 1", b"a 7"))
    assert run(config("force=true"))["status"] == "finished"


def test_drawn_data_that_come_out_otherwise_are_noticed_too(make_config, monkeypatch, stopped):
    from nmtrain.data.images.in_memory import ImageData

    config = make_config("train.updates=4", "train.checkpoint_every=2")
    stopped(config)
    monkeypatch.setattr(ImageData, "digest", lambda self: "another")
    with pytest.raises(DataError, match=r"^the examples of data=digits are not what this run began with; put back"):
        run(config)


def test_eval_says_that_its_data_are_not_those_of_the_run(tmp_path, caplog):
    data, _ = write_rte(tmp_path)
    line = [*LINE, *T5, *data, f"data.cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/runs"]
    config = check_config(compose_values(prepare_overrides(line)))
    run(config)
    evaluate_run(config.run_folder)
    assert "not what this run began with" not in caplog.text
    file = tmp_path / "validation.jsonl"
    file.write_bytes(file.read_bytes().replace(b"a 1", b"a 7"))
    evaluate_run(config.run_folder)
    assert f"{file} is not what this run began with; the score may be another" in caplog.text


def test_a_checkpoint_from_before_digests_is_resumed(make_config, stopped):
    import torch

    from nmtrain.training.checkpoint import load_checkpoint, save_checkpoint

    config = make_config("train.updates=4", "train.checkpoint_every=2")
    stopped(config)
    folder = config.run_folder / "checkpoints"
    content = load_checkpoint(folder)
    del content["data"]
    for path in folder.iterdir():
        path.unlink()
    save_checkpoint(folder, content["done"], content, keep=2)
    assert run(config)["status"] == "finished"
    assert torch.load(next(folder.glob("*4-*.pt")), weights_only=True)["data"]["examples"]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("config.json", '"dropout_rate": 0.1', '"dropout_rate": 0.5'), ("tokenizer.json", '"red"', '"rouge"')],
)
def test_a_checkpoint_s_configuration_and_tokenizer_are_watched_too(name, old, new, checkpoint, tmp_path, stopped):
    data, _ = write_rte(tmp_path)
    folder = checkpoint("t5")
    line = [*LINE, "model=t5", f"model.pretrained={folder}", "train=text", *data, "measure=off"]
    line += [f"data.cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/runs"]
    config = check_config(compose_values(prepare_overrides(line)))
    stopped(config)
    content = (folder / name).read_text()
    changed = content.replace(old, new) if old in content else content + " "
    (folder / name).write_text(changed)
    with pytest.raises(DataError) as refusal:
        run(config)
    assert str(refusal.value).startswith(f"{folder / name} is not what this run began with; put back")
    (folder / name).write_text(content)
    assert run(config)["status"] == "finished"


@pytest.mark.parametrize("saved", [False, True])
def test_other_content_under_the_same_name_and_time_stamp_is_read_anew(saved, tmp_path):
    """Tools that copy keep time stamps; a cache that goes by them trains on data that are gone."""
    from datasets import Dataset

    folder = tmp_path / "data"

    def loss(word):
        for split, count in {"train": 40, "validation": 12}.items():
            columns = {"sentence": [f"{word} {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
            place = folder / split
            if saved:
                Dataset.from_dict(columns).save_to_disk(place)
            else:
                folder.mkdir(exist_ok=True)
                Dataset.from_dict(columns).to_parquet(f"{place}.parquet")
            for file in folder.rglob("*"):
                os.utime(file, (10**9, 10**9))
        line = [*LINE, *T5, "data=glue", "data.task=sst2", f"data.path={folder}", f"results_dir={tmp_path}/runs"]
        config = check_config(
            compose_values(prepare_overrides([*line, f"data.cache_dir={tmp_path}/cache", "force=true"]))
        )
        return run(config)["metrics"]["val/loss"]

    first = loss("old")
    assert loss("new") != first
    assert loss("old") == first
