"""Image files that moved, changed or are not as they should be, around a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.errors import DataError
from nmtrain.launch.job import checked
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.run import run

LINE = ["model=vit", "model.options.depth=1", "model.options.embed_dim=64", "sparsity=1:8", "train.device=cpu"]
LINE += ["train.updates=4", "train.checkpoint_every=2", "train.batch_size=8", "measure=off", "data.workers=0"]


@pytest.fixture
def photos(tmp_path) -> Path:
    """An undivided folder of three classes."""
    generator = np.random.default_rng(0)
    for name, colour in {"ape": 60, "Bär": 120, "cat, black": 180}.items():
        folder = tmp_path / "my photos" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = generator.normal(colour, 20, (20, 20, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.PNG")
    return tmp_path / "my photos"


@pytest.fixture
def config_of(tmp_path):
    def make(photos, *more):
        line = ["data=folder", f"data.path='{photos}'", f"results_dir={tmp_path}/runs", "data.image_size=16"]
        return checked(compose_values(prepare_overrides([*LINE, *line, *more])))

    return make


def test_a_run_goes_on_if_its_images_are_the_same_and_says_where_they_are_not(photos, config_of, stopped):
    config = config_of(photos)
    whole = stopped(config)
    assert list(json.loads((config.run_folder / "environment.json").read_text())["data"]) == [str(photos), "examples"]
    image = photos / "ape/3.PNG"
    content = image.read_bytes()
    image.write_bytes(content + b" ")
    with pytest.raises(DataError, match=r"my photos is not what this run began with; put back what was there, or"):
        run(config)
    image.write_bytes(content)
    assert run(config)["metrics"] == whole["metrics"]


def test_a_folder_that_moved_is_scored_as_it_was_and_a_changed_one_with_a_warning(photos, config_of, tmp_path, caplog):
    config = config_of(photos)
    trained = run(config)["metrics"]
    moved = Path(shutil.move(photos, tmp_path / "moved"))
    there = [f"data.path={moved}"]
    assert evaluate_run(config.run_folder, there)["metrics"] == {
        name: value for name, value in trained.items() if name.startswith("val/")
    }
    test = evaluate_run(config.run_folder, [*there, "data.evaluate=test"])
    assert test["split"] == "test"
    assert "not what this run began with" not in caplog.text
    (moved / "ape/3.PNG").unlink()
    evaluate_run(config.run_folder, there)
    assert f"{moved} is not what this run began with; the score may be another" in caplog.text


def test_other_parts_held_out_are_not_scored(nm, photos, config_of):
    config = config_of(photos)
    run(config)
    status, _, err = nm("eval", str(config.run_folder), "data.val_fraction=0.3")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("data.val_fraction=0.3: was 0.1 in training, so that this run may have trained on")


def test_bad_folders_are_refused_by_the_command_with_one_line_each(refused, photos):
    given = [*LINE, "data=folder", "data.image_size=16"]
    assert refused(*given, "data.path=gone") == "data.path=gone: there is no such folder"
    assert refused(*given) == (
        "data.path: null is not allowed with data=folder; give the folder, with train/CLASS/..., val/CLASS/... (and "
        "test/CLASS/...), or CLASS/... alone, with images in each CLASS"
    )
    (photos / "bär").mkdir()
    assert refused(*given, f"data.path='{photos}'").startswith(
        f"data.path: the class folders Bär and bär of {photos} differ only in upper and lower case"
    )
    (photos / "bär").rmdir()
    message = refused(*given, f"data.path='{photos}'", "train.batch_size=64")
    assert message.startswith("train.batch_size=64: exceeds the ")
    assert refused(*LINE, "data=imagenet", f"data.path='{photos}'", "data.image_size=16").startswith(
        f"data.path={photos}: has no training images; wanted: train/CLASS/... and val/CLASS/...; ILSVRC"
    )


def test_reading_ahead_and_what_may_be_damaged_are_not_part_of_a_name(photos, config_of):
    name = config_of(photos).run_name
    assert config_of(photos, "data.workers=2", "data.prefetch=3", "data.max_damaged=0").run_name == name
    assert config_of(photos, "data.val_fraction=0.2").run_name != name
    assert config_of(photos, "data.evaluate=test").run_name != name
