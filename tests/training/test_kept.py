"""Run folders stand alone: what describes data, checkpoint and tokenizer is kept beside the weights."""

import json
import random
import shutil

import pytest
from safetensors.torch import load_file

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, evaluation_overrides, prepare_overrides
from nmtrain.errors import ConfigError, RunFolderError
from nmtrain.models.language import build_tokenizer, language_architecture
from nmtrain.runs.folder import RunFolder
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run, load_run
from nmtrain.training.kept import keep_model, kept_model, kept_shape
from nmtrain.training.run import run

TINY = ["sparsity=1:8", "train.updates=2", "train.batch_size=8", "measure=off"]
BYTE_T5 = ["model=t5", "model.options.d_model=64", "model.options.d_ff=64", "model.options.num_layers=1"]
BYTE_T5 += ["model.options.num_decoder_layers=1"]
LISTOPS = ["data=listops", "data.train_size=64", "data.val_size=20", "data.test_size=12", "data.max_length=24"]


def check(tmp_path, *overrides):
    line = [*TINY, f"results_dir={tmp_path}/runs", *overrides]
    return check_config(compose_values(prepare_overrides(line)))


def write_csv(folder):
    draw = random.Random(0)
    for split, count in {"train": 40, "validation": 12}.items():
        rows = "".join(f"{draw.randrange(9)} {draw.randrange(9)},MAX 1,{draw.randrange(2)}\n" for _ in range(count))
        (folder / f"{split}.csv").write_text(f"sentence1,sentence2,label\n{rows}")
    return ["data=glue", "data.task=rte", f"data.path={folder}", "data.input_length=16"]


def write_wmt(folder):
    for split, count in {"train": 40, "validation": 12, "test": 9}.items():
        for language in ("en", "de"):
            lines = "".join(f"{language} {split} {number}\n" for number in range(count))
            (folder / f"{split}.{language}").write_text(lines)
    return ["data=wmt", f"data.path={folder}", "data.input_length=56", "data.target_length=16"]


def write_text(folder):
    (folder / "a.txt").write_text("".join(f"a {i}th line\n" for i in range(300)))
    return ["data=text", f"data.path={folder / 'a.txt'}", "data.window=64"]


@pytest.fixture
def line(tmp_path, checkpoint):
    """The overrides of a run by name; data in ``at``/data, checkpoint and tokenizer in folders of ``at``."""

    def make(kind):
        at = tmp_path / "at first"
        (at / "data").mkdir(parents=True)
        cache = [f"data.cache_dir={tmp_path}/cache"]
        if kind == "vit":
            return ["experiment=smoke", "model.options.depth=1", "model.options.embed_dim=64"]
        if kind == "t5 on listops":
            shutil.move(checkpoint("t5"), at / "checkpoint")
            (at / "tokenizer").mkdir()
            for file in (at / "checkpoint").glob("tokenizer*"):
                shutil.move(file, at / "tokenizer")
            names = [f"model.pretrained={at}/checkpoint", f"model.tokenizer={at}/tokenizer/"]
            return ["model=t5", *names, "train=text", *LISTOPS, *cache]
        if kind == "bert on csv":
            shutil.move(checkpoint("bert"), at / "checkpoint")
            return ["model=bert", f"model.pretrained={at}/checkpoint", *write_csv(at / "data"), *cache]
        if kind == "bert's shape on csv":
            shutil.move(checkpoint("bert"), at / "checkpoint")
            return ["model=bert", f"model.name={at}/checkpoint", *write_csv(at / "data"), *cache]
        return [*BYTE_T5, *(write_wmt if kind == "wmt" else write_text)(at / "data"), *cache]

    return make


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("kind", ["vit", "t5 on listops", "bert on csv", "bert's shape on csv", "wmt", "text"])
def test_a_finished_run_exports_and_evaluates_when_all_that_it_began_with_is_elsewhere(
    kind, line, tmp_path, monkeypatch, caplog
):
    config = check(tmp_path, *line(kind))
    summary = run(config)
    export_run(config.run_folder, tmp_path / "before")
    if config.model.reads_text:
        as_before = tmp_path / "of before"  # a folder that keeps nothing
        shutil.copytree(config.run_folder, as_before)
        shutil.rmtree(as_before / "model")
        export_run(as_before, tmp_path / "old")
        assert contents(tmp_path / "old") == contents(tmp_path / "before")

    (tmp_path / "at first").rename(tmp_path / "now at")
    moved = tmp_path / "a renamed run"
    config.run_folder.rename(moved)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    export_run(moved, tmp_path / "after")
    assert contents(tmp_path / "after") == contents(tmp_path / "before")
    overrides = []
    if config.data.get("path"):
        what = "file or folder" if kind == "text" else "folder"
        with pytest.raises(ConfigError) as refusal:
            evaluate_run(moved)
        assert str(refusal.value) == (
            f"data.path={config.data['path']}: there is no such {what};"
            f" name where it is now: nmtrain eval '{moved}' data.path=NEW"
        )
        overrides = [f"data.path={config.data['path'].replace('at first', 'now at')}"]
    result = evaluate_run(moved, evaluation_overrides(overrides, []))
    assert result["metrics"] == summary["metrics"]  # to the last digit
    assert "not what this run began with" not in caplog.text


def test_folders_of_before_say_where_to_name_data_that_moved(line, tmp_path):
    config = check(tmp_path, *line("wmt"))
    summary = run(config)
    shutil.rmtree(config.run_folder / "model")
    (tmp_path / "at first").rename(tmp_path / "now at")
    with pytest.raises(ConfigError, match=r"there is no such folder; name where it is now: nmtrain eval "):
        evaluate_run(config.run_folder)
    with pytest.raises(RunFolderError) as refusal:
        load_run(config.run_folder)
    assert str(refusal.value) == (
        f"{config.run_folder}: was made by an earlier version, and needs what it was trained with where that was:"
        f" data.path={tmp_path}/at first/data: there is no such folder"
    )
    moved = evaluation_overrides([f"data.path={tmp_path}/now at/data"], [])
    assert evaluate_run(config.run_folder, moved)["metrics"] == summary["metrics"]


@pytest.mark.parametrize("load", [evaluate_run, lambda run_folder: export_run(run_folder, run_folder / "out")])
def test_folders_of_before_name_the_checkpoint_that_is_gone(load, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where, reason in (
        (f"{tmp_path}/at first", "transformers cannot load it: there is no such folder"),
        ("at first", "is not on this machine, and HF_HUB_OFFLINE forbids to ask the Hugging Face hub"),
    ):
        config = check(tmp_path, *(part.replace(f"{tmp_path}/at first", where) for part in line("t5 on listops")))
        run(config)
        shutil.rmtree(config.run_folder / "model")
        (tmp_path / "at first").rename(tmp_path / f"now at {len(reason)}")
        with pytest.raises(RunFolderError) as refusal:
            load(config.run_folder)
        assert str(refusal.value).startswith(
            f"{config.run_folder}: was made by an earlier version, and needs what it was trained with where that was:"
            f" model.pretrained={where}/checkpoint"
        )
        assert str(refusal.value).endswith(reason)


def test_a_resumed_run_keeps_what_its_folder_lacks(tmp_path):
    config = check(tmp_path, *BYTE_T5, *LISTOPS, "train.checkpoint_every=1", "train.updates=4", "train.keep_after=true")
    run(config)
    kept = contents(config.run_folder / "model")
    assert set(kept) == {"config.json", "shape.json"}  # bytes need no tokenizer
    shutil.rmtree(config.run_folder / "model")
    max((config.run_folder / "checkpoints").iterdir()).unlink()
    (config.run_folder / "status.json").write_text('{"state": "running", "reason": null}')
    run(config)
    assert contents(config.run_folder / "model") == kept


FAMILIES = ["t5", "t5_v1_1", "umt5", "byt5", "longt5_local", "bart", "marian", "m2m_100", "led"]
FAMILIES += ["bert", "roberta", "electra", "deberta_v2", "distilbert"]


@pytest.mark.parametrize("family", FAMILIES)
def test_configuration_and_tokenizer_come_back_as_they_were(family, checkpoint, tmp_path):
    kind, _, _ = checkpoint.families[family]
    folder = checkpoint(family)
    source = "t5" if kind == "text_to_text" else "bert"
    line = [f"model={source}", f"model.pretrained={folder}", *LISTOPS, "data.max_length=30"]
    config = check(tmp_path, *line, *(["train=text"] if source == "t5" else []))
    kept = RunFolder(tmp_path / "run")
    kept.path.mkdir()
    keep_model(kept, config)
    texts = ["[MAX 2 9 [MIN 4 7 ] 0 ]", "</s> <unk> Über 3", ""]
    architecture = language_architecture(config.model, config.data_shape).to_dict() | {"_name_or_path": ""}
    tokenizer = build_tokenizer(config.model)
    framed = tokenizer.frame([(text, "1 2") for text in texts], 7)
    shutil.rmtree(folder)
    model = kept_model(kept, config.model)
    again = build_tokenizer(model)
    assert kept_shape(kept) == config.data_shape
    assert language_architecture(model, config.data_shape).to_dict() | {"_name_or_path": ""} == architecture
    assert (again.fingerprint, again.pad, again.end) == (tokenizer.fingerprint, tokenizer.pad, tokenizer.end)
    assert again.encode(texts) == tokenizer.encode(texts)
    assert again.frame([(text, "1 2") for text in texts], 7) == framed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model/shape.json", "[", r"model/shape\.json: is damaged \("),
        ("model/shape.json", "{}", r"model/shape\.json: is damaged \(.*missing"),
        ("model/config.json", "{", r"config\.yaml: does not hold what this run left: model\.name=.*/model: transform"),
        ("model/config.json", None, r"config\.yaml: does not hold what this run left: model\.name=.*/model: transform"),
        ("model/tokenizer/tokenizer.json", None, r"model\.tokenizer=.*/model/tokenizer: transformers cannot load it"),
    ],
)
def test_damage_to_what_is_kept_is_told_and_nothing_else_takes_its_place(name, content, message, line, tmp_path):
    config = check(tmp_path, *line("t5 on listops"))
    run(config)
    if content is None:
        (config.run_folder / name).unlink()
    else:
        (config.run_folder / name).write_text(content)
    for use in (evaluate_run, lambda folder: export_run(folder, tmp_path / "out")):
        with pytest.raises(RunFolderError, match=message):
            use(config.run_folder)


def test_what_is_kept_is_small_and_holds_no_weights(line, tmp_path):
    config = check(tmp_path, *line("bert on csv"))
    run(config)
    kept = contents(config.run_folder / "model")
    assert set(kept) == {"config.json", "shape.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    assert not any(b"at first" in content for content in kept.values())
    assert sum(map(len, kept.values())) < 20_000
    assert json.loads(kept["shape.json"])["labels"] == ["entailment", "not_entailment"]
    assert load_file(config.run_folder / "model.safetensors")["classifier.weight"].shape == (2, 64)
