"""Every file in conf/ can be chosen as it stands, and the shipped small models take every pattern and every recipe."""

import copy
import itertools
from pathlib import Path

import pytest
import yaml

from nmtrain.config.check import check_config
from nmtrain.config.choices import groups
from nmtrain.config.compose import compose_values
from nmtrain.data import data_names
from nmtrain.launch.terminal import show_plan
from nmtrain.training.plan import make_plan, shape_faults

CONF = Path(__file__).parents[2] / "conf"
LARGE = ["vit_base", "resnet50", "swin_base", "t5_base", "t5_v1_1_base"]
# What comes from the hub is planned with random weights, and text with a model that reads it.
WITH = {f"model={name}": ["model.pretrained=null"] for name in ("t5_small", "t5_base", "t5_v1_1_base")}
WITH |= {f"data={name}": ["model=t5"] for name in data_names(text=True)}
WITH |= {"data=folder": ["data.image_size=32"], "data=imagenet": ["data.image_size=32"]}  # what a model states
OPTIONS = [
    pytest.param(group, option, id=f"{group}={option}", marks=[pytest.mark.slow] if option in LARGE else [])
    for group, options in groups().items()
    for option in options
]
SMALL = ["vit", "vit_compact", "resnet", "swin", "t5", "bert"]
PATTERNS = ["2:4", "1:4", "1:8", "4:8", "1:16", "1:32", "1:64"]
FURTHER_RECIPES = [
    {"name": "sdgf", "structure": "densify"},
    {"name": "sdgf", "structure": "geometric", "k": 8},
    {"name": "sdgf", "structure": "stepwise", "decay": "exponential"},
    {"name": "mdgf", "decay": "linear", "gradient": "straight_through", "dense_fraction": 0.2},
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_can_be_chosen_with_the_defaults_of_the_rest(group, option, tmp_path):
    values = compose_values([f"{group}={option}", *WITH.get(f"{group}={option}", [])])
    if option == "folder":
        for name in (f"{split}/{label}/{n}.png" for split in ("train", "val") for label in "ab" for n in range(64)):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        values["data"]["path"] = str(tmp_path)
    config = check_config(values)
    assert shape_faults([config]) == []


MODELS = [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in groups()["model"]]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_dry_runs(model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    config = check_config(compose_values([f"model={model}", *WITH.get(f"model={model}", [])]))
    plan = make_plan(config)
    assert plan.tensors
    assert plan.warnings == []
    show_plan(plan)
    out = capsys.readouterr().out
    assert out.startswith(f"{config.run_folder}\n{config.total_updates} updates of {config.train.batch_size} samples")
    for tensor in plan.tensors:
        assert tensor.label in out


def test_every_group_is_in_the_defaults_and_every_default_exists():
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    chosen = {
        key.removeprefix("optional "): name
        for entry in defaults
        if isinstance(entry, dict)
        for key, name in entry.items()
    }
    chosen = {group: name for group, name in chosen.items() if not group.startswith("override ")}
    assert chosen.keys() == groups().keys()
    assert chosen.pop("experiment") is None
    for group, name in chosen.items():
        assert name in groups()[group]


def test_no_file_name_and_no_value_is_one_that_yaml_or_windows_misreads():
    for path in CONF.rglob("*.yaml"):
        assert not set(path.name) & set(':<>"|?*')
        for key, value in flat(yaml.safe_load(path.read_text())):
            assert type(key) is str, f"{path}: {key!r} is a key that YAML takes for no string"
            if key in ("sparsity", "patterns", "name"):
                assert not isinstance(value, bool | int), f"{path}: {key} is unquoted"


def flat(node):
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if isinstance(node, dict):
            yield key, value
        yield from flat(value)


@pytest.fixture(scope="module")
def recipes():
    """The ``recipe`` section of every shipped file, and of the structures that have no file."""
    shipped = [compose_values([f"recipe={name}"])["recipe"] for name in groups()["recipe"]]
    return shipped + FURTHER_RECIPES


@pytest.mark.parametrize("model", SMALL)
def test_the_defaults_of_a_small_model_take_every_pattern_with_every_recipe(model, recipes):
    values = compose_values([f"model={model}"])
    configs = []
    for pattern, recipe in itertools.product(PATTERNS, recipes):
        configs.append(check_config(copy.deepcopy(values) | {"sparsity": pattern, "recipe": recipe}))
    assert len({config.run_name for config in configs if not config.is_dense}) == len(PATTERNS) * 20
    assert shape_faults(configs) == []


@pytest.mark.parametrize("model", SMALL)
def test_every_role_of_a_small_model_takes_every_pattern_on_its_input_axis(model):
    roles = {"resnet": ["conv"]}.get(model, ["ff", "q", "k", "v", "o"])
    values = compose_values([f"model={model}", f"mask.roles=[{','.join(roles)}]"])
    configs = [check_config(copy.deepcopy(values) | {"sparsity": pattern}) for pattern in PATTERNS]
    assert shape_faults(configs) == []


def test_a_pattern_that_the_small_models_cannot_carry_is_among_the_faults():
    """The check that the tests above rely on is not blind."""
    values = compose_values(["model=vit", "recipe=ste"])
    configs = [check_config(copy.deepcopy(values) | {"sparsity": pattern}) for pattern in ("1:8", "1:256")]
    faults = shape_faults(configs)
    assert len(faults) == 4
    assert faults[0] == "sparsity=1:256: blocks.0.mlp.fc1.weight: M = 256 does not divide its input axis of length 128"


def test_the_phases_of_a_dry_run_are_those_of_the_recipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    config = check_config(compose_values(["recipe=sdgf_geometric", "sparsity=1:8", "train.updates=100"]))
    plan = make_plan(config)
    show_plan(plan)
    out = capsys.readouterr().out
    rows = [line.replace("│", " ").split()[:2] for line in out.splitlines() if "straight_through" in line]
    assert rows == [["0", "16:128"], ["18", "8:64"], ["36", "4:32"], ["54", "2:16"], ["72", "1:8"]]
