from __future__ import annotations

import copy

import pytest

from nmtrain.config import naming
from nmtrain.config.check import check_config
from nmtrain.config.choices import groups
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.recipes import RECIPES, build_recipe
from nmtrain.report.read.flat import describe, without
from nmtrain.report.read.grouping import (
    DEFAULT_GRADIENT,
    NOT_RESULT,
    VARIANTS,
    column_labels,
    keys_of,
    pattern_order,
    setting_of,
    unusual,
    variant_label,
)

CONFIG = {
    "model": {"name": "vit", "roles": ["ff"]},
    "data": {"name": "glyphs", "cache_dir": "/a"},
    "mask": {"roles": ["ff"], "patterns": {}},
    "recipe": {"name": "sdgf"},
    "train": {"epochs": 3.0, "updates": None, "batch_size": 64, "log_every": 20},
    "sparsity": "1:4",
    "seed": 0,
    "results_dir": "here",
}


def keys(is_dense: bool = False, **changes):
    return keys_of(setting_of(CONFIG | changes), is_dense)


def test_what_run_names_leave_out_splits_no_group():
    assert not without({".".join(path): None for path in naming.NOT_RESULT}, NOT_RESULT)


def test_seed_recipe_pattern_and_neutral_keys_do_not_split_a_group():
    other = keys(
        seed=1, recipe={"name": "ste"}, sparsity="1:8", results_dir="there", data={"name": "glyphs", "cache_dir": "/b"}
    )
    assert other == keys()


def test_3_and_3_point_0_are_one_number():
    assert keys(train=CONFIG["train"] | {"epochs": 3}) == keys()


def test_length_splits_groups_but_not_families():
    longer = keys(train=CONFIG["train"] | {"epochs": 6.0})
    assert longer.group != keys().group
    assert longer.family == keys().family


def test_runs_of_one_budget_are_one_group_whatever_their_epochs_and_updates():
    def budget(flops, **more):
        return keys(train=CONFIG["train"] | {"flops": flops} | more)

    assert keys(train=CONFIG["train"] | {"flops": None}) == keys()
    assert budget(1.2e12) == budget(1200000000000, epochs=5.0)
    assert budget(1.2e12).group != keys().group
    assert budget(1.2e12).group != budget(1.3e12).group
    assert budget(1.2e12).family == keys().family
    assert describe({"train.flops": 1200000000000, "n": 1234567891}, ["train.flops", "n"]) == (
        "train.flops=1.2e+12, n=1234567891"
    )


def test_a_run_that_starts_from_another_is_of_another_group_wherever_that_lies():
    assert keys(init_from=None) == keys()
    started = keys(init_from="/a/dense-s0-1234")
    assert started == keys(init_from="/elsewhere/dense-s0-1234")
    assert started.group != keys().group
    assert started.dense_family != keys().dense_family
    assert keys(init_from="/a/dense-s1-5678").group != started.group
    setting = setting_of(CONFIG | {"init_from": "/a/dense-s0-1234"})
    assert "init_from" in unusual(setting, is_dense=False)
    assert describe(setting, ["init_from"]) == "init_from=dense-s0-1234"


def test_an_image_model_s_weights_to_start_from_split_groups_and_null_is_what_runs_had_before():
    def model(**more):
        return keys(model={"name": "vit", "kind": "image_classifier", "roles": ["ff"], **more})

    assert model() == model(pretrained=None)
    assert model(pretrained="a.pth").group != model().group


def test_anything_else_splits_families():
    assert keys(train=CONFIG["train"] | {"batch_size": 32}).family != keys().family
    assert keys(mask={"roles": ["ff"], "patterns": {"q": "1:4"}}).family != keys().family


def test_dense_runs_belong_beside_every_mask():
    masked = keys(mask={"roles": ["ff", "q"], "patterns": {}})
    assert keys(is_dense=True).group == keys().dense_group == masked.dense_group
    assert keys(is_dense=True).group != keys(is_dense=True, train=CONFIG["train"] | {"epochs": 6.0}).group


def test_patterns_come_densest_first():
    assert sorted(["1:32", "2:4", "1:4", "2:8", "1:2", "3:4"], key=pattern_order) == [
        "3:4",
        "1:2",
        "2:4",
        "1:4",
        "2:8",
        "1:32",
    ]


def test_a_gradient_rule_that_is_not_the_default_is_its_own_column():
    recipes = [
        ("mdgf", "mdgf_linear", "masked", {}),
        ("mdgf", "mdgf_linear", "straight_through", {}),
        ("sdgf", "sdgf_stepwise", "straight_through", {}),
        ("dense", "dense", "straight_through", {}),
        ("novel", "novel_thing", "masked", {}),
        ("sdgf", "sdgf_stepwise_linear", "straight_through", {}),
    ]
    assert column_labels(recipes) == [
        "MDGF linear",
        "MDGF linear, straight-through gradient",
        "SDGF stepwise",
        "dense",
        "novel_thing, masked gradient",
        "SDGF stepwise + linear decay",
    ]


def test_options_are_named_where_they_differ():
    recipes = [
        ("sdgf", "sdgf_stepwise", "straight_through", {"finetune_fraction": 0.1, "k": None}),
        ("sdgf", "sdgf_stepwise", "straight_through", {"finetune_fraction": 0.2, "k": None}),
        ("ste", "ste", "straight_through", {"finetune_fraction": 0.3}),
    ]
    assert column_labels(recipes, {"ste": {"finetune_fraction": 0.3}}) == [
        "SDGF stepwise (finetune_fraction=0.1)",
        "SDGF stepwise (finetune_fraction=0.2)",
        "STE",
    ]


def test_options_are_named_where_they_are_not_as_shipped():
    default = {"sr_ste": {"penalty": 2e-4, "freeze_mask": False}, "sdgf": {"structure": "stepwise", "k": None}}
    recipes = [
        ("sr_ste", "sr_ste", "straight_through", {"penalty": 0.05, "freeze_mask": False}),
        ("sdgf", "sdgf_geometric", "straight_through", {"structure": "geometric", "k": None}),
    ]
    assert column_labels(recipes, default) == ["SR-STE (penalty=0.05)", "SDGF geometric"]


def test_the_column_of_shipped_options_is_plain_beside_others_so_that_claims_by_recipe_mean_it():
    recipes = [
        ("mdgf", "mdgf_exponential", "masked", {"finetune_fraction": 0.1, "beta": None}),
        ("mdgf", "mdgf_exponential", "masked", {"finetune_fraction": 0.7, "beta": None}),
        ("mdgf", "mdgf_exponential", "masked", {"finetune_fraction": 0.7, "beta": 1e-3}),
    ]
    assert column_labels(recipes, {"mdgf": {"finetune_fraction": 0.1, "beta": None}}) == [
        "MDGF exponential",
        "MDGF exponential (finetune_fraction=0.7)",
        "MDGF exponential (beta=0.001, finetune_fraction=0.7)",
    ]


# What a user may write for the same run: each of these trains into the folder of the first.
WRITTEN = [
    "",
    "mask.roles=[q,ff]",
    "mask.patterns.q='1 : 4'",
    "sparsity='1 : 8'",
    "mask.stacks=[decoder,encoder]",
    "mask.names=[b,a]",
    "train.epochs=7",
    "optim.betas=[0.9,0.999]",
    "results_dir=elsewhere",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_configs_that_train_the_same_run_are_one_group(written):
    base = ["model=t5", "train.updates=12", "mask.roles=[ff,q]", "mask.patterns.q=1:4", "sparsity=1:8"]
    base += ["mask.names=[a,b]", "results_dir=here"]
    first = compose_values(prepare_overrides(base))
    other = compose_values(prepare_overrides([*base, *([written] if written else [])]))
    for is_dense in (False, True):
        named = [naming.result_values(values, is_dense) for values in (first, other)]
        assert named[0] == named[1]
        assert keys_of(setting_of(first), is_dense) == keys_of(setting_of(other), is_dense)


def test_what_an_older_config_does_not_say_has_its_default():
    config = compose_values(["data=digits"])
    older = copy.deepcopy(config)
    del older["train"]["label_smoothing"], older["mask"]["stacks"], older["optim"]["schedule"], older["model"]["kind"]
    assert keys_of(setting_of(older), False) == keys_of(setting_of(config), False)
    other = copy.deepcopy(config)
    other["train"]["label_smoothing"] = 0.2
    assert keys_of(setting_of(older), False) != keys_of(setting_of(other), False)


def test_shipped_settings_are_those_that_hydra_composes():
    """Read as plain YAML; for every model, with the data and the training that its file chooses."""
    for model in groups()["model"]:
        composed = compose_values([f"model={model}"])
        for values in (composed, check_config(composed).values):  # which config.yaml holds
            assert unusual(setting_of(values), False) == [], model


def test_classifiers_of_before_had_glue_in_the_form_of_t5():
    older, newer = compose_values(["model=bert", "data=glue"]), compose_values(["model=bert", "data=glue"])
    older["data"].pop("form", None)
    newer["data"]["form"] = "auto"
    assert setting_of(older)["data.form"] == "t5"
    assert keys_of(setting_of(older), False) != keys_of(setting_of(newer), False)
    assert setting_of(compose_values(["model=t5", "data=glue"])).get("data.form") != "t5"  # it reads no other


def test_a_setting_that_is_not_as_shipped_is_unusual():
    changed = compose_values(
        [
            *("mask.axis=output", "mask.names=[head.weight]", "train.precision=bf16", "train.batch_size=32"),
            *("optim.lr=0.01", "data.classes=100", "++model.options.depth=6", "train.epochs=2", "train.eval_every=0.5"),
            "model.name=vit_tiny_patch16_224",
        ]
    )
    sparse = unusual(setting_of(changed), False)
    assert sparse == [
        "data.classes",
        "mask.axis",
        "mask.names",
        "model.options.depth",
        "optim.lr",
        "train.batch_size",
        "train.precision",
    ]
    assert unusual(setting_of(changed), True) == [key for key in sparse if not key.startswith("mask")]


def test_what_a_model_says_of_its_images_is_not_unusual_and_still_sets_groups_apart():
    values = compose_values(["data=folder", "data.path=photos"])
    said = {"image_size": 32, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    values["data"] |= said | {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    setting = setting_of(values)
    assert unusual(setting, False) == ["data.image_size"]
    values["data"]["crop_pct"] = 0.8
    assert keys_of(setting_of(values), False) != keys_of(setting, False)


def test_teachers_of_one_folder_s_name_set_groups_apart():
    one, other, moved = (
        keys(train=CONFIG["train"] | {"teacher": teacher})
        for teacher in ("/runs/one/export", "/runs/other/export", "/moved/one/export")
    )
    assert len({one.group, other.group, moved.group}) == 3


def test_a_folder_is_shown_by_its_name():
    shown = describe(
        {"data.path": "/home/me/sst2/", "model.pretrained": "google-t5/t5-small"}, ["data.path", "model.pretrained"]
    )
    assert shown == "data.path=sst2, model.pretrained=google-t5/t5-small"


@pytest.mark.parametrize(
    ("recipe", "title"),
    [
        *(("gmp", "GMP"), ("asp", "ASP"), ("step", "STEP"), ("s_ste", "S-STE"), ("feather", "Feather")),
        *(("rigl", "RigL"), ("top_kast", "Top-KAST"), ("ac_dc", "AC/DC"), ("maxq", "MaxQ"), ("static", "static")),
        *(("sr_ste", "SR-STE"), ("mdgf", "MDGF exponential"), ("sdgf", "SDGF stepwise"), ("dense", "dense")),
    ],
)
def test_a_recipe_as_shipped_has_its_plain_title(recipe, title):
    record = build_recipe(recipe, "1:4").record()
    assert column_labels([(recipe, record["variant"], record["gradient"], {})]) == [title]


def test_every_recipe_has_a_place_and_a_title():
    for recipe in RECIPES:
        assert build_recipe(recipe, "1:4").variant in VARIANTS
        assert recipe in DEFAULT_GRADIENT


def test_a_number_and_another_rule_are_named():
    recipes = [("gmp", "gmp", "0.5", {}), ("rigl", "rigl", "straight_through", {})]
    assert column_labels(recipes) == ["GMP, 0.5 gradient", "RigL, straight-through gradient"]


def test_a_recipe_of_another_s_that_is_named_like_ours_keeps_its_name():
    assert variant_label("gmp_linear") == "gmp_linear"
    assert variant_label("sdgf_stepwise_linear") == "SDGF stepwise + linear decay"
