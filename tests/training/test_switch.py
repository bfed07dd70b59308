"""AutoSwitch: when Adam's second moment counts as learnt, by hand, and that a run keeps to what it found."""

import json
import shutil

import pytest
import torch
from torch import nn

from nmtrain.recipes import step
from nmtrain.training.plan import make_plan
from nmtrain.training.run import run
from nmtrain.training.switch import AutoSwitch
from tests.training.test_resume import assert_same_run, killed_at

AUTO = ["recipe=step", "recipe.dense_fraction=auto"]


def whole(*weights):
    return [(weight, slice(None)) for weight in weights]


def adam(*weights, beta2=0.5, eps=1e-8):
    return torch.optim.AdamW(weights, lr=0.0, betas=(0.9, beta2), eps=eps)


def test_the_change_of_the_second_moment_by_hand():
    """Entries 3 and 4, then 1 and 0, at beta2 = 1/2: v goes from 0 to (9, 16) / 2, then to (11, 16) / 4."""
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = adam(one, other)
    switch = AutoSwitch(whole(one, other), optimizer, (1, 50), 100)
    for first, second in ((3.0, 4.0), (1.0, 0.0)):
        one.grad, other.grad = torch.tensor([first]), torch.tensor([second])
        switch.see_gradients()
        optimizer.step()
    moments = [optimizer.state[weight]["exp_avg_sq"].item() for weight in (one, other)]
    assert moments == [2.75, 4.0]
    changes = [(4.5 + 8) / 2, (1.75 + 4) / 2]
    assert switch.change == sum(changes) / 2


def test_entries_count_alike_whatever_tensor_they_are_in():
    one, three = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))
    switch = AutoSwitch(whole(one, three), adam(one, three), (1, 50), 100)
    one.grad, three.grad = torch.tensor([2.0]), torch.zeros(3)
    switch.see_gradients()
    assert switch.change == 0.5 * 4.0 / 4


def test_what_the_forward_skipped_does_not_change():
    weight = nn.Parameter(torch.zeros(1))
    switch = AutoSwitch(whole(weight), adam(weight), (1, 50), 100)
    for gradient in (None, torch.tensor([2.0])):
        weight.grad = gradient
        switch.see_gradients()
    assert switch.change == (0 + 0.5 * 4.0) / 2


def test_only_the_sparse_rows_of_a_fused_matrix_count():
    weight = nn.Parameter(torch.zeros(3, 2))
    optimizer = adam(weight)
    switch = AutoSwitch([(weight, slice(0, 1)), (weight, slice(2, 3))], optimizer, (1, 50), 100)
    weight.grad = torch.tensor([[1.0, 2.0], [70.0, 80.0], [3.0, 0.0]])
    for _ in range(2):
        switch.see_gradients()
        optimizer.step()
    # v of the four goes from 0 to half of 1, 4, 9 and 0, then by half of what is left.
    assert switch.change == (0.5 * 14 / 4 + 0.25 * 14 / 4) / 2


def test_the_window_is_as_long_as_adam_remembers():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = adam(weight, beta2=0.75)  # four updates
    switch = AutoSwitch(whole(weight), optimizer, (1, 50), 100)
    for gradient in (8.0, 2.0, 2.0, 2.0, 2.0):
        weight.grad = torch.tensor([gradient])
        switch.see_gradients()
        optimizer.step()
    v, changes = 0.0, []
    for gradient in (8.0, 2.0, 2.0, 2.0, 2.0):
        changes.append(abs(0.25 * (gradient**2 - v)))
        v = 0.75 * v + 0.25 * gradient**2
    assert switch.change == sum(changes[1:]) / 4


@pytest.mark.parametrize(
    ("eps", "total", "expected"),
    [
        (1.0, 100, 10),  # quiet from the start: not before the earliest
        (1e-30, 100, 50),  # never quiet: not after the latest
        (1.0, 1000, 100),
        (1.0, 1005, 100 + 2),  # asked every tenth update, counted back from the latest
    ],
)
def test_it_ends_within_its_bounds(eps, total, expected):
    weight = nn.Parameter(torch.zeros(1))
    optimizer = adam(weight, eps=eps)
    switch = AutoSwitch(whole(weight), optimizer, (round(0.1 * total), int(0.5 * total)), total)
    weight.grad = torch.tensor([0.1])
    for done in range(1, total + 1):
        switch.see_gradients()
        if switch.ends(done):
            break
    assert done == expected


def test_it_ends_when_the_mean_change_falls_beneath_eps():
    """g = 1 throughout: v_t = 1 - 2^-t, which changes by 2^-t; over the last two updates by 3/4 of 2^-(t - 1)."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = adam(weight, eps=3 / 4 * 2.0**-14)
    switch = AutoSwitch(whole(weight), optimizer, (10, 50), 100)
    weight.grad = torch.ones(1)
    for done in range(1, 51):
        switch.see_gradients()
        optimizer.step()
        if switch.ends(done):
            break
    assert done == 16  # at 15 it equals eps


def dense_updates(config):
    return config.recipe.bounds(config.total_updates)[0]


@pytest.mark.parametrize(("eps", "expected"), [("1.0", 2), ("1e-30", 10)])
def test_a_run_goes_on_from_the_switch_as_if_its_update_had_been_given(make_config, tmp_path, eps, expected):
    length = ["train.updates=20", f"optim.eps={eps}", "mask.roles=[ff,q]", "mask.patterns.q=1:4"]
    found = run(make_config(*AUTO, *length))
    assert found["switched_at"] == expected
    given = make_config("recipe=step", f"recipe.dense_fraction={expected / 20}", *length)
    assert dense_updates(given) == expected
    told = run(given)
    assert found["flops"] == told["flops"]
    assert found["active_share"] == told["active_share"]
    assert found["flops"]["phases"][1]["first_update"] == expected
    folders = [make_config(*AUTO, *length).run_folder, given.run_folder]
    assert_same_run(*folders)
    listed = [json.loads((folder / "sparse_tensors.json").read_text()) for folder in folders]
    assert listed[0] == listed[1]
    assert "switched_at" not in told


def test_what_was_seen_before_a_kill_counts_after_it():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = adam(weight)
    before, after = (AutoSwitch(whole(weight), optimizer, (1, 50), 100) for _ in range(2))
    weight.grad = torch.tensor([3.0])
    before.see_gradients()
    after.load_state_dict(before.state_dict())
    for switch in (before, after):
        weight.grad = torch.tensor([1.0])
        switch.see_gradients()
    assert before.change == after.change == (4.5 + 0.5) / 2


def test_a_run_killed_before_at_and_after_the_switch_ends_as_if_it_had_not_been(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "EARLIEST", 0.4)  # of 20 updates, in which the change first grows
    settings = ["optim.betas=[0.9,0.5]", "optim.eps=3.5e-8", "optim.warmup_fraction=0"]
    config = make_config(*AUTO, "train.updates=20", "train.checkpoint_every=1", "train.keep=100", *settings)
    summary = run(config)
    assert summary["switched_at"] == 9  # neither the earliest, 8, nor the latest, 10
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    for update in (1, 8, 9, 10, 15):
        killed_at(update, reference, config.run_folder)
        again = run(config)
        assert_same_run(config.run_folder, reference)
        assert (again["switched_at"], again["flops"]) == (9, summary["flops"])
        shutil.rmtree(config.run_folder)


def test_a_plan_shows_the_latest_switch_and_what_an_earlier_one_costs(make_config):
    plan = make_plan(make_config(*AUTO, "train.updates=100"))
    assert plan.config.recipe.switch_between(100) == (10, 50)
    assert [first for first, _ in plan.config.recipe.phases(100)] == [0, 50]
    for fraction, shown in ((0.5, plan), (0.1, plan.switched(10)), (0.23, plan.switched(23))):
        fixed = make_plan(make_config("recipe=step", f"recipe.dense_fraction={fraction}", "train.updates=100"))
        assert shown.flops == fixed.flops
