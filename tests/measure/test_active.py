"""The average share of active parameters, each number by hand: one tensor of 64 entries among 100 parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nmtrain.measure import active_share
from nmtrain.recipes import build_recipe, list_recipes
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityRule, sparsify_model
from nmtrain.sparsity.apply import sparsity_control


def tensor(name, shape, pattern):
    return SparseTensor(name, "", shape, "input", NMPattern.parse(pattern))


WIDE = tensor("wide", (1, 64), "1:8")  # at its target 8 entries are left, so 44 of the 100 parameters


def used(recipe, total=10, tensors=(WIDE,), **options):
    """Parameters used in a forward, summed over the updates."""
    recipes = {t.pattern: build_recipe(recipe, t.pattern, **options) for t in tensors}
    return pytest.approx(100 * total * active_share(tensors, recipes, total, 100))


def test_dense_training_uses_every_parameter():
    assert used("dense") == 10 * 100
    assert active_share([], {}, 10, 100) == 1.0


@pytest.mark.parametrize("recipe", ["static", "ste", "sr_ste", "s_ste", "top_kast", "rigl"])
def test_strict_recipes_use_the_pattern_of_the_forward_from_the_start(recipe):
    # Whatever gets a gradient: neither Top-KAST's wider backward nor RigL's exchanges are seen by the forward.
    assert used(recipe, total=300) == 300 * 44


def test_a_decaying_mask_uses_all_until_it_is_strict():
    assert used("mdgf") == 9 * 100 + 44  # exponential never reaches 0; one update of fine-tuning
    assert used("mdgf", finetune_fraction=0.0) == 10 * 100
    assert used("mdgf", decay="linear", beta=0.25) == 4 * 100 + 6 * 44  # D = 1, 0.75, 0.5, 0.25, 0, ...
    # A tightening recipe is no equal of it: the pattern beneath the decay changes nothing, gmp's own does.
    assert used("mdgf", tighten=True, finetune_fraction=0.5) == 5 * 100 + 5 * 44
    assert used("mdgf", finetune_fraction=0.5) == 5 * 100 + 5 * 44


@pytest.mark.parametrize("recipe", ["gmp", "feather"])
def test_tightening_uses_each_pattern_on_the_way(recipe):
    # 1 + 7 (1 - j / 5)^3 of 8 for j = 0, ..., 4: 8, 4.58, 2.51, 1.45, 1.06; then half of training at the target.
    kept = 8 * (8 + 5 + 3 + 1 + 1)
    assert used(recipe) == 10 * 36 + kept + 5 * 8


def test_structure_decay_uses_the_pattern_of_each_phase():
    # 7:8, 4:8, 2:8, 1:8 share 9 updates as 2, 2, 2, 3; one more is fine-tuning at 1:8.
    assert used("sdgf") == 10 * 36 + 2 * 56 + 2 * 32 + 2 * 16 + 4 * 8
    assert used("sdgf", structure="geometric") == 10 * 44  # the density never changes
    assert used("sdgf", decay="linear") == 9 * 100 + 44  # in each phase D > 0 up to its end


def test_a_dense_start_and_dense_stretches_use_all():
    assert used("asp") == 5 * 100 + 5 * 44
    assert used("step", dense_fraction=0.3) == 3 * 100 + 7 * 44
    # Sparse, dense, sparse, dense of 2 updates each between one dense update and one at the target.
    assert used("ac_dc", rounds=2, finetune_fraction=0.1) == 5 * 100 + 5 * 44


def test_groups_that_are_kept_whole_are_used_whole():
    # 8 groups in [0, 4): (1 - j / 4)^3 of them is 8, 3.4, 1, 0.1 whole groups; the others keep one entry.
    whole = 8 + 3 + 1 + 0
    assert used("maxq", total=8, finetune_fraction=0.5) == 8 * 44 + whole * 7


def test_each_tensor_counts_by_its_own_pattern_and_what_its_axis_carries():
    narrow = tensor("narrow", (5, 4), "1:4")
    assert used("ste", tensors=(WIDE, narrow)) == 10 * (16 + 8 + 5)
    # wide: 1:64, 1:32, 1:16, 1:8; the axis of 4 carries only 1:4.
    kept = (1 + 5) + (2 + 5) + (4 + 5) + (8 + 5)
    assert used("sdgf", 4, (WIDE, narrow), structure="densify", finetune_fraction=0.0) == 4 * 16 + kept


def test_the_average_is_over_updates():
    """So that 0.44 of the parameters for most of a long training show."""
    total = 100_000
    assert used("mdgf", total, decay="linear", beta=1.0) == 100 + (total - 1) * 44


@pytest.mark.parametrize("name", list_recipes())
def test_it_is_what_one_would_count_in_the_weights_that_each_forward_reads(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    recipe, total = build_recipe(name, "1:8"), 13
    tensors = sparsify_model(model, [SparsityRule("0.weight", recipe.target)])
    nonzero = 0
    for update in range(total):
        sparsity_control(model).update({recipe.target: recipe.at(update, total)})
        nn.init.normal_(model[0].parametrizations.weight.original)  # as after an update, of what was cleared too
        read = (model[0].weight, model[0].bias, model[1].weight, model[1].bias)
        nonzero += sum(int(weight.count_nonzero()) for weight in read)
    parameters = 16 * 8 + 8 + 8 * 4 + 4
    assert active_share(tensors, {recipe.target: recipe}, total, parameters) == nonzero / (total * parameters)
