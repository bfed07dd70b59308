from __future__ import annotations

import math

import pytest

from nmtrain.report.compare.advice import advice


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


# By seed; HIGHER is 0.1 ± 0.5 points above HIGH (p = 0.48), and 10 above LOW.
LOW, HIGH, HIGHER = [0.70, 0.702, 0.704], [0.80, 0.802, 0.804], [0.803, 0.801, 0.805]


def test_a_winner_is_named_where_the_test_shows_it(advise):
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


def test_no_difference_to_dense_is_said_where_none_is_shown(advise):
    assert advise({"sr_ste": LOW, "sdgf": HIGH, "dense": HIGHER}).endswith("No difference to dense shown (n = 3).")


def test_a_lone_recipe_is_compared_with_nothing(advise):
    assert advise({"sdgf": HIGH}) == "only SDGF stepwise was trained (n = 3); there is nothing to compare it with."


def test_a_recipe_with_a_nan_is_named_and_left_out(advise):
    assert advise({"sr_ste": LOW, "mdgf": HIGH, "sdgf": [0.9, math.nan]}).endswith(
        "Left out: SDGF stepwise (1 of 2 seeds NaN)."
    )


def test_where_all_others_lost_a_seed_there_is_nothing_to_compare_with(advise):
    assert advise({"mdgf": HIGH, "sdgf": [0.9, math.nan]}) == (
        "only MDGF exponential lost no seed (n = 3); there is nothing to compare it with. "
        "Left out: SDGF stepwise (1 of 2 seeds NaN)."
    )


def test_pairs_show_what_the_intervals_of_two_means_do_not(advise):
    """Seeds differ by 10 points, and SDGF is 2, 2.2 and 1.8 points above SR-STE on each: p = 0.003."""
    assert advise({"sr_ste": [0.60, 0.70, 0.80], "sdgf": [0.62, 0.722, 0.818]}).startswith("SDGF stepwise with 72.00")


def test_recipes_that_are_level_with_the_best_are_not_said_to_be_level_with_each_other(advise):
    """MDGF is above SR-STE on every seed (p = 0.003); SDGF is not shown to differ from either (p = 0.47 and 0.23)."""
    said = advise({"sr_ste": [0.700, 0.702, 0.704], "mdgf": [0.710, 0.713, 0.713], "sdgf": [0.74, 0.70, 0.73]})
    assert said.startswith("no difference shown between SDGF stepwise and each of SR-STE and MDGF exponential (n = 3).")
