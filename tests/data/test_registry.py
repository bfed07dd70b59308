import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nmtrain.data import DataShape, data_names, default_options, describe_data, load_data

REPOSITORY = Path(__file__).parents[2]
OPTIONS = {"imagenet": {"image_size": 224}}  # which a model states
HEAVY = ("torch", "transformers", "datasets", "pyarrow", "sklearn", "PIL", "matplotlib", "numpy")


def test_importing_and_describing_imports_nothing_heavy():
    code = (
        "import sys, nmtrain.data as data\n"
        f"[data.describe_data(name, **{OPTIONS}.get(name, {{}})) for name in data.data_names() if name != 'folder']\n"
        f"print([heavy for heavy in {HEAVY} if heavy in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_those_of_the_yaml_files():
    images = ["cifar10", "cifar100", "digits", "folder", "g2p", "glue", "glyphs", "imagenet"]
    assert data_names() == [*images, "listops", "text", "wmt"]
    assert sorted(path.stem for path in (REPOSITORY / "conf/data").glob("*.yaml")) == data_names()


@pytest.mark.parametrize("name", data_names())
def test_yaml_lists_every_option_with_its_default(name):
    written = yaml.safe_load((REPOSITORY / f"conf/data/{name}.yaml").read_text())
    assert written == {"name": name} | default_options(name)


def test_shapes_follow_the_options():
    assert describe_data("digits", image_size=8) == DataShape(
        num_classes=10, channels=1, image_size=8, train_size=1078, val_size=360
    )
    assert describe_data("glyphs", classes=50, image_size=24, train_size=500, val_size=100) == DataShape(
        num_classes=50, channels=1, image_size=24, train_size=500, val_size=100
    )
    assert describe_data("glyphs", val_size=300, test_size=400, evaluate="test").val_size == 400


@pytest.mark.parametrize("name", data_names())
def test_every_source_names_the_splits_it_can_be_evaluated_on(name):
    with pytest.raises(ValueError, match=r"^data\.evaluate: 'train' is not allowed; allowed: val, test$"):
        describe_data(name, evaluate="train")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "mnist",
            {},
            "data.name: 'mnist' is not a data source. Available: [cifar10, cifar100, digits, folder, g2p, glue, glyphs,"
            " imagenet, listops, text, wmt]",
        ),
        (
            "digits",
            {"classes": 5},
            "data.classes=5: data=digits has no such option. Available: [evaluate, image_size, augment, test_split]",
        ),
        ("digits", {"image_size": 7}, "data.image_size: 7 is not allowed; allowed: multiples of 4 from 8 to 32"),
        ("digits", {"image_size": 36}, "data.image_size: 36 is not allowed; allowed: multiples of 4 from 8 to 32"),
        ("digits", {"image_size": True}, "data.image_size: True is not allowed; allowed: multiples of 4 from 8 to 32"),
        ("digits", {"test_split": 1}, "data.test_split: 1 is not allowed; allowed: true, false"),
        ("digits", {"augment": "yes"}, "data.augment: 'yes' is not allowed; allowed: true, false"),
        ("glyphs", {"image_size": 8}, "data.image_size: 8 is not allowed; allowed: multiples of 4 from 16 to 32"),
        ("glyphs", {"classes": 321}, "data.classes: 321 is not allowed; allowed: whole numbers from 2 to 320"),
        ("glyphs", {"classes": 1}, "data.classes: 1 is not allowed; allowed: whole numbers from 2 to 320"),
        (
            "glyphs",
            {"train_size": 199},
            "data.train_size: 199 is not allowed; allowed: whole numbers from 200 to 1000000",
        ),
        ("glyphs", {"val_size": 0}, "data.val_size: 0 is not allowed; allowed: whole numbers from 200 to 1000000"),
        ("glyphs", {"test_size": 9}, "data.test_size: 9 is not allowed; allowed: whole numbers from 200 to 1000000"),
        ("glyphs", {"noise": -0.1}, "data.noise: -0.1 is not allowed; allowed: numbers from 0 to 1"),
        ("glyphs", {"noise": float("nan")}, "data.noise: nan is not allowed; allowed: numbers from 0 to 1"),
        ("glyphs", {"cache_dir": 3}, "data.cache_dir: 3 is not allowed; allowed: a path, or null for the default"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=r"^data\.") as refusal:
        describe_data(name, **options)
    assert str(refusal.value) == message
    with pytest.raises(ValueError, match=r"^data\."):
        load_data(name, seed=0, **options)


def test_all_faults_are_listed_in_one_error():
    with pytest.raises(ValueError, match=r"^data\.") as refusal:
        describe_data("glyphs", colour="red", classes=0, noise=2, generation_seed=-1)
    named = [line.split(":")[0] for line in str(refusal.value).splitlines()]
    assert named == ["data.colour='red'", "data.classes", "data.noise", "data.generation_seed"]
