"""Costs of models by hand: every expected number is written as the sum a reader would do on paper."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrize

from nmtrain.measure import (
    ForwardCost,
    TrainingCurve,
    forward_cost,
    inference_flops,
    training_flops,
    update_flops,
)
from nmtrain.recipes import build_recipe
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityRule, SparsityState, resolve_rules, sparsify_model

torch.set_num_threads(1)

FF = NMPattern(1, 32)
COMPACT = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 3, "num_heads": 3, "num_classes": 10}


def on_meta(name, **overrides):
    with torch.device("meta"):
        return timm.create_model(name, **overrides)


def images(samples, side, device="meta"):
    return (torch.zeros(samples, 3, side, side, device=device),)


# One forward, counted


def test_vit_base_by_hand():
    model = on_meta("vit_base_patch16_224")
    tensors = resolve_rules(model, [SparsityRule("blocks.*.mlp.fc?.weight", FF, "ff")])
    cost = forward_cost(model, images(1, 224), tensors, samples=1)
    # 14 * 14 patches and the class token: 197 tokens of width 768; 12 blocks; FF 768 -> 3072 -> 768.
    patches = 196 * 768 * (3 * 16 * 16)
    projections = 12 * 197 * 4 * 768 * 768  # Q, K, V, O
    products = 12 * 2 * 197 * 197 * 768  # Q K^T and attention times V
    ff = 24 * 197 * 768 * 3072
    head = 768 * 1000
    assert ff == 11_154_751_488
    assert cost.total == patches + projections + products + ff + head == 17_563_828_224
    assert len(cost.tensors) == 24
    assert all(macs == 197 * 768 * 3072 for macs in cost.tensors.values())
    assert inference_flops(cost, []) == 2 * 17_563_828_224
    assert ff // 32 == 348_585_984
    assert inference_flops(cost, tensors) == 2 * (17_563_828_224 - 11_154_751_488 + 348_585_984)


def test_resnet50_by_hand():
    model = on_meta("resnet50")
    tensors = resolve_rules(model, [SparsityRule("layer*.conv2.weight", FF, "conv")])
    cost = forward_cost(model, images(1, 224), tensors, samples=1)
    total = 112**2 * 64 * (3 * 7 * 7) + 2048 * 1000  # stem, head
    conv2 = 0
    channels, side = 64, 56
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        out = 56 * 64 // width  # sides 56, 28, 14, 7; the 3x3 convolution of a stage's first block strides
        total += out**2 * channels * 4 * width  # the shortcut of the first block
        for _ in range(blocks):
            total += side**2 * channels * width  # 1x1
            total += out**2 * width * width * 9  # 3x3
            total += out**2 * width * 4 * width  # 1x1
            conv2 += out**2 * width * width * 9
            channels, side = 4 * width, out
    assert cost.total == total == 4_089_184_256
    assert sum(cost.tensors.values()) == conv2 == 1_849_688_064
    assert cost.tensors["layer4.0.conv2.weight"] == 7 * 7 * 512 * 512 * 9


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_compact_vit_by_hand_on_every_device(device):
    with torch.device(device):
        model = timm.create_model("vit_tiny_patch16_224", **COMPACT)
    cost = forward_cost(model, images(2, 32, device), [], samples=2)
    # 8 * 8 patches and the class token: 65 tokens of width 192; a block has 12 * 192^2 weights.
    blocks = 3 * (65 * 12 * 192 * 192 + 2 * 65 * 65 * 192)
    assert cost.total == 64 * 192 * (3 * 4 * 4) + blocks + 192 * 10 == 91_720_704
    assert cost.tensors == {}


def test_swinv2_tiny_by_hand_though_it_never_calls_its_qkv_module():
    model = on_meta("swinv2_tiny_window8_256")
    tensors = resolve_rules(model, [SparsityRule("*.attn.qkv.weight", FF, "q"), SparsityRule("*.mlp.fc?.weight", FF)])
    samples = 4
    cost = forward_cost(model, images(samples, 256), tensors, samples)
    total = 64 * 64 * 96 * (3 * 4 * 4) + 768 * 1000  # patches of 4x4, head
    qkv = ff = shared = 0
    tokens, width = 64 * 64, 96
    for stage, (blocks, heads) in enumerate(((2, 3), (2, 6), (6, 12), (2, 24))):
        if stage:
            tokens //= 4
            total += tokens * (4 * width) * (2 * width)  # four neighbours become one token
            width *= 2
        qkv += blocks * tokens * width * 3 * width
        ff += blocks * tokens * width * 8 * width
        total += blocks * tokens * (width * width + 2 * 64 * width)  # O; products within windows of 8 * 8 tokens
        # A small network turns the 15 * 15 offsets within a window into position biases, once for the whole batch.
        shared += blocks * 15 * 15 * (2 * 512 + 512 * heads)
    assert cost.total == total + qkv + ff + shared / samples
    assert cost.total == pytest.approx(5.93e9, rel=1e-3)  # 5.9 G in the authors' table
    assert sum(macs for label, macs in cost.tensors.items() if "qkv" in label) == qkv
    assert sum(macs for label, macs in cost.tensors.items() if "mlp" in label) == ff


def test_row_slices_get_their_share_of_the_rows():
    model = on_meta("vit_tiny_patch16_224", **COMPACT)
    name = "blocks.0.attn.qkv.weight"
    whole = resolve_rules(model, [SparsityRule(name, FF)])
    slices = resolve_rules(
        model, [SparsityRule(name, FF, "q", rows=(0, 192)), SparsityRule(name, FF, "v", rows=(384, 576))]
    )
    assert forward_cost(model, images(1, 32), whole, 1).tensors == {name: 65 * 192 * 576}
    cost = forward_cost(model, images(1, 32), slices, 1)
    assert cost.tensors == {f"{name}[0:192]": 65 * 192 * 192, f"{name}[384:576]": 65 * 192 * 192}
    assert inference_flops(cost, slices) == 2 * (91_720_704 - 2 * 65 * 192 * 192 * 31 // 32)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_sparsified_model_counts_like_the_stock_one(device):
    with torch.device(device):
        model = timm.create_model("vit_tiny_patch16_224", **COMPACT)
    rules = [
        SparsityRule("blocks.*.mlp.fc?.weight", FF, "ff"),
        SparsityRule("blocks.*.attn.qkv.weight", NMPattern(1, 4), "q", rows=(0, 192)),
    ]
    stock = forward_cost(model, images(1, 32, device), resolve_rules(model, rules), 1)
    tensors = sparsify_model(model, rules)
    assert forward_cost(model, images(1, 32, device), tensors, 1) == stock
    assert stock.total == 91_720_704
    assert sum(stock.tensors.values()) == 3 * 65 * (2 * 192 * 768 + 192 * 192)


def test_every_use_of_a_weight_counts():
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            return self.second(self.first(self.first(x)))

    model = Twice()
    tensors = resolve_rules(model, [SparsityRule("first.weight", NMPattern(1, 4))])
    inputs = (torch.zeros(2, 5, 8),)
    # Five rows per sample, 8 * 8 weights, three uses under two names.
    assert forward_cost(model, inputs, tensors, 2) == ForwardCost(3 * 5 * 64, {"first.weight": 3 * 5 * 64})
    sparsify_model(model, [SparsityRule("first.weight", NMPattern(1, 4))])
    assert forward_cost(model, inputs, tensors, 2) == ForwardCost(3 * 5 * 64, {"first.weight": 3 * 5 * 64})


def test_grouped_and_strided_convolutions_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2))
    tensors = resolve_rules(model, [SparsityRule("1.weight", NMPattern(1, 4))])
    # 10x10 -> 8x8 -> 4x4; each filter of the second reads 8 / 2 channels.
    cost = forward_cost(model, (torch.zeros(1, 3, 10, 10),), tensors, 1)
    assert cost == ForwardCost(8 * 8 * 8 * (3 * 9) + 4 * 4 * 16 * (4 * 9), {"1.weight": 4 * 4 * 16 * (4 * 9)})


def test_torchs_own_transformer_counts_despite_its_fast_path():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    tensors = resolve_rules(model, [SparsityRule("self_attn.in_proj_weight", NMPattern(1, 4), "q", rows=(0, 8))])
    cost = forward_cost(model, {"src": torch.zeros(3, 5, 8)}, tensors, samples=3)
    # 5 tokens of width 8: Q, K, V, O; FF 8 -> 16 -> 8; two products.
    assert cost.total == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8
    assert cost.tensors == {"self_attn.in_proj_weight[0:8]": 5 * 8 * 8}
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 4))
    model.train()
    model[1].eval()
    tensors = sparsify_model(model, [SparsityRule("4.weight", NMPattern(1, 4))])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    hooks_before = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
    inputs = (torch.randn(2, 3, 4, 4),)
    random_state = torch.get_rng_state()
    forward_cost(model, inputs, tensors, 2)
    with pytest.raises(RuntimeError, match="channels"):
        forward_cost(model, (torch.zeros(2, 5, 4, 4),), tensors, 2)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()] == hooks_before
    hooks = torch.nn.modules.module
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
    assert not parametrize._cache_enabled
    assert model[4].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.backends.mha.get_fastpath_enabled()


def test_tensors_that_are_absent_or_unused_are_named():
    model = nn.ModuleDict({"used": nn.Linear(8, 8), "spare": nn.Linear(8, 8)})
    model.forward = lambda x: model["used"](x)
    tensors = resolve_rules(model, [SparsityRule("*.weight", NMPattern(1, 4))])
    with pytest.raises(ValueError, match=r"no matmul .* used \['spare.weight'\]"):
        forward_cost(model, (torch.zeros(1, 8),), tensors, 1)
    with pytest.raises(ValueError, match=r"no weights \['other.weight'\]. Available: .*spare.weight"):
        forward_cost(model, (torch.zeros(1, 8),), [replace(tensors[0], name="other.weight")], 1)


# Training, summed over updates. A model of 100 MAC: 64 in `wide`, 20 in `narrow`, 16 elsewhere.


def tensor(name, shape, pattern):
    return SparseTensor(name, "", shape, "input", NMPattern.parse(pattern))


COST = ForwardCost(100.0, {"wide": 64.0, "narrow": 20.0})
WIDE = tensor("wide", (1, 64), "1:8")
SAMPLES = 4


def updates_macs(recipe, total=10, **options):
    """MACs per sample of a whole training in which `wide` alone is sparse at 1:8."""
    target = WIDE.pattern
    flops = training_flops(COST, [WIDE], {target: build_recipe(recipe, target, **options)}, total, SAMPLES)
    return flops / (2 * SAMPLES)


def test_dense_training_is_three_forwards_per_update():
    assert update_flops(COST, [], {}, SAMPLES) == 2 * 3 * 100 * 4
    assert training_flops(COST, [], {}, 10, SAMPLES) == 2 * 3 * 100 * 4 * 10 == 24_000
    assert updates_macs("dense") == 3000


def test_static_skips_pruned_weights_in_all_three_matmuls():
    # 36 elsewhere; 64 / 8 = 8 in the sparse tensor.
    assert updates_macs("static") == 10 * (3 * 36 + 3 * 8) == 1320


def test_straight_through_needs_the_whole_weight_gradient():
    assert updates_macs("ste") == 10 * (3 * 36 + 2 * 8 + 64) == 1880


def test_a_penalty_needs_the_whole_weight_gradient():
    assert updates_macs("sr_ste") == 1880
    assert updates_macs("sr_ste", finetune_fraction=0.5) == 1880
    masked = SparsityState(WIDE.pattern, gradient="masked")
    assert update_flops(COST, [WIDE], {WIDE.pattern: masked}, 1) == 2 * 132
    assert update_flops(COST, [WIDE], {WIDE.pattern: replace(masked, penalty=1e-4)}, 1) == 2 * 188


def test_mask_decay_is_dense_until_the_mask_is_strict():
    # Exponential D never reaches 0: 9 updates dense, 1 of fine-tuning.
    assert updates_macs("mdgf") == 9 * 300 + 132
    assert updates_macs("mdgf", gradient="straight_through") == 9 * 300 + 188
    assert updates_macs("mdgf", finetune_fraction=0.0) == 10 * 300
    # D = 1, 0.75, 0.5, 0.25, 0, 0, ...
    assert updates_macs("mdgf", decay="linear", beta=0.25) == 4 * 300 + 6 * 132
    # exp(-800 j) is 0 in floating point from j = 1.
    assert updates_macs("mdgf", beta=800.0) == 300 + 9 * 132


def test_structure_decay_costs_the_density_of_each_phase():
    # 7:8, 4:8, 2:8, 1:8 share 9 updates as 2, 2, 2, 3; one more is fine-tuning at 1:8.
    phases = 2 * 56 + 2 * 32 + 2 * 16 + 4 * 8
    assert updates_macs("sdgf") == 10 * (3 * 36 + 64) + 2 * phases == 2200
    assert updates_macs("sdgf", gradient="masked") == 10 * 3 * 36 + 3 * phases
    # With a mask that decays inside each phase only the fine-tuning is strict.
    assert updates_macs("sdgf", decay="linear") == 9 * 300 + 188


def test_geometric_phases_never_change_the_cost():
    assert updates_macs("sdgf", structure="geometric") == updates_macs("ste") == 1880
    narrow = tensor("narrow", (1, 24), "1:8")  # carries no multiple of 1:8
    recipe = build_recipe("sdgf", "1:8", structure="geometric")
    flops = training_flops(COST, [WIDE, narrow], {WIDE.pattern: recipe}, 10, 1)
    assert flops == 2 * 10 * (3 * 16 + 64 + 20 + 2 * (8 + 2.5))


def test_a_tensor_pays_for_the_pattern_that_it_can_carry():
    narrow = tensor("narrow", (5, 16), "1:8")
    recipe = build_recipe("sdgf", "1:8", structure="densify", finetune_fraction=0.0)
    # wide: 1:64, 1:32, 1:16, 1:8 of 64; narrow has only 16 inputs: 1:16, 1:16, 1:16, 1:8 of 20.
    forwards = (1 + 2 + 4 + 8) + (1.25 + 1.25 + 1.25 + 2.5)
    flops = training_flops(COST, [WIDE, narrow], {WIDE.pattern: recipe}, 4, 1)
    assert flops == 2 * (4 * (3 * 16 + 64 + 20) + 2 * forwards)


def test_dense_fraction_is_dense():
    assert updates_macs("ste", dense_fraction=0.3) == 3 * 300 + 7 * 188
    assert updates_macs("static", dense_fraction=1.0, finetune_fraction=0.0) == 10 * 300


def two_targets(total=12):
    tensors = [WIDE, tensor("narrow", (1, 32), "1:4")]
    recipes = {t.pattern: build_recipe("sdgf", t.pattern, finetune_fraction=0.0) for t in tensors}
    return tensors, recipes, total


def test_two_targets_follow_their_own_phases():
    tensors, recipes, total = two_targets()
    # 1:8: 56, 32, 16, 8 for 3 updates each; 1:4: 15, 10, 5 for 4 each; weight gradients 64 + 20; 16 elsewhere.
    forwards = 3 * (56 + 32 + 16 + 8) + 4 * (15 + 10 + 5)
    assert training_flops(COST, tensors, recipes, total, 1) == 2 * (12 * (3 * 16 + 84) + 2 * forwards) == 2 * 2496
    # Up to update 5: 56 three times, 32 twice; 15 four times, 10 once.
    assert training_flops(COST, tensors, recipes, total, 1, until=5) == 2 * (5 * 132 + 2 * (168 + 64 + 60 + 10))
    assert inference_flops(COST, tensors) == 2 * (16 + 8 + 5)
    assert inference_flops(COST, []) == 200


def test_until_counts_the_updates_done():
    tensors, recipes, total = two_targets()
    curve = TrainingCurve(COST, tensors, recipes, total, SAMPLES)
    spent = [curve.flops(update) for update in range(total + 1)]
    assert spent[0] == 0
    assert spent[-1] == training_flops(COST, tensors, recipes, total, SAMPLES)
    # The last update of each phase belongs to it: steps from one update to the next are that update's cost.
    for update in range(total):
        states = {target: recipe.at(update, total) for target, recipe in recipes.items()}
        assert spent[update + 1] - spent[update] == update_flops(COST, tensors, states, SAMPLES)
    # 1:8 begins a phase at 0, 3, 6, 9 and 1:4 at 0, 4, 8: an update costs the same within [0, 3), [3, 4), [4, 6), ...
    assert curve.starts == [0, 3, 4, 6, 8, 9]
    assert [curve.phase_flops(update)[0] for update in range(total + 1)] == [0, 0, 0, 0, 1, 2, 2, 3, 3, 4, 5, 5, 5]
    for update in range(1, total + 1):
        phase, within = curve.phase_flops(update)
        assert within == spent[update] - spent[curve.starts[phase]]
    for outside in (-1, 13):
        with pytest.raises(ValueError, match=f"update {outside} is outside the 12 planned"):
            curve.flops(outside)


def test_only_the_samples_of_an_update_matter():
    tensors, recipes, total = two_targets()
    once = training_flops(COST, tensors, recipes, total, 1)
    assert training_flops(COST, tensors, recipes, total, 4096) == 4096 * once


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dense", {}),
        ("static", {"dense_fraction": 0.21}),
        ("sr_ste", {"finetune_fraction": 0.3}),
        ("mdgf", {"dense_fraction": 0.05}),
        ("mdgf", {"decay": "linear", "beta": 0.03}),
        ("sdgf", {"dense_fraction": 0.13}),
        ("sdgf", {"structure": "geometric", "gradient": "masked"}),
        ("sdgf", {"structure": "densify", "freeze_mask": True}),
        ("sdgf", {"decay": "linear", "beta": 0.2}),
    ],
)
def test_phases_sum_to_the_sum_over_every_update(name, options):
    cost = ForwardCost(17_563_828_224.0, {"a": 464_781_312.0, "b": 464_781_313.7, "c": 38_728_704.0})
    tensors = [tensor("a", (3, 3072), "2:12"), tensor("b", (3, 96), "2:12"), tensor("c", (3, 768), "3:8")]
    recipes = {t.pattern: build_recipe(name, t.pattern, **options) for t in tensors}
    total = 97
    curve = TrainingCurve(cost, tensors, recipes, total, 256)
    spent = 0.0
    for update in range(total):
        assert curve.flops(update) == pytest.approx(spent, rel=1e-12)
        states = {target: recipe.at(update, total) for target, recipe in recipes.items()}
        spent += update_flops(cost, tensors, states, 256)
    assert curve.flops(total) == pytest.approx(spent, rel=1e-12)


def test_a_curve_reads_recipes_once():
    """It is asked at each logged update of a long training."""
    asked = SimpleNamespace(times=0)

    def at(update, total):
        asked.times += 1
        return SparsityState(WIDE.pattern if update else None)

    recipe = SimpleNamespace(at=at, phases=lambda total: [(0, at(0, total)), (1, at(1, total))], cuts=lambda total: [])
    curve = TrainingCurve(COST, [WIDE], {WIDE.pattern: recipe}, 10**9, 1)
    before = asked.times
    assert curve.flops(10**9) == 2 * (300 + (10**9 - 1) * 188)
    assert asked.times == before <= 4


def test_importing_measure_does_not_import_torch():
    check = "import sys, nmtrain.measure; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
