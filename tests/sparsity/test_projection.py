"""What recipes make of kept and pruned entries, on tensors whose answer can be checked by eye."""

import pytest
import torch

from nmtrain.sparsity import NMPattern, nm_mask
from nmtrain.sparsity.projection import (
    contending,
    nearest_scale,
    queried,
    regrown,
    shrunk,
    strongest_pruned,
    with_whole_groups,
)

W = torch.tensor([[4.0, -2.0, 1.0, 0.0, -3.0, 3.0, 6.0, -6.0]])
MASK = nm_mask(W, "1:4")  # keeps the 4, and the first 6


def bools(rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_the_strongest_pruned_entry_of_each_group():
    assert MASK.tolist() == [[True, False, False, False, False, False, True, False]]
    assert strongest_pruned(W, MASK, 4, "input").tolist() == [[2.0] * 4 + [6.0] * 4]
    assert strongest_pruned(W, torch.ones_like(MASK), 4, "input").tolist() == [[0.0] * 8]  # N = M prunes nothing
    assert strongest_pruned(W.T, MASK.T, 4, "output").T.tolist() == [[2.0] * 4 + [6.0] * 4]


def test_a_shrunk_entry_passes_through_zero_where_it_leaves():
    t = strongest_pruned(W, MASK, 4, "input")
    # 4 - 2 is half of 4; 6 is as large as the strongest pruned one, and nothing is left of it.
    assert (W * shrunk(W, t, 1.0, 1.0))[MASK].tolist() == [2.0, 0.0]
    assert (W * shrunk(W, t, 1.0, 0.5))[MASK].tolist() == [3.0, 3.0]  # half of t: 4 - 1 and 6 - 3
    assert (W * shrunk(W, t, 3.0, 1.0))[MASK].tolist() == pytest.approx([(4**3 - 2**3) ** (1 / 3), 0.0])
    assert (W * shrunk(W, t, 3.0, 0.0))[MASK].tolist() == [4.0, 6.0]  # hard


def test_a_group_of_zeros_stays_zero():
    zero = torch.zeros(1, 4)
    mask = nm_mask(zero, "1:4")
    t = strongest_pruned(zero, mask, 4, "input")
    assert shrunk(zero, t, 3.0, 1.0).isfinite().all()
    assert contending(zero, t, 2.0).tolist() == [[1.0] * 4]


def test_the_scale_brings_the_projection_nearest_to_the_weight():
    projected = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]])
    assert nearest_scale(W, projected) == pytest.approx((4 * 2 + 6 * 1) / (4 + 1))
    assert nearest_scale(W, torch.zeros_like(W)) == 1.0


def test_contenders_share_the_gradient_by_how_near_they_are():
    t = strongest_pruned(W, MASK, 4, "input")
    assert contending(W, t, 1.0).tolist() == [[1.0, 1.0, 0.5, 0.0, 0.5, 0.5, 1.0, 1.0]]
    assert contending(W, t, 2.0).tolist() == [[1.0, 1.0, 0.25, 0.0, 0.25, 0.25, 1.0, 1.0]]


def test_maxq_asks_of_each_filter_and_of_each_place_in_the_kernel():
    linear = torch.tensor([[4.0, 3.0, 2.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
    # 1:4 of a row of four is its largest: of that the answer is sigmoid(0) = 1/2, far below it 0.
    assert queried(linear, NMPattern(1, 4))[0].tolist() == pytest.approx([1.5, 1.0, 1.0, 1.0])
    assert queried(linear, NMPattern(1, 4))[1].tolist() == pytest.approx([1.0, 1.0, 1.0 + 4.5398e-5, 1.5])
    conv = torch.arange(1.0, 17.0).view(2, 4, 1, 2)  # places hold odd and even numbers
    factor = queried(conv, NMPattern(1, 2))
    # The filter's half: above 4 and above 12. The place's half: above 8 of either kind.
    assert factor[0].flatten().tolist() == pytest.approx([1, 1, 1, 1, 1.5, 2, 2, 2])
    assert factor[1].flatten().tolist() == pytest.approx([1.5, 1.5, 2, 2, 2.5, 3, 3, 3])


def test_dense_groups_are_those_of_the_largest_sum():
    assert with_whole_groups(MASK, W, 4, "input", 0.5).tolist() == [[True] + [False] * 3 + [True] * 4]
    assert with_whole_groups(MASK, W, 4, "input", 0.0).equal(MASK)
    assert with_whole_groups(MASK, W, 4, "input", 1.0).all()
    assert with_whole_groups(MASK.T, W.T, 4, "output", 0.5).T.tolist() == [[True] + [False] * 3 + [True] * 4]


def test_the_weakest_kept_entries_give_way_to_those_of_large_gradient():
    weight = torch.tensor([[1.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0]])
    mask = bools([[1, 0, 0, 0, 1, 0, 0, 0]])
    gradient = torch.tensor([[9.0, 1.0, -3.0, 2.0, 0.0, 7.0, 0.0, 0.0]])
    # Of two kept entries the weaker leaves, for the -3 of its own group: the 7 is in the other.
    assert regrown(weight, gradient, mask, NMPattern(1, 4), "input", 0.5).equal(bools([[0, 0, 1, 0, 1, 0, 0, 0]]))
    assert regrown(weight, gradient, mask, NMPattern(1, 4), "input", 1.0).equal(bools([[0, 0, 1, 0, 0, 1, 0, 0]]))
    assert regrown(weight, gradient, mask, NMPattern(1, 4), "input", 0.0).equal(mask)
    turned = regrown(weight.T, gradient.T, mask.T, NMPattern(1, 4), "output", 0.5)
    assert turned.T.equal(bools([[0, 0, 1, 0, 1, 0, 0, 0]]))


def test_a_group_exchanges_no_more_than_it_has_pruned():
    weight = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    mask = bools([[1, 1, 1, 0]])
    gradient = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    assert regrown(weight, gradient, mask, NMPattern(3, 4), "input", 1.0).equal(bools([[1, 0, 1, 1]]))


def test_an_exchange_keeps_n_of_every_group():
    generator = torch.Generator().manual_seed(0)
    for n, m in ((1, 8), (3, 8), (7, 8)):
        weight = torch.randn(16, 4, 3, 3, generator=generator).repeat(1, 2, 1, 1)
        mask = nm_mask(weight, NMPattern(n, m))
        gradient = torch.randn(weight.shape, generator=generator)
        after = regrown(weight, gradient, mask, NMPattern(n, m), "input", 0.3)
        assert after.unflatten(1, (-1, m)).sum(2).eq(n).all()
        assert int((mask & ~after).sum()) == round(0.3 * int(mask.sum())) or n == 7
