"""Schedules and decay factors against figures from executing the published code."""

import json
from pathlib import Path

import pytest

from nmtrain.recipes import build_recipe

REFERENCE = json.loads((Path(__file__).parents[1] / "golden" / "reference_vectors.json").read_text())
DECAYED = [case for case in REFERENCE["cases"] if case["kind"].startswith("mdgf")]
OPTIONS = {"sdgf_stepwise": {"structure": "stepwise"}, "sdgf_geometric_k8": {"structure": "geometric", "k": 8}}


def test_the_reference_file_is_whole():
    assert (len(REFERENCE["schedules"]), len(DECAYED)) == (14, 50)


@pytest.mark.parametrize("case", REFERENCE["schedules"], ids=lambda case: f"{case['kind']}-{case['n']}:{case['m']}")
def test_phases_begin_where_the_published_code_began_them(case):
    total = case["total"]
    recipe = build_recipe(
        "sdgf",
        f"{case['n']}:{case['m']}",
        dense_fraction=case["dense"] / total,
        finetune_fraction=case["fine_tune"] / total,
        **OPTIONS[case["kind"]],
    )
    dense, *phases = recipe.phases(total)
    assert (dense[0], dense[1].pattern) == (0, None)
    assert [[start, str(state.pattern)] for start, state in phases] == case["phases"]
    assert {(state.decay, state.gradient, state.penalty) for _, state in phases} == {(0.0, "straight_through", 0.0)}


@pytest.mark.parametrize("case", DECAYED, ids=lambda case: f"{case['kind']}-{case['n']}:{case['m']}-{case['step']}")
def test_decay_factors_are_those_that_the_published_code_applied(case):
    recipe = build_recipe(
        "mdgf",
        f"{case['n']}:{case['m']}",
        decay=case["kind"].removeprefix("mdgf_"),
        beta=case["coef"],
        gradient=case["gradient"],
        finetune_fraction=0.0,
    )
    state = recipe.at(case["step"], total=1000)
    assert str(state.pattern) == f"{case['n']}:{case['m']}"
    assert state.gradient == "straight_through"
    # output = weight * D at pruned entries: read D off all of them
    pruned = [
        (weight, output)
        for weight, output in zip(case["weight"], case["output"], strict=True)
        if abs(weight - output) > 1e-9 and abs(weight) > 0.1
    ]
    assert pruned
    assert all(abs(weight * state.decay - output) < 1e-5 for weight, output in pruned)
