"""What the command line is turned into: choices, overrides, interpolations."""

import pytest

from nmtrain.config.check import ConfigError
from nmtrain.config.compose import (
    compose_values,
    evaluation_overrides,
    overridden,
    prepare_overrides,
    require_no_axes,
    search_path_override,
    sweep_combinations,
    varied_settings,
    with_axes,
)


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("foo", "foo: is not of the form key=value"),
        ("=3", "=3: is not of the form key=value"),
        ("a==b", "a==b: the value cannot be read; close what is open"),
        ("mask.roles=[ff", "mask.roles=[ff: the value cannot be read; close what is open"),
        ("mask.patterns={q:1:4", "mask.patterns={q:1:4: the value cannot be read; close what is open"),
        ("results_dir=[~/x]", "results_dir=[~/x]: the value cannot be read; close what is open, and quote what holds"),
        ("seed=${", "seed=${: the value cannot be read"),
        (
            "mask.names=[é,ü,é]",
            "mask.names=[é,ü,é]: the value cannot be read; close what is open, and quote what holds"
            " , = ~ ( ) [ ] { } or a quote: 'key=\"a,b\"'; é ü can stand inside quotes only",
        ),
        ("sparsity=1:8,1:16", "sparsity=1:8,1:16: several values are a sweep; add -m"),
        ("seed=range(3)", "seed=range(3): several values are a sweep; add -m"),
        ("recipe=mdgf,sdgf", "recipe=mdgf,sdgf: several values are a sweep; add -m"),
        (
            "model=Vit",
            "model=Vit: there is no such model. Available: ['bert', 'resnet', 'resnet50', 'swin', 'swin_base', 't5', ",
        ),
        (
            "data=mnist",
            "data=mnist: there is no such data. Available: ['cifar10', 'cifar100', 'digits', 'folder',",
        ),
        ("recipe=null", "recipe=null: there is no such recipe. Available: ['ac_dc', 'asp', 'dense', 'feather', "),
        ("train=null", "train=null: there is no such train. Available: ['default', 'finetune', 'text']"),
        ("recipe@train=ste", "recipe@train=ste: a group cannot be put elsewhere; write recipe=..."),
        ("claims=paper", "claims=paper: claims are what nmtrain report decides, and no setting of a run"),
        ("modle/x=3", "modle/x=3: there is no such group. Available: ['cluster', 'data', 'experiment', 'launch', "),
        ("hydra/launcher=joblib", "hydra/launcher=joblib: has no effect without -m"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused(argument, line):
    with pytest.raises(ConfigError) as refused:
        prepare_overrides([argument])
    (found,) = refused.value.faults
    assert found.startswith(line)


@pytest.mark.parametrize("value", ["res_é", "/data/José/1:8 #2", "中文", "a&b;c", "~/my runs", "a~b"])
@pytest.mark.parametrize("sweep", [False, True])
def test_a_value_that_hydra_reads_in_quotes_only_needs_none(value, sweep):
    prepared = prepare_overrides([f"results_dir={value}", "seed=1"], sweep)
    assert compose_values(prepared)["results_dir"] == value
    quoted = prepare_overrides([f'results_dir="{value}"', "seed=1"], sweep)
    assert prepared == quoted


def test_a_misspelt_choice_is_met_with_the_near_one():
    with pytest.raises(ConfigError, match=r"did you mean sdgf_geometric\?$"):
        prepare_overrides(["recipe=sdgf_geometrc"])


def test_all_arguments_that_cannot_be_meant_are_listed_together():
    with pytest.raises(ConfigError) as refused:
        prepare_overrides(["foo", "model=nope", "seed=3", "data=nope", "sparsity=1:8,1:16"])
    assert [line.split(":")[0] for line in refused.value.faults] == ["foo", "model=nope", "data=nope", "sparsity=1"]


def test_the_choices_of_a_sweep_are_checked_one_by_one():
    with pytest.raises(ConfigError, match=r"^recipe=nope: there is no such recipe"):
        prepare_overrides(["recipe=ste,nope,mdgf"], sweep=True)
    assert prepare_overrides(["recipe=ste,mdgf", "recipe=glob(sdgf*)"], sweep=True)


def test_interpolations_that_cannot_be_resolved_are_listed_with_key_and_value():
    with pytest.raises(ConfigError) as refused:
        compose_values(["++train.epochs=${nope}", "++seed=${seed}", "++model.options.x=[${oc.env:NMTRAIN_NOPE}]"])
    assert refused.value.faults == [
        "seed=${seed}: Recursive interpolation detected",
        "train.epochs=${nope}: Interpolation key 'nope' not found",
        "model.options.x.0=${oc.env:NMTRAIN_NOPE}: KeyError raised while resolving interpolation:"
        " \"Environment variable 'NMTRAIN_NOPE' not found\"",
    ]


def test_a_list_where_a_section_is_wanted_is_refused_with_its_key():
    with pytest.raises(ConfigError, match=r"^mask\.patterns=\[1:4\]: a section of keys and values is no list$"):
        compose_values(prepare_overrides(["mask.patterns=[1:4]"]))


def test_the_last_of_several_values_of_one_key_counts():
    values = compose_values(prepare_overrides(["seed=1", "recipe=ste", "seed=2", "recipe=mdgf"]))
    assert values["seed"] == 2
    assert values["recipe"]["name"] == "mdgf"


def test_experiment_null_is_the_default():
    assert compose_values(prepare_overrides(["experiment=null"])) == compose_values([])


def test_settings_of_an_evaluation_replace_single_values_and_delete_none():
    values = {"data": {"name": "text", "path": "/old", "window": 256}}
    changed = overridden(values, evaluation_overrides(["data.path=/a b/ü", "data.window=null"], []))
    assert changed == {"data": {"name": "text", "path": "/a b/ü", "window": None}}
    assert values["data"]["path"] == "/old"
    with pytest.raises(ConfigError, match=r"^~data\.path: eval takes one value$"):
        evaluation_overrides(["~data.path"], [])


# Axes that an experiment brings


@pytest.fixture
def table(tmp_path):
    """The overrides that choose an experiment of one's own, whose ``hydra.sweeper.params`` are as written."""

    def write(params: str, name: str = "table") -> list[str]:
        file = tmp_path / "conf" / "experiment" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\nhydra:\n  sweeper:\n    params: {params}\n")
        return [*search_path_override([tmp_path / "conf"]), f"experiment={name}"]

    return write


def test_axes_of_an_experiment_are_swept_like_those_of_the_command_line(table):
    own = table('{recipe: "dense,ste", sparsity: "1:8,1:16"}')
    found = [compose_values(combination) for combination in sweep_combinations(with_axes(own))]
    assert [(values["recipe"]["name"], values["sparsity"]) for values in found] == [
        (recipe, pattern) for recipe in ("dense", "ste") for pattern in ("1:8", "1:16")
    ]
    assert varied_settings(with_axes(own)) == ["recipe=dense,ste", "sparsity=1:8,1:16"]


def test_the_command_line_wins_over_the_axes_of_an_experiment(table):
    own = table('{recipe: "dense,ste", sparsity: "1:8,1:16"}')
    given = prepare_overrides([*own, "sparsity=1:4", "seed=0,1"], sweep=True)
    assert varied_settings(with_axes(given)) == ["recipe=dense,ste", "seed=0,1"]
    assert [compose_values(one)["sparsity"] for one in sweep_combinations(with_axes(given))] == ["1:4"] * 4


def test_hydra_s_own_sweeper_is_told_of_no_axes_twice(table):
    assert with_axes(table('{seed: "0,1"}'))[-1] == "hydra.sweeper.params=null"
    for without in (table("null", "none"), ["experiment=smoke"], ["seed=0,1"]):
        assert with_axes(without) == without


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ("{recipe: 'dense,nope'}", "recipe=nope: there is no such recipe. Available: "),
        ("{sparsity: '1:8,,'}", "sparsity=1:8,,: the value cannot be read"),
        ("{seed: [0, 1]}", "hydra.sweeper.params.seed=[0,1]: is no axis; write the values as on a command"),
        ("[seed]", "Cannot merge DictConfig with ListConfig"),
    ],
)
def test_axes_that_cannot_be_swept_are_refused(table, params, line):
    with pytest.raises(ConfigError) as refused:
        with_axes(table(params))
    (found,) = refused.value.faults
    assert line in found


def test_a_single_run_of_an_experiment_with_axes_must_say_them_all(table):
    own = table('{recipe: "dense,ste", sparsity: "1:8,1:16"}')
    with pytest.raises(ConfigError) as refused:
        require_no_axes([*own, "recipe=ste"])
    assert refused.value.faults == ["experiment=table: is a sweep over sparsity; add -m"]
    require_no_axes([*own, "recipe=ste", "++sparsity=1:8"])


def test_an_experiment_with_axes_is_not_one_of_several(table):
    own = [*table('{seed: "0,1"}')[:1], "experiment=table,smoke"]
    with pytest.raises(ConfigError) as refused:
        with_axes(own)
    assert refused.value.faults == ["experiment=table: is a sweep by itself; give it alone"]
    assert with_axes(["experiment=smoke,study/g2p"]) == ["experiment=smoke,study/g2p"]
