"""Runs on images that are read from files: exact resume, what the run folder keeps, and what plain timm makes of it."""

import json
import logging
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import RunFolderError
from nmtrain.launch.job import checked
from nmtrain.runs.folder import RunFolder
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.export import export_run, load_run
from nmtrain.training.run import run

CLASSES = {"ape": 70, "bear, grey": 130, "çat": 190}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of small JPEGs of three brightnesses, in train and val."""
    root = tmp_path_factory.mktemp("my photos")
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 5)):
        for name, brightness in CLASSES.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                shape = (int(generator.integers(20, 60)), int(generator.integers(20, 60)), 3)
                pixels = generator.normal(brightness, 60, shape).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


@pytest.fixture
def settings(photos, tmp_path) -> list[str]:
    """Of a run of six updates, an epoch of which is three."""
    run = [
        "train.updates=6",
        "train.batch_size=16",
        "train.eval_every=1",
        "train.eval_batch_size=4",
        "train.log_every=1",
    ]
    model = ["model=vit", "model.options.depth=1", "model.options.embed_dim=64", "sparsity=1:8", "train.device=cpu"]
    return [*run, *model, "data=folder", f"data.path={photos}", "data.workers=0", f"results_dir={tmp_path}/runs"]


def config_of(settings, *overrides):
    return checked(compose_values(prepare_overrides([*settings, *overrides])))


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_plain_timm_scores_the_exported_model_to_the_digit(settings, photos, tmp_path):
    levels = ["data.crop_pct=0.8", "data.interpolation=bicubic", "data.mean=[0.4,0.5,0.6]"]
    config = config_of(settings, *levels)
    accuracy = run(config)["metrics"]["val/accuracy"]
    out = tmp_path / "out"
    plain = eval(export_run(config.run_folder, out), {"timm": timm}).eval()

    # What a stranger would write, with timm alone.
    data = timm.data.resolve_model_data_config(plain)
    transform = timm.data.create_transform(**data)
    names = plain.pretrained_cfg["label_names"]
    files = sorted((photos / "val").rglob("*.jpg"))
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        logits = torch.cat([plain(part) for part in images.split(4)])
    right = [names[i] == file.parent.name for i, file in zip(logits.argmax(1).tolist(), files, strict=True)]
    assert sum(right) / len(right) == accuracy

    assert list(names) == list(CLASSES)
    assert (data["input_size"], data["crop_pct"], data["interpolation"]) == ((3, 32, 32), 0.8, "bicubic")
    _, ours = load_run(config.run_folder)
    from nmtrain.data import load_data

    batches = list(load_data(**config.data, seed=0).val_batches(4))
    by_label = torch.cat([ours.eval()(inputs).detach() for inputs, _ in batches])
    labels = torch.cat([targets for _, targets in batches])
    assert (by_label.argmax(1) == labels).double().mean().item() == accuracy
    theirs = {tuple(row.tolist()) for row in logits}
    assert {tuple(row.tolist()) for row in by_label} == theirs


def test_an_exported_model_of_images_in_memory_says_their_levels_too(make_config, tmp_path):
    config = make_config()
    run(config)
    plain = eval(export_run(config.run_folder, tmp_path / "out"), {"timm": timm})
    data = timm.data.resolve_model_data_config(plain)
    assert data["input_size"] == (1, 16, 16)
    assert 0.25 < data["mean"][0] < 0.35
    assert len(data["std"]) == 1
    assert list(plain.pretrained_cfg["label_names"]) == [str(digit) for digit in range(10)]
    from nmtrain.data import load_data

    batches = load_data(**config.data, seed=0)
    grey = (batches.val_images[0, 0]).numpy()
    transform = timm.data.create_transform(**data)
    assert torch.equal(transform(Image.fromarray(grey)), next(batches.val_batches(1))[0][0])


def test_a_run_folder_of_before_is_exported_and_scored_as_it_was(settings, tmp_path):
    config = config_of(settings)
    run(config)
    accuracy = evaluate_run(config.run_folder)["metrics"]
    (config.run_folder / "model" / "preprocessing.json").unlink()
    export_run(config.run_folder, tmp_path / "out")
    assert "mean" not in json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert evaluate_run(config.run_folder)["metrics"] == accuracy


@pytest.mark.parametrize("recipe", ["sr_ste", "sdgf"])
def test_workers_change_nothing_about_a_run(settings, recipe, tmp_path):
    augmented = ["data.auto_augment=rand-m15-n2-mstd0", "data.erase=0.25", "data.repeats=2", f"recipe={recipe}"]
    alone = config_of(settings, *augmented)
    run(alone)
    ahead = config_of(settings, *augmented, "data.workers=2", "data.prefetch=1", f"results_dir={tmp_path}/other")
    assert ahead.run_name == alone.run_name
    run(ahead)
    assert same(weights(alone.run_folder), weights(ahead.run_folder))
    records = [(config.run_folder / "metrics.jsonl").read_text() for config in (alone, ahead)]
    assert records[0] == records[1]


def test_a_worker_that_outlives_training_does_not_hold_the_run(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.locked():
        context = multiprocessing.get_context("fork")
        there, end = context.Event(), context.Event()
        worker = context.Process(target=lambda: (there.set(), end.wait(60)))
        worker.start()
        assert there.wait(60)
        with pytest.raises(RunFolderError, match="another process"), folder.locked():
            pass
    with folder.locked():
        assert worker.is_alive()
    end.set()
    worker.join()


@pytest.mark.slow
def test_kill_9_and_another_number_of_workers_end_as_if_nothing_had_happened(settings, tmp_path):
    longer = ["train.updates=40", "train.checkpoint_every=3", "data.auto_augment=rand-m9-mstd0.5"]
    whole = config_of(settings, *longer, f"results_dir={tmp_path}/whole")
    summary = run(whole)
    killed = config_of(settings, *longer)
    for count, workers in ((4, 2), (20, 1)):
        command = [sys.executable, "-m", "nmtrain", *settings, *longer, f"data.workers={workers}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        records, deadline = killed.run_folder / "metrics.jsonl", time.monotonic() + 240
        while not (records.exists() and records.read_text().count("\n") >= count):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = run(config_of(settings, *longer, "data.workers=2"))
    assert same(weights(whole.run_folder), weights(killed.run_folder))
    assert resumed["metrics"] == summary["metrics"]


def test_damaged_images_are_counted_over_a_resume(settings, photos, tmp_path, caplog):
    broken = tmp_path / "broken"
    for file in photos.rglob("*.jpg"):
        (broken / file.relative_to(photos)).parent.mkdir(parents=True, exist_ok=True)
        (broken / file.relative_to(photos)).write_bytes(file.read_bytes())
    (broken / "train" / "ape" / "3.jpg").write_text("no image at all")
    (broken / "val" / "ape" / "0.jpg").write_bytes((photos / "val" / "ape" / "0.jpg").read_bytes()[:200])
    given = [*settings, f"data.path={broken}", "train.updates=3", "train.checkpoint_every=3"]
    with caplog.at_level(logging.WARNING, "nmtrain"):
        summary = run(config_of(given))
    assert summary["damaged"] == 2
    assert summary["metrics"]["val/accuracy"] * 14 == pytest.approx(round(summary["metrics"]["val/accuracy"] * 14))
    told = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(told) == 2
    assert f"({broken}/train/ape/3.jpg) cannot be read and is left out" in told[0]
    folder = config_of(given).run_folder
    for name in ("summary.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "status.json").write_text('{"state": "running", "reason": null}')
    assert run(config_of(given))["damaged"] == 2
    assert evaluate_run(folder)["damaged"] == 1


def test_too_many_damaged_images_fail_the_run_and_say_so_in_its_folder(settings, photos, tmp_path, nm):
    broken = tmp_path / "broken"
    for split in ("train", "val"):
        for name in CLASSES:
            (broken / split / name).mkdir(parents=True)
            for number in range(8):
                (broken / split / name / f"{number}.png").write_text("text")
    status, _, err = nm(*settings, f"data.path={broken}", "data.max_damaged=2", "data.workers=1")
    assert status == 1
    assert "data.max_damaged=2" in err
    assert "images cannot be read" in err
    (state,) = Path(f"{tmp_path}/runs").glob("*/status.json")
    assert json.loads(state.read_text())["state"] == "failed"


def test_other_images_go_through_what_those_of_the_run_did(settings, photos, tmp_path, caplog):
    config = config_of(settings, "data.crop_pct=0.7")
    metrics = run(config)["metrics"]
    moved = tmp_path / "moved"
    moved.symlink_to(photos)
    other = evaluate_run(config.run_folder, ["data.path=" + str(moved), "++data.crop_pct=null", "++data.mean=null"])
    assert other["metrics"] == metrics
    assert other["data"]["crop_pct"] == 0.7
    renamed = tmp_path / "renamed"
    for split in ("train", "val"):
        for name in CLASSES:
            (renamed / split).mkdir(parents=True, exist_ok=True)
            (renamed / split / name.upper()).symlink_to(photos / split / name)
    with caplog.at_level(logging.WARNING, "nmtrain"):
        evaluate_run(config.run_folder, [f"data.path={renamed}"])
    assert "3 of the classes have other names (APE was ape); the score may be another" in caplog.text


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (["model=vit"], (32, "bilinear", 1.0, 0.485)),
        (["model=vit", "model.options.img_size=48"], (48, "bilinear", 1.0, 0.485)),
        (["model.name=resnet50", "model.options={}"], (224, "bicubic", 0.95, 0.485)),
        (["model.name=vit_base_patch16_224", "model.options={}"], (224, "bicubic", 0.9, 0.5)),
        (["model.name=vit_base_patch16_224", "model.options={}", "data.image_size=64"], (64, "bicubic", 0.9, 0.5)),
    ],
)
def test_what_is_null_is_what_timm_says_of_the_model(settings, model, expected):
    given = [setting for setting in settings if not setting.startswith("model")]
    data = config_of(given, *model).data
    assert (data["image_size"], data["interpolation"], data["crop_pct"], data["mean"][0]) == expected
    assert len(data["std"]) == 3


def test_a_model_that_timm_does_not_know_is_named_and_so_is_one_of_text(settings, photos, nm):
    given = [setting for setting in settings if not setting.startswith("model")]
    assert config_of(given, "model=vit", "model.name=nosuch").data["image_size"] == 224  # what timm takes then
    status, _, err = nm(*given, "model=vit", "model.name=nosuch")
    assert status == 2
    assert err.startswith("model.name=nosuch: there is no such model")
    status, _, err = nm("model=t5", "data=folder", f"data.path={photos}")
    assert status == 2
    assert "data=folder: holds images, which model=t5 (text_to_text) does not read" in err


def test_grey_images_have_the_average_of_the_levels(settings):
    data = config_of(settings, "data.channels=1").data
    assert data["mean"] == [pytest.approx((0.485 + 0.456 + 0.406) / 3)]
    assert len(data["std"]) == 1


def test_weights_to_start_from_say_what_they_are_given(settings, tmp_path):
    first = config_of(settings, "data.image_size=48", "data.mean=[0.1,0.2,0.3]", "data.crop_pct=0.77")
    run(first)
    export_run(first.run_folder, tmp_path / "out")
    data = config_of(settings, f"model.pretrained={tmp_path}/out").data
    assert (data["image_size"], data["mean"], data["crop_pct"]) == (48, [0.1, 0.2, 0.3], 0.77)
    gone = config_of(settings, "model.pretrained=/nowhere/at/all").data  # which planning refuses
    assert gone["image_size"] == 32


def test_the_name_of_a_run_depends_on_what_the_model_said(settings):
    implied, said = config_of(settings), config_of(settings, "data.image_size=32", "data.crop_pct=1.0")
    assert implied.run_name == said.run_name
    assert config_of(settings, "data.image_size=40").run_name != said.run_name
    assert check_config(implied.values).run_name == implied.run_name


def test_channels_last_is_another_run_that_trains(settings):
    given = [*(setting for setting in settings if not setting.startswith("model")), "model=resnet", "train.updates=2"]
    plain, laid_out = config_of(given), config_of(given, "train.channels_last=true")
    assert plain.run_name != laid_out.run_name
    losses = [run(config)["metrics"]["val/loss"] for config in (plain, laid_out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_waiting_for_images_is_recorded_and_told(settings, nm, monkeypatch):
    from nmtrain.data.images.files import streamed

    read = streamed.read_image
    monkeypatch.setattr(streamed, "read_image", lambda *arguments: time.sleep(0.03) or read(*arguments))
    status, out, _ = nm(*settings, "train.updates=2")
    assert status == 0
    (line,) = [line for line in out.splitlines() if "warning: waiting for data took" in line]
    assert "raise data.workers: 0 now" in line
    summary = json.loads(next(Path(settings[-1].partition("=")[2]).glob("*/summary.json")).read_text())
    assert summary["seconds"]["data"] > 2 * 16 * 0.03
    assert summary["damaged"] == 0


def test_in_memory_data_say_nothing_of_waiting(capsys):
    from nmtrain.launch.terminal import show_waiting

    show_waiting({"train": 1.0, "data": 5.0}, {"name": "glyphs"})
    show_waiting({"train": 1.0, "data": 0.05}, {"name": "folder", "workers": 2})
    assert capsys.readouterr().out == ""
    show_waiting({"train": 1.0, "data": 3.0}, {"name": "folder", "workers": 1000})
    assert "took 75% of the time of training, though 1000 processes read it" in capsys.readouterr().out
