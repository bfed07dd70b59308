"""The cost of text models by the lengths of their samples, against products worked out by hand."""

import pytest
import torch

from nmtrain.data.source import TextShape
from nmtrain.measure import LengthCurve, forward_cost, length_cost, length_moments
from nmtrain.models import build_model
from nmtrain.recipes import build_recipe
from nmtrain.schema import ModelConfig
from nmtrain.sparsity import NMPattern, SparsityRule, resolve_rules

SHAPE = TextShape(train_size=10, val_size=5, input_length=12, target_length=6, labels=("a", "b", "c"))
# One layer of each stack, width 8, two heads of 4, FF of 16, 32 tokens.
TINY = {"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
TARGET = NMPattern(1, 4)


def by_hand(s, t):
    """MAC of the tiny T5 on s input and t target tokens; then those of its two encoder FF matrices."""
    encoder = 4 * s * 8 * 8 + 2 * s * s * 8 + 2 * s * 8 * 16
    decoder = 4 * t * 8 * 8 + 2 * t * t * 8 + 2 * t * 8 * 16
    cross = 2 * t * 8 * 8 + 2 * s * 8 * 8 + 2 * s * t * 8
    head = t * 8 * 32
    return encoder + decoder + cross + head, 2 * s * 8 * 16


def language_model(kind, name, options):
    config = ModelConfig(kind=kind, name=name, roles=["ff"], options=options)
    with torch.device("meta"):
        return build_model(config, SHAPE)


def tokens(length):
    return torch.zeros(1, length, dtype=torch.long, device="meta")


def t5_inputs(s, t):
    return {"input_ids": tokens(s), "decoder_input_ids": tokens(t)}


@pytest.fixture(scope="module")
def tiny():
    model = language_model("text_to_text", "t5", TINY)
    tensors = resolve_rules(model, [SparsityRule("encoder.*DenseReluDense.w?.weight", TARGET)])
    return model, tensors, length_cost(model, t5_inputs, tensors)


@pytest.mark.parametrize(("s", "t"), [(1, 1), (7, 3), (12, 6), (40, 11)])
def test_a_small_t5_costs_what_its_products_are_by_hand(tiny, s, t):
    model, tensors, cost = tiny
    total, ff = by_hand(s, t)
    at = cost.mean(length_moments(torch.tensor([s, t])).tolist(), 1)
    assert at.total == total
    assert sum(at.tensors.values()) == ff
    assert forward_cost(model, t5_inputs(s, t), tensors, 1).total == total


def test_a_classifier_costs_nothing_for_its_targets():
    options = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = language_model("text_classifier", "bert", options)
    cost = length_cost(model, lambda s, t: {"input_ids": tokens(s)}, [])
    pooler_and_head = 8 * 8 + 8 * 3
    for s, t in [(1, 1), (9, 1), (9, 5)]:
        expected = 4 * s * 64 + 2 * s * s * 8 + 2 * s * 128 + pooler_and_head
        assert cost.mean(length_moments(torch.tensor([s, t])).tolist(), 1).total == expected


def test_training_costs_follow_the_lengths_of_each_update_and_the_phase_it_is_in(tiny):
    _, tensors, cost = tiny
    # Four updates of two samples; a decay phase (dense cost) of two updates, then strict 1:4 with masked gradients.
    lengths = torch.tensor([[[3, 1], [5, 2]], [[9, 1], [9, 1]], [[2, 2], [4, 1]], [[12, 6], [1, 1]]])
    moments = torch.cat([torch.zeros(1, 6, dtype=torch.long), length_moments(lengths).sum(1).cumsum(0)])
    recipe = build_recipe("mdgf", target=TARGET, finetune_fraction=0.5)
    curve = LengthCurve(cost, tensors, {TARGET: recipe}, 4, moments)
    expected = 0.0
    for update, samples in enumerate(lengths.tolist()):
        for s, t in samples:
            total, ff = by_hand(s, t)
            expected += 2 * 3 * (total if update < 2 else total - ff + ff / 4)
        assert curve.flops(update + 1) == expected
    assert curve.flops(0) == 0
    assert curve.starts == [0, 2]
    assert curve.phase_flops(2) == (0, curve.flops(2))
    assert curve.phase_flops(3) == (1, curve.flops(3) - curve.flops(2))
    dense = LengthCurve(cost, [], {}, 4, moments)
    assert dense.flops(4) == sum(6 * by_hand(s, t)[0] for samples in lengths.tolist() for s, t in samples)
