from itertools import pairwise

import pytest
import torch

from nmtrain.data.text import spans
from nmtrain.data.text.corpus import corrupted_counts
from nmtrain.data.text.ragged import Packed
from nmtrain.data.text.spans import SpanCorruption, _random_parts
from nmtrain.data.text.tokens import ByteTokenizer

TOKENS = ByteTokenizer()
A, B, C, D, E, F = range(10, 16)
S0, S1, END, PAD = TOKENS.sentinel(0), TOKENS.sentinel(1), TOKENS.end, TOKENS.pad


def corruption(*windows: list[int], noise_density: float = 0.15, mean_span: float = 3.0) -> SpanCorruption:
    return SpanCorruption(Packed.of([*window, END] for window in windows), TOKENS, noise_density, mean_span)


def restored(inputs: list[int], targets: list[int]) -> list[int]:
    """The window, from an input whose sentinels are replaced by what the target has behind them."""
    gaps: dict[int, list[int]] = {}
    for token in targets[:-1]:
        if token >= S0:
            gaps[token] = []
            last = gaps[token]
        else:
            last.append(token)
    return [token for given in inputs[:-1] for token in gaps.get(given, [given])]


def test_one_span_at_the_end_is_taken_out_of_short_windows():
    pairs = corruption([A, B], [A, B, C, D, E], noise_density=0.5).corrupted(torch.arange(2), draw=0)
    assert [pairs.inputs[i] for i in range(2)] == [[A, S0, END], [A, B, S0, END]]
    assert [pairs.targets[i] for i in range(2)] == [[S0, B, END], [S0, C, D, E, END]]


def test_spans_and_what_is_between_them_go_to_their_places(monkeypatch):
    parts = iter([torch.tensor([[2, 1]]), torch.tensor([[1, 2]])])
    monkeypatch.setattr(spans, "_random_parts", lambda total, count, generator: next(parts))
    batch = corruption([A, B, C, D, E, F], noise_density=0.5, mean_span=1.5).batch(torch.tensor([0]), draw=0)
    assert batch.input_ids.tolist() == [[A, B, S0, D, S1, END, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]
    assert batch.labels.tolist() == [[S0, C, S1, E, F, END, -100, -100]]
    assert batch.classes is None


def test_windows_of_no_or_one_token_stay_whole():
    pairs = corruption([], [A], [A, B]).corrupted(torch.arange(3), draw=0)
    assert [pairs.inputs[i] for i in range(3)] == [[END], [A, END], [A, S0, END]]
    assert [pairs.targets[i] for i in range(3)] == [[END], [END], [S0, B, END]]


@pytest.mark.parametrize(("noise_density", "mean_span"), [(0.15, 3.0), (0.5, 1.0), (0.9, 20.0), (0.3, 100.0)])
def test_every_window_can_be_restored_and_lengths_are_as_told(noise_density, mean_span):
    windows = [list(range(3, 3 + length)) for length in [*range(60), 200, 199, 200]]
    examples = corruption(*windows, noise_density=noise_density, mean_span=mean_span)
    chosen = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    pairs = examples.corrupted(chosen, draw=7)
    for row, index in enumerate(chosen.tolist()):
        inputs, targets = pairs.inputs[row], pairs.targets[row]
        assert restored(inputs, targets) == windows[index]
        assert [len(inputs), len(targets)] == examples.lengths[index].tolist()
        sentinels = [token for token in inputs if token >= S0]
        assert sentinels == [token for token in targets if token >= S0]
        noise, count = corrupted_counts(len(windows[index]), noise_density, mean_span)
        assert sentinels == [TOKENS.sentinel(i) for i in range(count)]
        assert len(targets) == noise + count + 1
        assert all(first < S0 or second < S0 for first, second in pairwise(inputs))


def test_counts_are_those_of_t5():
    # 568 tokens are what T5 takes to fill its 512 of input; its targets have 114.
    noise, count = corrupted_counts(568, 0.15, 3.0)
    assert (568 - noise + count + 1, noise + count + 1) == (512, 114)


def test_gaps_depend_on_the_draw_alone():
    examples = corruption(*[list(range(3, 103))] * 4)
    chosen = torch.arange(4)
    first = examples.batch(chosen, draw=1).input_ids
    examples.batch(chosen, draw=2)
    torch.rand(1)
    assert torch.equal(examples.batch(chosen, draw=1).input_ids, first)
    assert not torch.equal(examples.batch(chosen, draw=2).input_ids, first)
    assert len(first.unique(dim=0)) == 4


def test_every_way_to_part_is_equally_likely():
    draws = 6000
    total, count = torch.full((draws, 1), 5), torch.full((draws, 1), 3)
    parts = _random_parts(total, count, torch.Generator().manual_seed(0))
    ways, times = parts.unique(dim=0, return_counts=True)
    assert ways.tolist() == [[1, 1, 3], [1, 2, 2], [1, 3, 1], [2, 1, 2], [2, 2, 1], [3, 1, 1]]
    assert times.min() > 900
    assert times.max() < 1100


def test_too_few_sentinels_are_refused():
    with pytest.raises(ValueError, match="no sentinel 125"):
        corruption([5] * 400, noise_density=0.4, mean_span=1.0)
