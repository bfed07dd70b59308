"""The n-th entry of each group is the one that sorting finds, by every way to find it."""

import pytest
import torch

from nmtrain.sparsity import selection

SIZES = [(n, m) for m in range(2, 17) for n in range(1, m)]
SIZES += [
    (1, 24), (1, 31), (1, 32), (1, 128), (64, 128),
    (100, 128), (127, 128), (2, 64), (48, 96), (7, 100), (5, 24), (12, 24), (3, 17), (16, 31),
    (31, 32), (2, 32), (16, 33), (2, 33), (32, 33), (1, 33), (4, 40), (1, 127), (63, 127),
]  # fmt: skip


@pytest.mark.parametrize("length", [1, 2, 4, 8, 16, 32])
def test_sorting_networks_sort(length):
    comparators = selection._sorting_network(length)
    assert all(0 <= i < j < length for i, j in comparators)
    # By the 0-1 principle a network is right for all inputs if it is right for all of 0 and 1; a sample of them here.
    generator = torch.Generator().manual_seed(length)
    inputs = (torch.rand(300, length, generator=generator) < torch.rand(300, 1, generator=generator)).float()
    entries = list(inputs.unbind(1))
    for i, j in comparators:
        entries[i], entries[j] = torch.maximum(entries[i], entries[j]), torch.minimum(entries[i], entries[j])
    assert torch.equal(torch.stack(entries, 1), inputs.sort(1, descending=True).values)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_the_nth_of_each_group_is_found_along_every_dimension(n, m, largest):
    generator = torch.Generator().manual_seed(m)
    for rows in (3, 32, 64):  # transposed as a whole and in blocks
        inputs = torch.randn(rows, 2, m, generator=generator)
        inputs[::2] = inputs[::2].round()
        expected = inputs.sort(-1, descending=largest).values[..., n - 1]
        for dim in range(3):
            found = selection.nth(inputs.movedim(-1, dim).contiguous(), n, dim, largest)
            assert torch.equal(found, expected.unsqueeze(dim))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 7), (1, 16), (4, 16), (9, 16), (16, 32)])
def test_the_network_that_a_gpu_uses_finds_the_same(n, m, largest):
    generator = torch.Generator().manual_seed(m)
    inputs = torch.randn(20, m, 3, generator=generator).mul(2).round()
    expected = inputs.sort(1, descending=largest).values[:, n - 1 : n]
    assert torch.equal(selection._by_network(inputs, n, 1, largest), expected)
