"""How a run is named."""

import copy
import dataclasses
from pathlib import Path

import pytest

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.config.naming import result_digest
from tests.config.conftest import put


def name(values):
    return check_config(values).run_name


CHANGES_NOTHING = {
    "results_dir",
    "force",
    "tune",
    "dry_run",
    "retry",
    "allow_changed",
    "model.roles",
    "data.cache_dir",
    "data.download",
    "data.test_size",  # of glyphs, where the test images are not evaluated on
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_after",
    "train.eval_batch_size",
    "train.gradient_checkpointing",
    "launch.gpus",
    "launch.processes",
    "launch.nodes",
    "launch.strategy",
    "launch.timeout",
    "launch.compare_every",
    "measure.patterns",
}


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def other(key, value):
    """Another value than ``value``: for what the name looks at, it need not be one that training takes."""
    if key in ("sparsity", "mask.stacks"):
        return {"sparsity": "1:16", "mask.stacks": ["encoder"]}[key]
    if isinstance(value, dict):
        return {"ff": "1:4"}
    if isinstance(value, list):
        return [*value, value[-1]] if value else ["head.weight"]
    if isinstance(value, bool):
        return not value
    return 7 if value is None else value + 1 if isinstance(value, int | float) else f"{value}x"


@pytest.mark.parametrize(
    "overrides", [(), ("data=cifar10",), ("data=digits", "recipe=mdgf", "optim=sgd", "tracking=wandb")]
)
def test_every_key_enters_the_name_but_those_that_change_nothing_about_the_result(shipped, overrides):
    config = check_config(shipped(*overrides))
    ignored, seen = set(), set()
    for key, value in leaves(config.values):
        changed = put(copy.deepcopy(config.values), **{key.replace(".", "__"): other(key, value)})
        same = dataclasses.replace(config, values=changed).run_name == config.run_name
        (ignored if same else seen).add(key)
    tracking = {key for key in ignored | seen if key.startswith(("tracking.", "cluster."))}
    assert ignored == (CHANGES_NOTHING | tracking) & (ignored | seen)
    assert {"seed", "sparsity", "mask.roles", "mask.names", "train.compile", "train.device", "optim.lr"} <= seen


def test_the_test_split_enters_the_name_where_it_is_evaluated_on(shipped):
    evaluated = [name(put(shipped(), data__evaluate="test", data__test_size=size)) for size in (400, 500)]
    assert len({*evaluated, name(shipped())}) == 3
    listops = [name(shipped("model=t5", f"data.test_size={size}")) for size in (400, 500)]
    assert listops[0] != listops[1]  # no expression of test is one of training


@pytest.mark.parametrize(
    ("overrides", "digest"),
    [
        ((), "ab355ae8"),
        (("data.classes=50", "recipe=dense"), "9ef0ac5b"),
        (("recipe=mdgf",), "b5084893"),
        (("recipe=mdgf_linear", "recipe.gradient=straight_through"), "66d1b371"),
        (("recipe=sdgf_geometric", "recipe.decay=linear"), "76b76968"),
        (("model=t5", "optim=adafactor"), "3bd1b34c"),
        (("data=digits", "data.test_split=false"), "05b0682e"),
        (("model=t5",), "ead4b473"),
        (("model=t5", "data.evaluate=test"), "f54efd6b"),
        (("model=t5", "data=text", "data.test_fraction=0"), "b74b7f58"),
        (("model=bert", "data=glue", "data.task=rte"), "c4775699"),
    ],
)
def test_runs_of_before_there_was_a_test_split_keep_their_names(shipped, overrides, digest):
    assert name(shipped(*overrides)).rpartition("-")[2] == digest


@pytest.mark.parametrize("data", ["digits", "text"])
def test_where_training_gave_up_data_to_test_the_run_has_another_name(shipped, data):
    model = {"digits": "vit", "text": "t5"}[data]
    option = {"digits": "data.test_split=false", "text": "data.test_fraction=0"}[data]
    assert name(shipped(f"model={model}", f"data={data}")) != name(shipped(f"model={model}", f"data={data}", option))


def test_options_that_a_users_own_yaml_leaves_out_are_those_it_runs_with(shipped):
    values = shipped("data=digits")
    short = put(copy.deepcopy(values), data={"name": "digits"})
    assert check_config(short).values == check_config(values).values
    assert name(short) == name(values)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ({"optim__lr": 0.1}, {"optim__lr": 1e-1}),
        ({"train__epochs": 3}, {"train__epochs": 3.0}),
        ({"optim__betas": [0, 0.9]}, {"optim__betas": [0.0, 0.9]}),
        ({"recipe__dense_fraction": 0}, {"recipe__dense_fraction": 0.0}),
        ({"sparsity": "1:32"}, {"sparsity": " 01 : 32 "}),
        ({"mask__roles": ["ff", "q"]}, {"mask__roles": ["q", "ff"]}),
        ({"train__updates": 5}, {"train__updates": 5, "train__epochs": 9}),
        (
            {"mask__roles": ["ff", "q", "k"], "mask__patterns": {"q": "1:4", "k": "2:4"}},
            {"mask__roles": ["q", "k", "ff"], "mask__patterns": {"k": "2:04", "q": "1:4"}},
        ),
    ],
)
def test_the_name_does_not_depend_on_how_a_value_is_written(shipped, one, another):
    assert name(put(shipped(), **one)) == name(put(shipped(), **another))


def test_a_budget_enters_the_name_where_there_is_one_and_overrides_epochs(shipped):
    without = shipped()
    del without["train"]["flops"]
    assert name(without) == name(shipped())
    budgets = [name(put(shipped(), train__flops=budget)) for budget in (1.2e12, 1200000000000, 1.3e12)]
    assert budgets[0] == budgets[1]
    assert len({*budgets, name(shipped())}) == 3
    assert name(put(shipped(), train__flops=1.2e12, train__epochs=5)) == budgets[0]


def test_the_name_does_not_depend_on_the_order_of_keys(shipped):
    def turned(values):
        if not isinstance(values, dict):
            return values
        return {key: turned(value) for key, value in reversed(values.items())}

    assert list(turned(shipped())) != list(shipped())
    assert name(turned(shipped())) == name(shipped())


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("recipe=mdgf", "recipe=mdgf_exponential"),
        ("recipe=sdgf", "recipe=sdgf_stepwise"),
        ("recipe=mdgf recipe.decay=linear", "recipe=mdgf_linear"),
        ("recipe=sdgf recipe.structure=geometric", "recipe=sdgf_geometric"),
        ("mask.roles=[ff]", ""),
        ("recipe=mdgf optim.lr=0.01", "optim.lr=1e-2 recipe=mdgf"),
    ],
)
def test_two_ways_to_ask_for_one_run_name_the_same_folder(one, another):
    first, second = (compose_values(prepare_overrides(overrides.split())) for overrides in (one, another))
    assert name(first) == name(second)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("data=folder data.path=photos/", "data=folder data.path=./photos"),
        ("data=wmt data.path=/my//pairs data.tokenizer=tokens/", "data=wmt data.path=/my/pairs/ data.tokenizer=tokens"),
        ("model=vit_base model.pretrained=weights/vit/", "model=vit_base model.pretrained=weights/vit"),
    ],
)
def test_a_folder_is_the_same_with_and_without_a_slash_at_its_end(one, another):
    first, second = (compose_values(prepare_overrides(overrides.split())) for overrides in (one, another))
    assert result_digest(first, is_dense=False) == result_digest(second, is_dense=False)


def test_the_parts_of_a_name_can_be_read_and_hold_no_colon(shipped):
    config = check_config(put(shipped("recipe=mdgf"), seed=3, mask__roles=["ff", "q"], mask__patterns={"q": "1:4"}))
    *parts, digest = config.run_name.split("-")
    assert parts == ["vit", "glyphs", "1of32", "mdgf_exponential", "s3"]
    assert len(digest) == 8
    assert set(digest) <= set("0123456789abcdef")


def test_a_name_holds_only_what_every_file_system_takes(shipped):
    named = name(put(shipped(), model__name="hf-hub:timm/vit tiny*"))
    assert named.startswith("hf-hub_timm_vit_tiny_-glyphs-1of32-")


def test_dense_runs_of_one_seed_share_a_name_whatever_the_mask(shipped):
    dense = shipped("recipe=dense")
    other_mask = put(shipped("recipe=dense"), sparsity="2:4", mask__axis="output", mask__roles=["ff", "q"])
    assert name(dense) == name(other_mask)
    assert "1of32" not in name(dense)
    assert name(dense) != name(put(shipped("recipe=dense"), seed=1))


def test_home_is_expanded_in_the_results_folder(shipped, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert check_config(put(shipped(), results_dir="~/runs")).results_dir == Path("/somewhere/runs")
    unknown = check_config(put(shipped(), results_dir="~nobody-of-that-name/runs"))
    assert unknown.results_dir == Path("~nobody-of-that-name/runs")


def test_teachers_of_one_folder_s_name_are_not_the_same_and_a_run_is_wherever_it_lies(shipped):
    def taught(teacher):
        return name(put(shipped(), train__teacher=teacher))

    assert taught("/a/vit-glyphs-dense-s0-0123abcd") == taught("/elsewhere/vit-glyphs-dense-s0-0123abcd")
    assert taught("/runs/one/export") != taught("/runs/other/export")
    assert taught("/runs/one/model.safetensors") != taught("/runs/other/model.safetensors")
    assert taught("resnet18.a1_in1k") == taught("timm/resnet18.a1_in1k") == taught("hf-hub:timm/resnet18.a1_in1k")
    assert taught("hf-hub:one/vit") != taught("hf-hub:other/vit")
