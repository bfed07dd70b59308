"""The cost of text models by the lengths of their samples, against products worked out by hand."""

import pytest
import torch

from nmtrain.config.schema import ModelConfig
from nmtrain.data.shapes import TextShape
from nmtrain.measure import LengthCurve, forward_cost, length_cost, length_moments
from nmtrain.models import build_model
from nmtrain.models.indices import RealIndices
from nmtrain.models.roles import weights_by_role
from nmtrain.recipes import build_recipe
from nmtrain.sparsity import NMPattern, SparsityRule, resolve_rules
from nmtrain.training.text_plan import text_inputs

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


@pytest.mark.parametrize(
    ("family", "settings", "is_polynomial"),
    [
        ("bart", {}, True),
        ("longt5_local", {}, False),
        ("longt5_global", {}, False),
        ("led", {}, False),
        ("deberta_relative", {"max_relative_positions": 9}, False),  # of positions further apart none is projected
        ("deberta_v2", {}, True),
    ],
)
def test_what_a_text_costs_is_what_a_real_forward_counts_at_every_length(family, settings, is_polynomial, checkpoint):
    kind = checkpoint.families[family][0]
    config = ModelConfig(
        kind=kind, name=family, roles=["ff"], options=settings, pretrained=str(checkpoint(family)), tokenizer=None
    )
    with torch.device("meta"), RealIndices():
        model = build_model(config, SHAPE, pretrained=False)
    rules = [SparsityRule(name, TARGET) for _, name, rows in weights_by_role(model) if rows is None]
    tensors = resolve_rules(model, rules)
    cost = length_cost(model, lambda s, t: text_inputs(model, 1, s, t), tensors, (41, 6), RealIndices)
    assert (cost.count is None) == is_polynomial
    lengths = torch.tensor([[1, 1], [4, 6], [8, 2], [9, 3], [16, 6], [23, 5], [33, 4], [40, 1], [41, 6]])
    cost = cost.for_inputs(lengths[:, 0])
    real = build_model(config, SHAPE, pretrained=False)
    summed = 0.0
    for s, t in lengths.tolist():
        counted = forward_cost(real, text_inputs(real, 1, s, t), tensors, 1, training=True)
        assert cost.mean(cost.moments(torch.tensor([s, t])).tolist(), 1) == cost.at(s, t) == counted, (s, t)
        summed += counted.total
    assert cost.mean(cost.moments(lengths).sum(0).tolist(), 1).total == summed


def test_blocks_of_local_attention_are_counted_whole(checkpoint):
    # Each of two layers attends from blocks of 8 tokens to three of them: 64 MAC per pair for scores, 64 for values.
    folder = str(checkpoint("longt5_local"))
    config = ModelConfig(kind="text_to_text", name=folder, roles=["ff"], options={"vocab_size": 32})
    with torch.device("meta"), RealIndices():
        model = build_model(config, SHAPE)
    cost = length_cost(model, lambda s, t: text_inputs(model, 1, s, t), [], (100, 6), RealIndices)

    def by_hand(s, t):
        attended = -(-s // 8) * 8 * 24  # pairs
        encoder = 2 * (4 * s * 64 * 64 + 2 * attended * 64 + 2 * s * 64 * 64)
        decoder = 4 * t * 64 * 64 + 2 * t * t * 64 + 2 * t * 64 * 64
        cross = 2 * t * 64 * 64 + 2 * s * 64 * 64 + 2 * s * t * 64
        return encoder + decoder + cross + t * 64 * 32

    lengths = torch.tensor([[100, 6], [57, 3], [8, 1]])
    cost = cost.for_inputs(lengths[:, 0])
    for s, t in lengths.tolist():
        assert cost.at(s, t).total == by_hand(s, t)
        assert cost.mean(cost.moments(torch.tensor([s, t])).tolist(), 1).total == by_hand(s, t)


def test_a_cost_that_cannot_be_told_from_counts_is_refused():
    class Remembers(torch.nn.Module):
        """Multiplies twice once it has seen a short text, as BigBird gives up its sparse attention then."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4, device="meta")
            self.short = False

        def forward(self, x):
            self.short |= len(x) < 5
            return self.layer(self.layer(x)) if self.short else self.layer(x)

    class BlocksOfTargets(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4, device="meta")

        def forward(self, x, y):
            return self.layer(x), self.layer(y[:: max(1, len(y) // 4)])

    def texts(length):
        return torch.zeros(length, 4, device="meta")

    with pytest.raises(ValueError, match="depends on the texts before it"):
        length_cost(Remembers(), lambda s, t: {"x": texts(s)}, [], (20, 1))
    with pytest.raises(ValueError, match="no polynomial in the length of its target"):
        length_cost(BlocksOfTargets(), lambda s, t: {"x": texts(s), "y": texts(t)}, [], (20, 20))
