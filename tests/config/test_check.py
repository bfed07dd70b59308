"""The checks that need neither a model nor data: what is refused, and in which words."""

import pickle

import pytest

from nmtrain.config.check import ConfigError, check_config
from nmtrain.data import data_names
from nmtrain.recipes import list_recipes
from tests.config.conftest import put

OPTIMIZER_KEYS = {
    "adamw": [
        "betas",
        "clip_norm",
        "cooldown_fraction",
        "eps",
        "final_lr",
        "layer_decay",
        "lr",
        "lr_batch",
        "name",
        "schedule",
        "warmup_fraction",
        "weight_decay",
    ],
    "sgd": [
        "clip_norm",
        "cooldown_fraction",
        "final_lr",
        "layer_decay",
        "lr",
        "lr_batch",
        "momentum",
        "name",
        "nesterov",
        "schedule",
        "warmup_fraction",
        "weight_decay",
    ],
}


def faults(values):
    with pytest.raises(ConfigError) as refused:
        check_config(values)
    assert str(refused.value) == "\n".join(refused.value.faults)
    return refused.value.faults


# What is refused


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("32:1", "sparsity: 32:1: N = 32 exceeds M = 1; N:M keeps N of every M weights"),
        ("0:4", "sparsity: 0:4: N and M must be at least 1"),
        ("a:b", """sparsity: 'a:b' is not of the form "N:M" with whole numbers, for example "1:32\""""),
        (124, """sparsity: 124 is what YAML reads from an unquoted 2:4; write "2:4\""""),
        (92, """sparsity: 92 is what YAML reads from an unquoted 1:32; write "1:32\""""),
        (None, """sparsity: None is not a pattern; write it as a string "N:M", for example "1:32\""""),
        (True, """sparsity: True is not a pattern; write it as a string "N:M", for example "1:32\""""),
        (["1:32"], """sparsity: ['1:32'] is not a pattern; write it as a string "N:M", for example "1:32\""""),
    ],
)
def test_a_sparsity_that_is_no_pattern_is_refused_in_one_line(shipped, pattern, line):
    assert faults(put(shipped(), sparsity=pattern)) == [line]


def test_each_role_s_pattern_is_refused_by_its_own_key(shipped):
    values = put(shipped(), mask__roles=["ff", "q", "k", "v"], mask__patterns={"q": 124, "k": "9:8", "v": "1:4"})
    assert faults(values) == [
        'mask.patterns.q: 124 is what YAML reads from an unquoted 2:4; write "2:4"',
        "mask.patterns.k: 9:8: N = 9 exceeds M = 8; N:M keeps N of every M weights",
    ]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", -1, "seed=-1: should be greater than or equal to 0"),
        ("seed", 1.5, "seed=1.5: should be a whole number"),
        ("seed", True, "seed=true: should be a whole number"),
        ("seed", None, "seed=null: should be a whole number"),
        ("seed", 2**32, "seed=4294967296: should be less than 4294967296"),
        ("force", 1, "force=1: should be true or false"),
        ("results_dir", None, "results_dir=null: should be a string"),
        ("results_dir", "", "results_dir=: String should have at least 1 character"),
        ("train__epochs", "abc", "train.epochs=abc: should be a number"),
        ("train__epochs", 0, "train.epochs=0: should be greater than 0"),
        ("train__epochs", float("inf"), "train.epochs=inf: should be a finite number"),
        ("train__epochs", float("nan"), "train.epochs=nan: should be a finite number"),
        ("train__epochs", 1e300, "train.epochs=1e+300: should be less than or equal to 1000000"),
        ("train__updates", 10**12, "train.updates=1000000000000: should be less than or equal to 1000000000"),
        ("optim__lr", float("inf"), "optim.lr=inf: should be a finite number"),
        ("train__updates", 0, "train.updates=0: should be greater than or equal to 1"),
        (
            "train__compile",
            "maybe",
            "train.compile=maybe: should be true, false, default, reduce-overhead or max-autotune",
        ),
        ("train__compile", 1, "train.compile=1: should be true, false, default, reduce-overhead or max-autotune"),
        ("train__precision", "float16", "train.precision=float16: should be 'fp32', 'bf16' or 'fp16'"),
        ("optim__layer_decay", 0.0, "optim.layer_decay=0.0: should be greater than 0"),
        ("optim__layer_decay", 1.5, "optim.layer_decay=1.5: should be less than or equal to 1"),
        ("optim__lr_batch", 0, "optim.lr_batch=0: should be greater than or equal to 1"),
        ("train__device", "gpu", "train.device=gpu: should be 'auto', 'cpu' or 'cuda'"),
        ("train__micro_batches", 3, "train.micro_batches=3: does not divide train.batch_size 64"),
        ("train__batch_size", 60001, "train.batch_size=60001: exceeds the 60000 training samples"),
        ("optim__betas", [0.9], "optim.betas=[0.9]: List should have at least 2 items after validation, not 1"),
        ("optim__betas", [0.9, 1.0], "optim.betas.1=1.0: should be less than 1"),
        ("optim__betas", 0.9, "optim.betas=0.9: should be a list, such as [a,b]"),
        ("optim__final_lr", 1.0, "optim.final_lr=1.0: exceeds optim.lr 0.001"),
        ("optim__clip_norm", 0, "optim.clip_norm=0: should be greater than 0"),
        ("optim__name", "adam", "optim.name=adam: there is no such optim. Available: ['adamw', 'sgd', 'adafactor']"),
        ("optim__name", None, "optim.name=null: there is no such optim. Available: ['adamw', 'sgd', 'adafactor']"),
        ("mask__axis", "up", "mask.axis=up: should be 'input' or 'output'"),
        ("mask__indivisible", "maybe", "mask.indivisible=maybe: should be 'error' or 'skip'"),
        ("mask__roles", "ff", "mask.roles=ff: should be a list, such as [a,b]"),
        ("mask__roles", ["ff", "q", "ff"], "mask.roles=[ff,q,ff]: names ff more than once"),
        (
            "mask__roles",
            [],
            "mask.roles=[]: nothing would be sparse; name roles or mask.names (or use recipe=dense)",
        ),
        ("mask__patterns", {"q": "1:4"}, "mask.patterns.q=1:4: has no effect, since mask.roles is [ff]"),
        ("mask__patterns", ["1:4"], "mask.patterns=[1:4]: should be a section of keys and values"),
        ("model__options", None, "model.options=null: should be a section of keys and values"),
        ("model__name", None, "model.name=null: should be a string"),
    ],
)
def test_a_value_out_of_range_or_of_the_wrong_type_is_refused_with_key_value_and_what_is_allowed(
    shipped, key, value, line
):
    assert faults(put(shipped(), **{key: value})) == [line]


@pytest.mark.parametrize("section", ["model", "data", "mask", "recipe", "optim", "train", "measure", "tracking"])
@pytest.mark.parametrize("content", [None, False, "text", []])
def test_a_section_that_is_empty_or_no_section_is_refused(shipped, section, content):
    (line,) = faults(put(shipped(), **{section: content}))
    assert line.startswith(f"{section}=")
    assert line.endswith(": should be a section of keys and values")


def test_a_missing_section_and_a_missing_key_are_named(shipped):
    values = shipped()
    del values["train"]["epochs"], values["mask"]
    assert faults(values) == ["mask: is missing", "train.epochs: is missing"]


@pytest.mark.parametrize(
    ("section", "known"),
    [
        ("data", str(data_names())),
        ("recipe", str(list_recipes())),
    ],
)
def test_a_section_without_a_usable_name_lists_the_names_there_are(shipped, section, known):
    values = shipped()
    for given in (["a"], 3, None):
        values[section]["name"] = given
        (line,) = faults(values)
        assert line.startswith(f"{section}.name=")
        assert line.endswith(f"there is no such {section}. Available: {known}")
    del values[section]["name"]
    assert faults(values) == [f"{section}.name: is missing. Available: {known}"]


def test_unknown_keys_are_listed_with_the_known_ones_and_a_near_one(shipped):
    values = put(shipped(), trian={"epochs": 3, "more": {"x": None}}, train__epoch=3)
    top = sorted(shipped())
    train = sorted(shipped()["train"])
    assert faults(values) == [
        f"train.epoch=3: there is no such key. Available: {train}; did you mean epochs?",
        f"trian.epochs=3: there is no such key. Available: {top}; did you mean train?",
        f"trian.more.x=null: there is no such key. Available: {top}; did you mean train?",
    ]


@pytest.mark.parametrize(
    ("optim", "foreign"), [("adamw", {"momentum": 0.9}), ("sgd", {"betas": [0.9, 0.99]}), ("sgd", {"eps": 1e-8})]
)
def test_an_option_of_the_other_optimizer_is_refused(shipped, optim, foreign):
    values = shipped(f"optim={optim}")
    values["optim"] |= foreign
    ((key, _),) = foreign.items()
    (line,) = faults(values)
    assert line.startswith(f"optim.{key}=")
    assert f"there is no such key. Available: {OPTIMIZER_KEYS[optim]}" in line


@pytest.mark.parametrize(
    ("recipe", "option", "line"),
    [
        (
            "sr_ste",
            {"decay": "linear"},
            "recipe.decay=linear: sr_ste has no such option."
            " Available: ['penalty', 'dense_fraction', 'finetune_fraction', 'freeze_mask']",
        ),
        (
            "mdgf",
            {"finetune_fraction": 0.6, "dense_fraction": 0.6},
            "recipe.finetune_fraction=0.6: 0.6 + dense_fraction 0.6 exceeds 1, the whole training",
        ),
        ("sdgf", {"k": 8}, "recipe.k=8: 8 has no effect with structure stepwise; only geometric reads it"),
        ("sdgf", {"beta": 0.1}, "recipe.beta=0.1: 0.1 has no effect without decay"),
        ("ste", {"target": "1:4"}, "recipe.target=1:4: there is no such key; the target is sparsity"),
        ("mdgf", {"gradient": ["a"]}, "recipe.gradient=[a]: ['a'] is unknown"),
    ],
)
def test_recipe_options_that_are_unknown_out_of_range_or_without_effect_are_refused(shipped, recipe, option, line):
    values = shipped(f"recipe={recipe}")
    values["recipe"] |= option
    (found,) = faults(values)
    assert found.startswith(line)


def test_momentum_that_nesterov_needs_is_asked_for(shipped):
    assert faults(put(shipped("optim=sgd"), optim__momentum=0.0)) == [
        "optim.nesterov=true: has no effect without optim.momentum"
    ]


def test_a_cooldown_needs_wsd_and_room(shipped):
    assert faults(put(shipped(), optim__cooldown_fraction=0.3)) == [
        "optim.cooldown_fraction=0.3: has no effect with optim.schedule=cosine"
    ]
    assert faults(put(shipped(), optim__schedule="wsd", optim__cooldown_fraction=0.95)) == [
        "optim.cooldown_fraction=0.95: overlaps the warm-up; allowed: at most 0.9, what"
        " optim.warmup_fraction=0.1 leaves"
    ]
    check_config(put(shipped(), optim__schedule="wsd", optim__cooldown_fraction=0.9))


@pytest.mark.parametrize(
    ("patterns", "fault"),
    [
        (["1:8", " 1:8"], "measure.patterns=[1:8, 1:8]: names 1:8 more than once"),
        ([], "measure.patterns=[]: names no pattern; null measures by the mask of sparsity"),
        ("1:8", "measure.patterns=1:8: should be a list, such as [a,b]"),
        ([124], 'measure.patterns.0: 124 is what YAML reads from an unquoted 2:4; write "2:4"'),
        (["8:1"], "measure.patterns.0: 8:1: N = 8 exceeds M = 1; N:M keeps N of every M weights"),
    ],
)
def test_patterns_to_measure_are_distinct_patterns(shipped, patterns, fault):
    assert faults(put(shipped(), measure__patterns=patterns)) == [fault]


def test_patterns_to_measure_have_no_effect_where_nothing_is_measured(shipped):
    assert faults(put(shipped(), measure__patterns=["1:8"], measure__every=None)) == [
        "measure.patterns=[1:8]: has no effect with measure.every=null"
    ]


def test_patterns_to_measure_change_nothing_about_a_result(make_config):
    assert make_config("recipe=dense", "measure.patterns=[1:4,1:8]").run_name == make_config("recipe=dense").run_name
    assert list(map(str, make_config("recipe=dense", "measure.patterns=[1:4,2:8]").measured_patterns)) == ["1:4", "2:8"]
    assert list(map(str, make_config("recipe=ste", "measure.patterns=[1:4,2:8]").measured_patterns)) == ["1:8"]


def test_how_long_to_train_is_said_once_and_by_what_is_known_before(shipped):
    assert faults(put(shipped(), train__flops=0.0)) == ["train.flops=0.0: should be greater than 0"]
    assert faults(put(shipped(), train__flops="much")) == ["train.flops=much: should be a number"]
    assert faults(put(shipped(), train__flops=1.2e12, train__updates=900)) == [
        "train.updates=900: train.flops=1.2e+12 says too how long to train; leave one null"
    ]
    auto = put(shipped("recipe=step"), train__flops=1.2e12, recipe__dense_fraction="auto")
    assert faults(auto) == [
        "train.flops=1.2e+12: has to know what an update costs, which recipe.dense_fraction=auto leaves to training;"
        " allowed: a fraction"
    ]
    budget = check_config(put(shipped("recipe=step"), train__flops=1.2e12))
    with pytest.raises(ValueError, match="what updates cost takes a plan to know"):
        _ = budget.total_updates
    assert budget.lasting(7).total_updates == 7
    assert budget.lasting(7).run_name == budget.run_name


def test_all_faults_of_one_config_are_listed_together(shipped):
    values = put(
        shipped(),
        sparsity="1:32",
        seed=-1,
        trian={"epochs": 3},
        train__micro_batches=5,
        optim__final_lr=3.0,
        mask__patterns={"q": "1:4"},
        data__classes=1,
        recipe__decay="cubic",
    )
    found = faults(values)
    assert [line.split(":")[0].split("=")[0] for line in found] == [
        "seed",
        "trian.epochs",
        "data.classes",
        "recipe.decay",
        "mask.patterns.q",
        "train.micro_batches",
        "optim.final_lr",
    ]


def test_a_faulty_sparsity_hides_no_other_fault_and_invents_none(shipped):
    custom = {"recipe__structure": "custom", "recipe__patterns": ["4:8", "1:16"]}
    assert faults(put(shipped(), sparsity="9:8", optim__final_lr=3.0, **custom)) == [
        "sparsity: 9:8: N = 9 exceeds M = 8; N:M keeps N of every M weights",
        "optim.final_lr=3.0: exceeds optim.lr 0.001",
    ]


def test_a_config_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(ConfigError(["seed=-1: no", "force=1: no"])))
    assert error.faults == ["seed=-1: no", "force=1: no"]
    assert str(error) == "seed=-1: no\nforce=1: no"
