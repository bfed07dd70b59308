from __future__ import annotations

from nmtrain import config as config_module
from nmtrain.report.grouping import NOT_RESULT, column_labels, keys_of, pattern_order, setting_of

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


def keys(is_dense: bool = False, headline: str = "accuracy", **changes):
    return keys_of(setting_of(CONFIG | changes, headline), is_dense)


def test_what_run_names_leave_out_splits_no_group():
    assert {".".join(path) for path in config_module._NOT_RESULT} <= set(NOT_RESULT)


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


def test_anything_else_splits_families():
    assert keys(train=CONFIG["train"] | {"batch_size": 32}).family != keys().family
    assert keys(mask={"roles": ["ff"], "patterns": {"q": "1:4"}}).family != keys().family
    assert keys(headline="loss").family != keys().family


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
    assert column_labels(recipes) == [
        "SDGF stepwise (finetune_fraction=0.1)",
        "SDGF stepwise (finetune_fraction=0.2)",
        "STE",
    ]
