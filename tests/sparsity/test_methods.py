"""What the field's methods do to one layer: forward, gradient, masks and weights, by eye."""

import pytest
import torch
from torch import nn

from nmtrain.sparsity import (
    NMPattern,
    SparsityRule,
    SparsityState,
    remove_sparsity,
    sparsify_model,
    sparsity_control,
    verify_sparsity,
)
from nmtrain.sparsity.state import Flow, Moments, Projection, Ranking

TARGET = NMPattern(1, 4)
W = [[4.0, -2.0, 1.0, 0.0], [3.0, 1.0, -6.0, -5.0]]
RULES = [SparsityRule("weight", TARGET)]


@pytest.fixture
def layer():
    module = nn.Linear(4, 2, bias=False)
    module.weight.data = torch.tensor(W)
    sparsify_model(module, RULES)
    return module


def put(layer, **records):
    sparsity_control(layer).update({TARGET: SparsityState(TARGET, **records)})


def gradient(layer, upstream=1.0):
    """The gradient in the dense weight, where that of the sparse one is ``upstream`` everywhere."""
    layer.parametrizations.weight.original.grad = None
    (layer.weight * upstream).sum().backward()
    return layer.parametrizations.weight.original.grad


def dense(layer):
    return layer.parametrizations.weight.original.detach()


def test_a_share_of_the_gradient_reaches_pruned_entries(layer):
    put(layer, flow=Flow(0.25))
    assert gradient(layer).tolist() == [[1, 0.25, 0.25, 0.25], [0.25, 0.25, 1, 0.25]]
    assert layer.weight.tolist() == [[4, 0, 0, 0], [0, 0, -6, 0]]


def test_contenders_get_more_the_nearer_they_are(layer):
    put(layer, flow=Flow(contenders=1.0))
    assert gradient(layer)[0].tolist() == pytest.approx([1, 1, 0.5, 0])
    assert gradient(layer)[1].tolist() == pytest.approx([0.6, 0.2, 1, 1])
    put(layer, flow=Flow(0.5, contenders=1.0))  # of a half
    assert gradient(layer)[0].tolist() == pytest.approx([1, 0.5, 0.25, 0])
    put(layer, projection=Projection(0.1), flow=Flow("masked", contenders=1.0))  # of D
    assert gradient(layer)[0].tolist() == pytest.approx([1, 0.1, 0.05, 0])


def test_only_a_wider_pattern_gets_a_gradient(layer):
    put(layer, flow=Flow(wider=NMPattern(2, 4)))
    assert gradient(layer).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_kept_entries_shrink_by_the_strongest_pruned_one_and_gradients_pass(layer):
    put(layer, projection=Projection(power=1.0))
    assert layer.weight.flatten().tolist() == pytest.approx([2, 0, 0, 0, 0, 0, -1, 0])
    assert gradient(layer).tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_the_scale_stays_what_it_was_at_first(layer):
    put(layer, projection=Projection(power=1.0, rescale=True))
    scale = (4 * 2 + 6 * 1) / (2 * 2 + 1 * 1)
    assert layer.weight.flatten().tolist() == pytest.approx([2 * scale, 0, 0, 0, 0, 0, -scale, 0])
    with torch.no_grad():
        layer.parametrizations.weight.original[0, 0] = 6.0
    put(layer, projection=Projection(power=1.0, rescale=True))
    assert layer.weight[0, 0].item() == pytest.approx(4 * scale)
    assert list(sparsity_control(layer).remembered) == ["weight"]


def test_baking_bakes_what_the_forward_shows(layer):
    put(layer, projection=Projection(power=1.0, rescale=True))
    shown = layer.weight.detach().clone()
    remove_sparsity(layer)
    assert layer.weight.equal(shown)
    assert verify_sparsity(layer, RULES) == 0


def test_baking_after_the_last_step_bakes_what_that_was_trained_with(layer):
    put(layer, projection=Projection(power=1.0))
    with torch.no_grad():
        layer.parametrizations.weight.original[0] = torch.tensor([6.0, 7.0, 1.0, 0.0])
    assert layer.weight.tolist() == [[3, 0, 0, 0], [0, 0, pytest.approx(-1), 0]]  # half of it, as when 4 lost 2
    remove_sparsity(layer)
    assert layer.weight.tolist() == [[3, 0, 0, 0], [0, 0, pytest.approx(-1), 0]]


def test_a_tie_for_the_first_place_leaves_a_kept_zero(layer):
    with torch.no_grad():
        layer.parametrizations.weight.original[0, 1] = -4.0
    put(layer, projection=Projection(power=3.0))
    remove_sparsity(layer)
    assert layer.weight[0].tolist() == [0, 0, 0, 0]
    assert verify_sparsity(layer, RULES) == 1


def test_maxq_enlarges_kept_entries_and_leaves_whole_groups(layer):
    put(layer, projection=Projection(queried=True, whole_groups=0.5))
    assert layer.weight[0].tolist() == pytest.approx([4 * 1.5, 0, 0, 0])
    # The second row is one group and the larger one: all of it, its largest entry times 1.5.
    assert layer.weight[1].tolist() == pytest.approx([3, 1, -6 * 1.5, -5])


def test_clearing_sets_pruned_weights_to_zero_once(layer):
    put(layer, ranking=Ranking(clear=True))
    assert dense(layer).tolist() == [[4, 0, 0, 0], [0, 0, -6, 0]]
    sparsity_control(layer).update({TARGET: SparsityState(None)})
    assert layer.weight.tolist() == [[4, 0, 0, 0], [0, 0, -6, 0]]  # what a dense stretch begins with


def test_a_first_moment_does_not_bring_back_what_is_cleared(layer):
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    sparsity_control(layer).update({TARGET: SparsityState(None)})
    for ranking in (Ranking(clear=True), Ranking(freeze=True, clear=True)):
        gradient(layer)
        optimizer.step()
        put(layer, flow=Flow("masked"), ranking=ranking)
        assert dense(layer).count_nonzero() == 2
    gradient(layer)
    optimizer.step()
    assert dense(layer).count_nonzero() == 8  # the moments move all of them
    sparsity_control(layer).update({TARGET: SparsityState(None, ranking=Ranking(clear=True))})
    assert layer.weight.count_nonzero() == 2


def test_an_exchange_starts_newcomers_from_zero_with_fresh_moments(layer):
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    put(layer, flow=Flow("masked"))
    gradient(layer)
    optimizer.step()
    before = dense(layer).clone()
    put(layer, flow=Flow("masked"), ranking=Ranking(freeze=True, regrow=0.5))
    gradient(layer, torch.tensor([[1.0, 7.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]]))
    sparsity_control(layer).exchange(optimizer)
    # 3.9 is weaker than 6.1 and gives its place to the entry with the gradient 7.
    mask = next(mask for _, _, mask, _ in sparsity_control(layer).sparse_tensors())
    assert mask.tolist() == [[False, True, False, False], [False, False, True, False]]
    assert dense(layer)[0].tolist() == [before[0, 0].item(), 0.0, before[0, 2].item(), before[0, 3].item()]
    weight = layer.parametrizations.weight.original
    assert weight.grad.tolist() == [[0, 7, 0, 0], [0, 0, 1, 0]]
    assert optimizer.state[weight]["exp_avg"].count_nonzero() == 1  # that of the entry that stayed
    assert optimizer.state[weight]["exp_avg_sq"][1, 2] > 0


def test_a_state_without_an_exchange_exchanges_nothing(layer):
    optimizer = torch.optim.Adam(layer.parameters())
    put(layer)
    before = gradient(layer).clone()
    sparsity_control(layer).exchange(optimizer)
    assert layer.parametrizations.weight.original.grad.equal(before)


def test_which_weights_hold_their_second_moment(layer):
    assert sparsity_control(layer).with_held_variance() == {}
    put(layer, moments=Moments(hold_variance=True))
    assert sparsity_control(layer).with_held_variance() == {layer.parametrizations.weight.original: []}


def test_only_sparse_rows_hold_their_second_moment():
    layer = nn.Linear(4, 7)
    other = NMPattern(2, 4)
    rules = [SparsityRule("weight", TARGET, rows=(1, 3)), SparsityRule("weight", other, rows=(3, 5))]
    sparsify_model(layer, rules)
    held = SparsityState(TARGET, moments=Moments(hold_variance=True))
    control, original = sparsity_control(layer), layer.parametrizations.weight.original
    control.update({TARGET: held, other: held})
    assert control.with_held_variance() == {original: [slice(0, 1), slice(5, 7)]}
    control.update({TARGET: held, other: SparsityState(other)})
    assert control.with_held_variance() == {original: [slice(0, 1), slice(3, 7)]}
    assert [(weight is original, rows) for weight, rows in control.sparse_rows] == [
        (True, slice(1, 3)),
        (True, slice(3, 5)),
    ]


def test_old_attributes_stay_readable():
    state = SparsityState(TARGET, 0.5, "masked", 0.1, True, True)
    assert (state.decay, state.gradient, state.penalty, state.freeze, state.exact) == (0.5, "masked", 0.1, True, True)
    assert state == SparsityState(
        TARGET,
        projection=Projection(0.5),
        flow=Flow("masked", penalty=0.1),
        ranking=Ranking(freeze=True),
        exact=True,
    )
    assert not state.strict


@pytest.mark.parametrize(
    ("records", "reached"),
    [
        ({}, None),
        ({"flow": Flow("masked")}, TARGET),
        ({"flow": Flow("masked"), "projection": Projection(0.5)}, None),
        ({"flow": Flow(0.0)}, TARGET),
        ({"flow": Flow(0.5)}, None),
        ({"flow": Flow("masked", penalty=0.1)}, None),
        ({"flow": Flow(wider=NMPattern(2, 4))}, NMPattern(2, 4)),
        ({"flow": Flow("masked"), "ranking": Ranking(regrow=0.1)}, None),
    ],
)
def test_which_entries_need_a_gradient(records, reached):
    assert SparsityState(TARGET, **records).reached == reached
