import pytest
import torch

from nmtrain.data.text.ragged import Packed

SEQUENCES = [[5, 6, 7], [], [8], [9, 10, 11, 12, 13]]


def test_sequences_lie_one_after_the_other():
    packed = Packed.of(SEQUENCES)
    assert packed.values.tolist() == list(range(5, 14))
    assert packed.values.dtype == torch.int32
    assert packed.starts.tolist() == [0, 3, 3, 4]
    assert packed.lengths.tolist() == [3, 0, 1, 5]
    assert len(packed) == 4
    assert [packed[index] for index in range(4)] == SEQUENCES


def test_rows_are_filled_up_to_a_multiple_above_the_longest():
    rows = Packed.of(SEQUENCES).padded(torch.tensor([2, 0, 1]), fill=-1, multiple=4)
    assert rows.tolist() == [[8, -1, -1, -1], [5, 6, 7, -1], [-1, -1, -1, -1]]
    assert rows.dtype == torch.int64


@pytest.mark.parametrize(("multiple", "width"), [(1, 5), (5, 5), (4, 8), (8, 8)])
def test_width_is_the_longest_rounded_up(multiple, width):
    rows = Packed.of(SEQUENCES).padded(torch.tensor([3, 2]), fill=0, multiple=multiple)
    assert rows.shape == (2, width)
    assert rows[0].tolist() == [9, 10, 11, 12, 13] + [0] * (width - 5)


def test_values_from_lengths():
    packed = Packed.from_lengths(torch.arange(5, dtype=torch.int32), torch.tensor([2, 3]))
    assert [packed[0], packed[1]] == [[0, 1], [2, 3, 4]]


def test_nothing_can_be_packed():
    assert len(Packed.of([])) == 0
