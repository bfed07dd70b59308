from __future__ import annotations

import math

import pytest

from nmtrain.report.advice import advice


@pytest.fixture
def advise(run, sections):
    """Advice for one pattern, from {recipe: accuracies by seed}."""

    def build(results):
        for recipe, accuracies in results.items():
            for seed, accuracy in enumerate(accuracies):
                run(recipe, "1:8", seed, accuracy)
        (group,) = sections()[0].groups
        (sentence,) = advice(group)
        return sentence.text.removeprefix("1:8 (density 12.5 %): ")

    return build


LOW, HIGH, HIGHER = [0.70, 0.702, 0.704], [0.80, 0.802, 0.804], [0.801, 0.803, 0.805]


def test_a_winner_is_named_where_the_intervals_separate(advise):
    assert advise({"sr_ste": LOW, "sdgf": HIGH}) == (
        "SDGF stepwise with 80.20 ± 0.50 % (n = 3) is best; next is SR-STE with 70.20 ± 0.50 % (n = 3)."
    )


def test_no_difference_is_said_where_they_do_not(advise):
    assert advise({"sdgf": HIGH, "mdgf": HIGHER}) == (
        "no difference shown (n = 3). Highest mean: MDGF exponential with 80.30 ± 0.50 % (n = 3)."
    )


def test_some_separate_and_some_do_not(advise):
    assert advise({"sr_ste": LOW, "sdgf": HIGH, "mdgf": HIGHER}) == (
        "no difference shown between MDGF exponential and SDGF stepwise (n = 3). Highest mean: "
        "MDGF exponential with 80.30 ± 0.50 % (n = 3); it is above SR-STE."
    )


def test_single_seeds_show_nothing(advise):
    assert advise({"sr_ste": [0.5], "sdgf": [0.9]}).startswith("no difference shown (n = 1).")


def test_dense_is_compared_both_ways(advise):
    assert advise({"sr_ste": LOW, "sdgf": HIGH, "dense": [0.9, 0.902, 0.904]}).endswith(
        "SDGF stepwise is 10.00 points below dense with 90.20 ± 0.50 % (n = 3)."
    )


def test_dense_within_the_interval(advise):
    assert advise({"sr_ste": LOW, "sdgf": HIGH, "dense": HIGHER}).endswith("No difference to dense shown (n = 3).")


def test_a_lone_recipe_is_compared_with_nothing(advise):
    assert advise({"sdgf": HIGH}) == "only SDGF stepwise was trained (n = 3); there is nothing to compare it with."


def test_a_recipe_with_a_nan_is_named_and_left_out(advise):
    assert advise({"sr_ste": LOW, "mdgf": HIGH, "sdgf": [0.9, math.nan]}).endswith(
        "Left out, with a NaN: SDGF stepwise."
    )
