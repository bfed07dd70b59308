"""What one update multiplies: the forward in train mode, and the gradients that something needs."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values
from nmtrain.config.schema import ModelConfig
from nmtrain.data.shapes import TextShape
from nmtrain.measure import (
    ForwardCost,
    TrainingCurve,
    forward_cost,
    length_cost,
    length_moments,
    training_flops,
    update_flops,
)
from nmtrain.models import build_model
from nmtrain.recipes import build_recipe
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityRule, resolve_rules, sparsify_model
from nmtrain.training.plan import make_plan

COMPACT = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 3, "num_heads": 3, "num_classes": 10}
STEM = 64 * 192 * (3 * 4 * 4)  # 8 * 8 patches, each of 3 * 4 * 4 numbers, to width 192


def compact_forward(tokens):
    """MAC of the compact ViT behind its stem: three blocks of 12 * 192^2 weights, two products, and the head."""
    return 3 * (tokens * 12 * 192 * 192 + 2 * tokens * tokens * 192) + 192 * 10


def on_meta(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


def images(samples, side, device="meta"):
    return (torch.zeros(samples, 3, side, side, device=device),)


def tokens(samples, length):
    return torch.zeros(samples, length, dtype=torch.long, device="meta")


# Counted


def test_nothing_needs_the_gradient_of_the_images():
    model = on_meta("vit_tiny_patch16_224", **COMPACT)
    cost = forward_cost(model, images(2, 32), [], 2, training=True)
    assert cost == ForwardCost(STEM + compact_forward(65), {}, unneeded=STEM)
    assert update_flops(cost, [], {}, 4) == 2 * 4 * (3 * 91_720_704 - 589_824)


def test_patch_dropout_leaves_tokens_out_of_training_alone():
    model = on_meta("vit_tiny_patch16_224", **COMPACT, patch_drop_rate=0.75)
    tensors = resolve_rules(model, [SparsityRule("blocks.*.mlp.fc1.weight", NMPattern(1, 4))])
    training = forward_cost(model, images(2, 32), tensors, 2, training=True)
    # The class token and 16 of 64 patches: all patches are embedded, and the rest never sees 48 of them.
    assert training.total == STEM + compact_forward(17) == 23_485_440
    assert set(training.tensors.values()) == {17 * 192 * 768}
    assert update_flops(training, [], {}, 1) == 2 * (3 * 23_485_440 - STEM) == 139_732_992
    assert forward_cost(model, images(2, 32), tensors, 2).total == STEM + compact_forward(65) == 91_720_704


def classifier(family, **options):
    config = ModelConfig(kind="text_classifier", name=family, roles=["ff"], options=options)
    with torch.device("meta"):
        return build_model(config, TextShape(10, 5, input_length=12, target_length=6, labels=("a", "b", "c")))


def t5():
    config = ModelConfig(kind="text_to_text", name="t5", roles=["ff"], options={"num_layers": 1})
    with torch.device("meta"):
        return build_model(config, TextShape(10, 5, input_length=12, target_length=6, labels=()))


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: on_meta("resnet18"), {"x": images(2, 64)[0]}),
        (lambda: on_meta("resnet50d"), {"x": images(2, 64)[0]}),
        (lambda: on_meta("vit_tiny_patch16_224"), {"x": images(2, 224)[0]}),
        (lambda: on_meta("swinv2_tiny_window8_256"), {"x": images(2, 256)[0]}),
        (lambda: on_meta("swin_tiny_patch4_window7_224"), {"x": images(2, 224)[0]}),
        (lambda: on_meta("cait_xxs24_224"), {"x": images(2, 224)[0]}),
        (lambda: classifier("bert", num_hidden_layers=1), {"input_ids": tokens(2, 12)}),
        (t5, {"input_ids": tokens(2, 12), "decoder_input_ids": tokens(2, 6)}),
    ],
    ids=["resnet", "resnet-deep-stem", "vit", "swinv2", "swin", "cait", "bert", "t5"],
)
def test_dense_updates_cost_what_torch_counts_over_forward_and_backward(make, inputs):
    model = make().train()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = model(**inputs)
        (outputs if isinstance(outputs, torch.Tensor) else outputs.logits).sum().backward()
    cost = forward_cost(model, inputs, [], 2, training=True)
    assert update_flops(cost, [], {}, 2) == counter.get_total_flops()
    assert cost.unneeded == 0 or "x" in inputs  # what text is embedded in learns, and needs its gradient


@pytest.mark.parametrize(("name", "macs"), [("cait_xxs24_224", 2_523_475_200), ("pit_ti_224", 699_059_456)])
def test_models_that_torchs_module_tracker_fails_on_are_counted(name, macs):
    """Without gradients its FlopCounterMode ends in an AssertionError; the totals are its own with frozen weights."""
    assert forward_cost(on_meta(name), images(1, 224), [], 1).total == macs


def test_a_grouped_convolution_s_gradients_cost_what_it_does():
    """Torch's own count of the weight's gradient leaves the groups out of account."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, padding=1, groups=4))
    cost = forward_cost(model, images(1, 5, "cpu"), [], 1, training=True)
    first, grouped = 25 * 8 * 3, 25 * 16 * 2 * 9
    assert cost == ForwardCost(first + grouped, {}, unneeded=first)


class Reused(nn.Module):
    """One weight that reads the input, then what it made itself; and a product with a constant."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.zeros(8, 4))

    def forward(self, x):
        return self.second(self.first(x)) @ self.table


def test_uses_of_a_weight_are_told_apart_and_constants_need_no_gradient():
    model = Reused()
    rule = SparsityRule("first.weight", NMPattern(1, 4))
    expected = ForwardCost(
        total=2 * 5 * 64 + 5 * 8 * 4,
        tensors={"first.weight": 2 * 5 * 64},
        unneeded=5 * 64 + 5 * 8 * 4,  # of the input, and of the table
        unneeded_inputs={"first.weight": 5 * 64},
    )
    inputs = (torch.zeros(2, 5, 8),)
    assert forward_cost(model, inputs, resolve_rules(model, [rule]), 2, training=True) == expected
    tensors = sparsify_model(model, [rule])
    assert forward_cost(model, inputs, tensors, 2, training=True) == expected


def test_layers_that_layerdrop_may_skip_are_counted_every_time():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(20))
            self.layerdrop = 0.5

        def forward(self, x):
            for layer in self.layers:
                if not self.training or torch.rand([]) >= self.layerdrop:
                    x = layer(x)
            return x

    model = Skipping()
    assert forward_cost(model, (torch.zeros(1, 8),), [], 1, training=True).total == 20 * 64
    assert model.layerdrop == 0.5


def test_counting_in_train_mode_leaves_no_trace_and_one_sample_is_enough():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4, 4)).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = (torch.randn(1, 3, 1, 1),)
    random_state = torch.get_rng_state()
    cost = forward_cost(model, inputs, [], 1, training=True)
    assert cost == ForwardCost(3 * 4 + 4 * 4, {}, unneeded=3 * 4)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_costs_by_length_keep_what_needs_no_gradient():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tensors = resolve_rules(model, [SparsityRule("?.weight", NMPattern(1, 4))])
    cost = length_cost(model, lambda s, t: {"input": torch.zeros(1, s, 8, device="meta")}, tensors)
    at = cost.mean(length_moments(torch.tensor([7, 1])).tolist(), 1)
    assert (at.total, at.unneeded) == (2 * 7 * 64, 7 * 64)
    assert at.tensors == {"0.weight": 7 * 64, "1.weight": 7 * 64}
    assert at.unneeded_inputs == {"0.weight": 7 * 64}


# Summed over updates. A model of 100 MAC: a sparse stem of 64 whose input needs no gradient, 36 elsewhere.

STEM_COST = ForwardCost(100.0, {"stem": 64.0}, unneeded=64.0, unneeded_inputs={"stem": 64.0})
SPARSE_STEM = SparseTensor("stem", "", (1, 64), "input", NMPattern(1, 8))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("dense", 3 * 36 + 64 + 64),
        ("static", 3 * 36 + 8 + 8),
        ("ste", 3 * 36 + 8 + 64),
        ("sr_ste", 3 * 36 + 8 + 64),
    ],
)
def test_a_sparse_stem_has_two_matmuls_per_update(recipe, expected):
    recipes = {SPARSE_STEM.pattern: build_recipe(recipe, SPARSE_STEM.pattern)}
    assert training_flops(STEM_COST, [SPARSE_STEM], recipes, 10, 4) == 2 * 4 * 10 * expected


# Planned


@pytest.mark.parametrize(
    ("recipe", "gradient"), [("dense", 1), ("static", 1 / 32), ("sr_ste", 1)], ids=["dense", "static", "sr_ste"]
)
def test_a_small_resnet_s_training_by_hand(recipe, gradient):
    """16 pixels of one channel; behind the stem and its pooling four stages of one block, of sides 4, 2, 1 and 1."""
    config = check_config(compose_values(["model=resnet", "sparsity=1:32", f"recipe={recipe}"]))
    plan = make_plan(config)
    stem, head = 8 * 8 * 64 * 49, 128 * config.data_shape.num_classes
    convolutions = 4 * 4 * 2 * 64 * 64 * 9
    channels = 64
    for side, width in ((2, 64), (1, 128), (1, 128)):  # each strides, and so has a shortcut of its own
        convolutions += side * side * (channels * width * 9 + width * width * 9 + channels * width)
        channels = width
    density = 1 if recipe == "dense" else 1 / 32
    samples = config.total_updates * config.train.batch_size
    assert plan.flops["training"] == 2 * samples * (2 * stem + 3 * head + (2 * density + gradient) * convolutions)
    assert plan.flops["training_dense"] == 2 * samples * (2 * stem + 3 * (head + convolutions))
    assert plan.flops["inference"] == 2 * (stem + head + density * convolutions)


def test_a_plan_counts_training_in_train_mode_and_inference_in_eval_mode(make_config):
    plan = make_plan(make_config("recipe=dense", "++model.options.patch_drop_rate=0.5"))
    assert plan.flops["training_dense"] == plan.flops["training"]
    # 4 * 4 patches of 4x4 pixels and the class token, of which training sees 8 and the class token; one block of 64.
    stem, head = 16 * 64 * 16, 64 * 10

    def behind(tokens):
        return tokens * 12 * 64 * 64 + 2 * tokens * tokens * 64 + head

    assert plan.flops["inference"] == 2 * (stem + behind(17))
    assert plan.flops["training"] == 2 * 12 * 32 * (2 * stem + 3 * behind(9))


def test_rigl_needs_the_whole_weight_gradient_at_its_exchanges_alone():
    target = NMPattern(1, 8)
    tensor = SparseTensor("w", "", (8, 64), "input", target)
    cost = ForwardCost(100.0, {"w": 80.0})
    recipe = build_recipe("rigl", target, every=10)
    curve = TrainingCurve(cost, [tensor], {target: recipe}, 40, 1)
    # Forward and input gradient at 1/8; the weight gradient at 1/8, and whole at updates 10 and 20 (30 is too late).
    masked, exchanging = 3 * 20 + 3 * 10, 3 * 20 + 2 * 10 + 80
    assert curve.flops(10) == 2 * 10 * masked
    assert curve.flops(11) == 2 * (10 * masked + exchanging)
    assert curve.flops(40) == 2 * (38 * masked + 2 * exchanging)
    assert curve.starts == [0]
    assert curve.phase_flops(40) == (0, curve.flops(40))


def test_top_kast_needs_the_gradient_of_the_wider_pattern():
    target = NMPattern(1, 8)
    tensor = SparseTensor("w", "", (8, 64), "input", target)
    recipe = build_recipe("top_kast", target)
    macs = 3 * 20 + 2 * 10 + 40  # 4:8 of the weight gradient
    assert training_flops(ForwardCost(100.0, {"w": 80.0}), [tensor], {target: recipe}, 7, 1) == 2 * 7 * macs
