"""Runs that start from the weights of another run or of a file: what they take, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import ConfigError, DataError
from nmtrain.models.language import checkpoint_weights
from nmtrain.sparsity import NMPattern, nm_mask
from nmtrain.training.checkpoint import load_checkpoint
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run, load_run
from nmtrain.training.plan import make_plan, shape_faults
from nmtrain.training.run import run
from nmtrain.training.start import starting_model

T5 = ["model=t5", "model.options.d_model=64", "model.options.d_ff=64", "model.options.num_heads=2"]
T5 += ["model.options.num_layers=1", "model.options.num_decoder_layers=1", "data.max_length=24", "data.val_size=20"]
BERT = ["model=bert", "model.options.hidden_size=64", "model.options.intermediate_size=64", "data.max_length=24"]
BERT += ["model.options.num_hidden_layers=1", "model.options.num_attention_heads=2", "data.val_size=20"]
SHORT = ["train.updates=2", "train.batch_size=8", "train.precision=fp32", "measure=off", "sparsity=1:8"]


@pytest.fixture
def text_config(tmp_path):
    def make(*overrides):
        line = [*SHORT, f"results_dir={tmp_path}/runs", f"data.cache_dir={tmp_path}/cache", *overrides]
        return check_config(compose_values(prepare_overrides(line)))

    return make


@pytest.fixture
def dense(make_config):
    """The folder of a finished dense run."""
    config = make_config("recipe=dense", "train.updates=3")
    run(config)
    return config.run_folder


def weights(folder):
    return load_file(folder / "model.safetensors")


def faults(config):
    with pytest.raises(ConfigError) as refusal:
        make_plan(config)
    assert shape_faults([config]) == refusal.value.faults
    return refusal.value.faults


def test_a_sparse_run_starts_from_the_weights_and_their_masks_that_a_dense_run_ended_with(dense, make_config):
    config = make_config(
        "recipe=ste", f"init_from={dense}", "train.updates=1", "optim.lr=1e-12", "optim.final_lr=0", "seed=5"
    )
    plan = make_plan(config)
    assert plan.warnings == []
    state = starting_model(config, None).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights(dense).items())
    run(config)
    for tensor in plan.tensors:  # one update of no size: what is kept are the largest of the dense weights
        before = weights(dense)[tensor.name]
        kept = nm_mask(before, NMPattern(1, 8))
        assert torch.equal(weights(config.run_folder)[tensor.name] != 0, kept)
        assert torch.allclose(weights(config.run_folder)[tensor.name][kept], before[kept], atol=1e-9)


def test_the_run_stands_alone_once_it_is_there(dense, make_config, tmp_path):
    config = make_config(f"init_from={dense}", "train.updates=4", "train.checkpoint_every=2")
    summary = run(config)
    shutil.rmtree(dense)
    assert evaluate_run(config.run_folder)["metrics"]["val/loss"] == pytest.approx(summary["metrics"]["val/loss"])
    assert "local-dir" in export_run(config.run_folder, tmp_path / "export")
    assert run(config)["run"] == summary["run"]  # finished already
    for path in [*config.run_folder.glob("checkpoints/*4-*.pt"), config.run_folder / "model.safetensors"]:
        path.unlink()
    (config.run_folder / "status.json").write_text('{"state": "running", "reason": null}')
    again = run(config)  # goes on from update 2, whose checkpoint has all weights
    assert again["metrics"] == summary["metrics"]
    assert faults(make_config(f"init_from={dense}", "train.updates=4", "force=true")) == [
        f"init_from={dense}: there is no such folder"
    ]


def test_a_resume_is_told_that_the_weights_it_began_with_are_others_now(dense, make_config):
    config = make_config(f"init_from={dense}", "train.updates=4", "train.checkpoint_every=2")
    run(config)
    assert load_checkpoint(config.run_folder / "checkpoints")["data"]["weights to start from"]
    for path in [*config.run_folder.glob("checkpoints/*4-*.pt"), config.run_folder / "model.safetensors"]:
        path.unlink()
    (config.run_folder / "status.json").write_text('{"state": "running", "reason": null}')
    whole, before = (dense / "model.safetensors").read_bytes(), weights(dense)
    save_file(before | {"head.bias": before["head.bias"] + 1}, dense / "model.safetensors")
    with pytest.raises(DataError) as refusal:
        run(config)
    assert str(refusal.value) == (
        f"init_from={dense}: its weights ({dense}/model.safetensors) are not what this run began with;"
        " put back what was there, or force=true starts the run from nothing"
    )
    (dense / "model.safetensors").write_bytes(whole)
    assert run(config)["status"] == "finished"
    save_file(before | {"head.bias": before["head.bias"] + 1}, dense / "model.safetensors")
    evaluate_run(config.run_folder)  # has nothing to do with them


def test_other_data_bring_a_new_head_and_more_pixels_and_one_line_says_so(dense, make_config):
    config = make_config(f"init_from={dense}", "data=glyphs", "data.classes=20", "data.image_size=32")
    (line,) = make_plan(config).warnings
    assert line == (
        f"init_from={dense}: a new head for 20 classes (the file's is for 10);"
        " resized pos_embed ([1, 17, 64] to [1, 65, 64])"
    )
    state = starting_model(config, None).state_dict()
    changed = {name for name, tensor in weights(dense).items() if not torch.equal(tensor, state[name])}
    assert changed == {"head.weight", "head.bias", "pos_embed"}


def test_sparse_runs_can_be_started_from_and_dropout_may_be_another(dense, make_config):
    sparse = make_config("recipe=static", "train.updates=1", f"init_from={dense}")
    run(sparse)
    config = make_config("recipe=dense", f"init_from={sparse.run_folder}", "model.options.drop_path_rate=0.1")
    assert make_plan(config).warnings == []
    state = starting_model(config, None).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights(sparse.run_folder).items())


def test_runs_of_another_architecture_are_refused_and_what_differs_is_named(dense, make_config, text_config):
    assert faults(make_config(f"init_from={dense}", "model.options.depth=2")) == [
        f"init_from={dense}: is a run of another architecture: depth is 1 there and 2 here"
    ]
    (fault,) = faults(make_config(f"init_from={dense}", "model.options.num_heads=2", "model.options.qkv_bias=false"))
    assert fault.endswith(": num_heads is 4 there and 2 here, qkv_bias is null there and false here")
    assert faults(text_config(*T5, f"init_from={dense}")) == [
        f"init_from={dense}: is a run of model.kind=image_classifier, and this one is of model.kind=text_to_text"
    ]


def test_what_is_no_finished_run_is_refused(dense, make_config, tmp_path):
    other = tmp_path / "other"
    other.mkdir()

    def fault(folder=dense):
        (line,) = faults(make_config(f"init_from={folder}"))
        assert line.startswith(f"init_from={folder}: ")
        return line.removeprefix(f"init_from={folder}: ")

    assert fault(tmp_path / "gone") == "there is no such folder"
    assert fault(other) == "is not a run folder; it has no status.json"
    (dense / "status.json").write_text('{"state": "preempted", "reason": "SIGTERM"}')
    assert fault() == "the run is preempted, not finished; repeat its command to complete it"
    (dense / "status.json").write_text('{"state": "finished", "reason": null}')
    whole = (dense / "model.safetensors").read_bytes()
    (dense / "model.safetensors").write_bytes(whole[:-9])
    assert fault().startswith("model.safetensors cannot be read as weights: ")
    (dense / "model.safetensors").unlink()
    assert fault() == "has no model.safetensors"
    (dense / "config.yaml").write_text("model: 3")
    assert fault() == "its config.yaml does not say what model it trained"


def test_a_run_is_not_started_from_itself(dense, make_config):
    config = make_config(f"init_from={dense}")
    shutil.copytree(dense, config.run_folder)
    shutil.rmtree(dense)
    dense.symlink_to(config.run_folder)
    again = make_config(f"init_from={config.run_folder}", "force=true")
    shutil.move(config.run_folder, again.run_folder)
    object.__setattr__(again, "init_from", again.run_folder)  # a name that holds a hash of itself
    assert faults(again) == [f"init_from={again.run_folder}: is the folder of this very run"]


def test_two_places_to_start_from_are_one_too_many_for_an_image_model(make_config):
    with pytest.raises(
        ConfigError, match=r"^init_from=/a/b: model\.pretrained=c gives weights too; leave one of them out$"
    ):
        make_config("init_from=/a/b", "model.pretrained=c")


def test_the_name_depends_on_the_name_of_that_run_and_not_on_where_it_lies(make_config, tmp_path, monkeypatch):
    (tmp_path / "a" / "first").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    written = [f"{tmp_path}/a/first", "a/first", "a/first/", "./a/../a/first", "link", "/b/c/first", '"~/a/first"']
    names = {make_config(f"init_from={folder}").run_name for folder in written}
    assert len(names) == 1
    assert make_config("init_from=a/first").values["init_from"] == f"{tmp_path}/a/first"
    others = {
        make_config().run_name,
        make_config("init_from=null").run_name,
        make_config("init_from=a/second").run_name,
    }
    assert len(names | others) == 3


def test_runs_from_before_there_were_these_keys_keep_their_names(make_config):
    config = make_config()
    values = {key: value for key, value in config.values.items() if key != "init_from"}
    values["model"] = {key: value for key, value in values["model"].items() if key != "pretrained"}
    assert values != config.values
    assert dataclasses.replace(config, values=values).run_name == config.run_name
    assert make_config("model.pretrained=x.pth").run_name != config.run_name


def test_each_run_of_a_sweep_that_has_not_begun_is_checked(dense, make_config):
    begun = make_config(f"init_from={dense}", "train.updates=1")
    run(begun)
    shutil.rmtree(dense)
    other = make_config(f"init_from={dense}", "train.updates=1", "seed=1")
    assert shape_faults([begun, other]) == [f"init_from={dense}: there is no such folder"]


@pytest.mark.slow
def test_t5_starts_from_a_run_with_its_weights_and_needs_the_same_tokens(text_config, checkpoint):
    first = text_config(*T5, "recipe=dense")
    run(first)
    config = text_config(*T5, f"init_from={first.run_folder}", "seed=3")
    assert make_plan(config).warnings == []
    state = starting_model(config, None).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights(first.run_folder).items())
    assert run(config)["status"] == "finished"
    load_run(config.run_folder)
    folder = checkpoint("t5")
    assert faults(text_config(*T5, f"init_from={first.run_folder}", f"model.tokenizer={folder}")) == [
        f"init_from={first.run_folder}: its tokenizer is another one, and its embeddings are of other tokens"
    ]
    assert faults(text_config(*T5, f"init_from={first.run_folder}", "model.options.num_layers=2")) == [
        f"init_from={first.run_folder}: is a run of another architecture: num_layers is 1 there and 2 here"
    ]


@pytest.mark.slow
def test_the_checkpoint_of_the_run_to_start_from_may_have_moved(text_config, checkpoint):
    folder = checkpoint("t5")
    line = ["model=t5", "model.name=mine", "data.max_length=24", "data.val_size=20"]
    first = text_config(*line, f"model.pretrained={folder}", "recipe=dense")
    run(first)
    moved = folder.rename(folder.parent / "moved")
    config = text_config(*line, f"model.pretrained={moved}", f"init_from={first.run_folder}")
    assert make_plan(config).warnings == []
    file = moved / "tokenizer.json"
    file.write_text(file.read_text().replace('"MED"', '"MEAN"'))
    assert "its tokenizer is another one" in faults(config)[0]


@pytest.mark.slow
def test_a_head_that_t5_1_1_brought_untied_stays_so_in_runs_that_start_from_it(text_config, checkpoint):
    folder = checkpoint("t5_v1_1")
    stored = load_file(folder / "model.safetensors")
    stored["lm_head.weight"] = torch.randn_like(stored["shared.weight"])
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    line = [f"model.pretrained={folder}", "model=t5", "model.name=mine", "data.max_length=24", "data.val_size=20"]
    first = text_config(*line, "recipe=dense")
    run(first)
    before = weights(first.run_folder)
    assert not torch.equal(before["lm_head.weight"], before["shared.weight"])
    config = text_config(*line, f"init_from={first.run_folder}", "train.updates=4", "train.checkpoint_every=2")
    (folder / "model.safetensors").write_bytes(b"")  # of the checkpoint, only configuration and tokenizer are read
    state = starting_model(config, None).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    summary = run(config)
    for path in [*config.run_folder.glob("checkpoints/*4-*.pt"), config.run_folder / "model.safetensors"]:
        path.unlink()
    (config.run_folder / "status.json").write_text('{"state": "running", "reason": null}')
    assert run(config)["metrics"] == summary["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5_v1_1", "bart"])
def test_a_text_run_needs_the_weights_of_its_checkpoint_no_more_and_notices_others(
    family, checkpoint, text_config, stopped
):
    folder = checkpoint(family)
    stored = load_file(folder / "model.safetensors")
    if family == "t5_v1_1":  # a head of its own
        stored["lm_head.weight"] = torch.randn_like(stored["shared.weight"])
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
    line = [f"model.pretrained={folder}", "model=t5", "model.name=mine", "data.max_length=24", "data.val_size=20"]
    config = text_config(*line, "train.updates=4", "train.checkpoint_every=2")
    summary = stopped(config)
    other = {name: tensor + 1 for name, tensor in stored.items()}
    save_file(other, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError) as refusal:
        run(config)
    assert str(refusal.value) == (
        f"model.pretrained={folder}: its weights ({folder}/model.safetensors) are not what this run began with;"
        " put back what was there, or force=true starts the run from nothing"
    )
    (folder / "model.safetensors").unlink()
    assert run(config)["metrics"] == summary["metrics"]
    told = f"model.pretrained={folder}: the folder has no weights in safetensors"
    assert faults(text_config(*line, "seed=1")) == [told]


def test_weights_in_several_files_are_watched_too(tmp_path):
    for name in ("model-00002-of-00002", "model-00001-of-00002", "consolidated"):
        (tmp_path / f"{name}.safetensors").touch()
    found = [file.name for file in checkpoint_weights(str(tmp_path))]
    assert found == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / "model.safetensors").touch()
    assert checkpoint_weights(str(tmp_path)) == [tmp_path / "model.safetensors"]
    assert checkpoint_weights("nobody/has-this") == checkpoint_weights(str(tmp_path / "gone")) == []


def test_a_text_classifier_keeps_all_but_a_head_of_another_size(text_config, tmp_path):
    first = text_config(*BERT, "recipe=dense")
    run(first)
    for split, count in {"train": 40, "validation": 12}.items():
        rows = [{"sentence": f"a {i}", "label": i % 2} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bert = [setting for setting in BERT if not setting.startswith("data.")]
    config = text_config(*bert, "data=glue", "data.task=sst2", f"data.path={tmp_path}", f"init_from={first.run_folder}")
    (line,) = make_plan(config).warnings
    assert line == (
        f"init_from={first.run_folder}: a new head: classifier.weight ([10, 64] there, [2, 64] here),"
        " classifier.bias ([10] there, [2] here)"
    )
    state = starting_model(config, None).state_dict()
    for name, tensor in weights(first.run_folder).items():
        assert name.startswith("classifier.") or torch.equal(state[name], tensor)
    assert run(config)["status"] == "finished"
    assert make_plan(text_config(*BERT, f"init_from={first.run_folder}")).warnings == []


def test_an_exported_run_gives_the_same_logits_through_model_pretrained(dense, make_config, tmp_path):
    export_run(dense, tmp_path / "export")
    config = make_config(f"model.pretrained={tmp_path}/export", "recipe=dense", "seed=4")
    assert make_plan(config).warnings == []
    _, model = load_run(dense)
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(starting_model(config, None).eval()(images), model.eval()(images))
    assert run(config)["status"] == "finished"
    shutil.rmtree(tmp_path / "export")
    evaluate_run(config.run_folder)
    assert faults(make_config(f"model.pretrained={tmp_path}/export", "seed=5")) == [
        f"model.pretrained={tmp_path}/export: there is no such file or folder"
    ]


def test_from_the_command_line_a_dense_run_then_a_sparse_one(nm, tiny):
    folder = Path(tiny[-1].removeprefix("results_dir="))
    tiny = [*tiny, "train.updates=4"]
    assert nm(*tiny, "recipe=dense")[0] == 0
    (first,) = folder.iterdir()
    status, out, _ = nm(*tiny, "recipe=sr_ste", f"init_from={first}/", "optim.lr=1e-4")
    assert status == 0
    (second,) = [run for run in folder.iterdir() if run != first]
    assert yaml.safe_load((second / "config.yaml").read_text())["init_from"] == str(first)
    status, out, _ = nm("report", str(folder))
    assert status == 0
    assert f"init_from={first.name}" in Path("results/report/report.md").read_text()
    status, out, err = nm(*tiny, f"init_from={first}x", "--dry-run")
    assert (status, out, err) == (2, "", f"init_from={first}x: there is no such folder\n")
