"""Files from strangers execute nothing and write nowhere; credentials stay where they are. A test per way in."""

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.data import load_data
from nmtrain.errors import ConfigError, TrainingError
from nmtrain.runs.folder import RunFolder
from nmtrain.training.checkpoint import load_checkpoint, save_checkpoint
from nmtrain.training.run import run

FAST = ["train.updates=2", "measure=off"]


class Shell:
    """What a pickle of a stranger does when it is taken for data."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """A file that is there if something was executed."""
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists()


def test_the_file_would_execute_something_if_it_were_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Shell(tmp_path / "there")))
    assert (tmp_path / "there").exists()


def test_a_checkpoint_runs_nothing_and_fails_its_run_in_words(make_config, mark, stopped):
    config = make_config("train.updates=4", "train.checkpoint_every=2", "measure=off")
    stopped(config)
    folder = config.run_folder / "checkpoints"
    content = load_checkpoint(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    save_checkpoint(folder, 3, content | {"meter": Shell(mark)}, keep=2)
    with pytest.raises(TrainingError, match="Weights only load failed"):
        run(config)


def test_a_cifar_pickle_that_is_not_the_published_one_is_never_opened(tmp_path, mark):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Shell(mark)))
    with pytest.raises(Exception, match=r"MD5|not the published"):
        load_data("cifar10", path=str(folder), seed=0)


def test_a_tar_of_images_runs_no_pickle_in_it_and_writes_nothing_outside(tmp_path, mark):
    def image(number):
        from PIL import Image

        content = io.BytesIO()
        Image.new("RGB", (8, 6), (number, 0, 0)).save(content, "PNG")
        return content.getvalue()

    inside = tmp_path / "data" / "inside"
    inside.mkdir(parents=True)
    for split in ("train", "val"):
        with tarfile.open(inside / f"{split}.tar", "w") as archive:
            for number in range(4):
                stem = ("../../outside" if number == 1 else str(inside.parent / "outside")) if number < 3 else "plain"
                parts = {"png": image(number), "cls": str(number % 2).encode(), "pkl": pickle.dumps(Shell(mark))}
                for suffix, content in parts.items():
                    info = tarfile.TarInfo(f"{stem}/{number}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    cache = tmp_path / "cache"
    data = load_data(
        "imagenet", path=str(inside), cache_dir=str(cache), image_size=16, interpolation="bicubic", seed=0, workers=0
    )
    assert data.shape.train_size == 4
    assert not list(tmp_path.rglob("outside*"))


def test_yaml_makes_no_objects_and_no_resolver_runs_commands(tmp_path, tiny, mark, nm):
    conf = tmp_path / "theirs" / "experiment"
    conf.mkdir(parents=True)
    tagged = f"# @package _global_\nseed: !!python/object/apply:pathlib.Path.touch [{mark}]\n"
    (conf / "tagged.yaml").write_text(tagged)
    status, _, err = nm("--config-dir", str(conf.parent), "experiment=tagged", "--dry-run")
    assert status == 2
    assert "could not determine a constructor for the tag" in err
    for resolver in ("shell", "python", "eval", "oc.create", "hydra"):
        (conf / "resolved.yaml").write_text(f'# @package _global_\nresults_dir: "${{{resolver}:touch {mark}}}"\n')
        status, _, err = nm("--config-dir", str(conf.parent), "experiment=resolved", "--dry-run")
        assert status == 2, (resolver, err)


def test_a_run_of_a_stranger_is_read_as_data(make_config, mark, nm, tmp_path):
    config = make_config(*FAST)
    run(config)
    file = config.run_folder / "config.yaml"
    file.write_text(file.read_text() + f"x: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    for command in ("eval", "export"):
        status, _, err = nm(command, str(config.run_folder))
        assert status != 0, command
        assert "Traceback" not in err
    assert "could not be read" in nm("report", str(config.run_folder), "--out", str(tmp_path / "report"))[1]


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "a/../../outside", "..", "a\nb"])
def test_no_name_in_a_config_leads_out_of_the_results_folder(make_config, name):
    from dataclasses import replace

    config = make_config()
    named = replace(config, model=config.model.model_copy(update={"name": name}), data=config.data | {"name": name})
    assert named.run_folder.parent == config.results_dir
    assert named.run_folder.name == named.run_name
    assert "/" not in named.run_name
    assert named.run_name.isprintable()


def test_reports_and_status_escape_what_runs_say_of_themselves(make_config, nm, tmp_path):
    config = make_config(*FAST)
    run(config)
    other = tmp_path / "runs" / "other"
    shutil.copytree(config.run_folder, other)
    said = "<script>alert(1)</script>\x1b[2J"
    RunFolder(other).set_status("failed", said)
    status, _, _ = nm("report", str(tmp_path / "runs"), "--out", str(tmp_path / "report"))
    assert status == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert said not in page
    assert "\x1b" not in nm("status", str(tmp_path / "runs"))[1]


def test_credentials_reach_no_run_folder(make_config, tiny, nm, monkeypatch, tmp_path, capsys):
    secret = "5ecre7-of-mine"
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "SLURM_JWT_TOKEN"):
        monkeypatch.setenv(name, secret)
    run(make_config(*FAST, "tracking=tensorboard"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nmtrain.training.run.load_teacher", lambda *_: 1 / 0)
        with pytest.raises(TrainingError):
            run(make_config(*FAST, "seed=1"))
    nm("report", str(tmp_path / "runs"), "--out", str(tmp_path / "report"))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if secret.encode() in file.read_bytes()]


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"])
def test_a_config_of_a_stranger_reads_no_credentials(tiny, monkeypatch, name):
    monkeypatch.setenv(name, "5ecre7-of-mine")
    monkeypatch.setenv("DATA_ROOT", "/data")
    line = [*tiny, "results_dir=${oc.env:DATA_ROOT}/runs"]
    assert compose_values(prepare_overrides(line))["results_dir"] == "/data/runs"
    with pytest.raises(ConfigError) as refusal:
        compose_values(prepare_overrides([*line, f"tracking.project=${{oc.env:{name}}}"]))
    assert f"{name}: is a credential, which no config may hold" in str(refusal.value)
    assert "5ecre7" not in str(refusal.value)


def test_a_model_folder_with_code_of_its_own_runs_none_of_it(tmp_path, mark, tiny, nm):
    folder = tmp_path / "model"
    folder.mkdir()
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    (folder / "modeling_theirs.py").write_text(code)
    config = {"model_type": "theirs", "auto_map": {"AutoConfig": "modeling_theirs.Config"}}
    config["auto_map"]["AutoModelForSeq2SeqLM"] = "modeling_theirs.Model"
    (folder / "config.json").write_text(json.dumps(config))
    line = ["model=t5", f"model.pretrained={folder}", "model.name=t5", f"results_dir={tmp_path}/runs", "--dry-run"]
    status, _, err = nm(*line)
    assert status == 2
    assert "Traceback" not in err


def test_weights_in_a_pickle_run_nothing(tmp_path, mark, tiny, nm):
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {"x": torch.ones(1)}, "more": Shell(mark)}, file)
    status, _, err = nm(*tiny, f"model.pretrained={file}", "--dry-run")
    assert status == 2
    assert "Traceback" not in err


def test_config_yaml_of_a_run_is_plain(make_config):
    config = make_config(*FAST)
    run(config)
    assert yaml.safe_load((config.run_folder / "config.yaml").read_text()) == config.values
