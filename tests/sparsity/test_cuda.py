"""On a GPU: masks are those of a CPU to the bit, recipes do the same, and an update waits for nothing."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from nmtrain.recipes import build_recipe
from nmtrain.sparsity import (
    NMPattern,
    SparsityRule,
    nm_mask,
    nm_sparsify,
    remove_sparsity,
    sparsify_model,
    sparsity_control,
    verify_sparsity,
)
from nmtrain.sparsity import mask as mask_module
from nmtrain.sparsity.mask import write_masks
from nmtrain.training.optim import take_step

pytestmark = pytest.mark.cuda

DEVICE = "cuda"
PATTERNS = ["1:2", "2:4", "3:4", "1:8", "4:8", "7:8", "1:16", "5:16", "1:32", "2:32", "16:32", "31:32", "1:64", "16:64"]
PATTERNS += ["1:128", "16:128", "32:32"]
SHAPES = {"linear": (256, 128), "convolution": (128, 128, 3, 3), "pointwise": (128, 256, 1, 1)}
TARGET = NMPattern(1, 4)


def weight_of(kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    if kind == "ties":
        return weight.round()
    if kind == "zeros":
        return weight * (torch.rand(shape, generator=generator) < 0.02)
    return weight


@contextmanager
def waits_refused():
    """Inside, what makes the host wait for the GPU raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["random", "ties", "zeros"])
def test_masks_are_those_of_a_cpu(kind, dtype):
    for name, shape in SHAPES.items():
        weight = weight_of(kind, shape).to(dtype)
        there = weight.to(DEVICE)
        for pattern in PATTERNS:
            for axis in ("input", "output"):
                assert nm_mask(there, pattern, axis).cpu().equal(nm_mask(weight, pattern, axis)), (name, pattern, axis)


@pytest.mark.parametrize("axis", ["input", "output"])
def test_masks_of_other_memory_layouts_are_the_same(axis):
    matrix, filters = weight_of("ties", SHAPES["linear"]), weight_of("ties", SHAPES["convolution"])
    for weight in (
        matrix.t(),
        matrix[64:192],
        matrix[:, ::2],
        filters.contiguous(memory_format=torch.channels_last),
    ):
        for pattern in ("1:32", "2:4", "16:64"):
            assert nm_mask(weight.to(DEVICE), pattern, axis).cpu().equal(nm_mask(weight.contiguous(), pattern, axis))


@pytest.mark.parametrize("pattern", ["1:32", "16:32", "16:64"])
@pytest.mark.parametrize("axis", ["input", "output"])
def test_small_weights_that_are_ranked_together_get_the_masks_of_each(pattern, axis):
    weights = [weight_of("ties", shape).to(DEVICE) for shape in [(128, 128), (256, 64), (64, 64, 3, 3), (1024, 512)]]
    masks = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
    with waits_refused():
        write_masks(list(zip(masks, weights, strict=True)), NMPattern.parse(pattern), axis)
    assert all(mask.cpu().equal(nm_mask(w.cpu(), pattern, axis)) for mask, w in zip(masks, weights, strict=True))


@pytest.mark.parametrize("pattern", ["1:32", "16:32", "31:32", "2:4", "4:8", "8:64", "3:128"])
def test_large_models_are_ranked_by_a_kernel_to_the_same_bits(pattern, monkeypatch):
    monkeypatch.setattr(mask_module, "_COMPILED", 0)
    for rows in (256, 384):  # two sizes
        weights = [weight_of(kind, (rows, 128)).to(DEVICE) for kind in ("ties", "random", "zeros")]
        masks = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
        with waits_refused():
            write_masks(list(zip(masks, weights, strict=True)), NMPattern.parse(pattern), "input")
        assert all(mask.cpu().equal(nm_mask(w.cpu(), pattern)) for mask, w in zip(masks, weights, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gradient", ["straight_through", "masked", 0.0, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_forward_and_backward_are_those_of_a_cpu(dtype, gradient, decay):
    def passed(device, penalty):
        weight = weight_of("random", (64, 128)).to(dtype).to(device).requires_grad_()
        output = nm_sparsify(weight, "2:8", "input", decay, gradient, penalty)
        output.backward(weight_of("ties", (64, 128)).to(dtype).to(device))
        return output.detach().cpu(), weight.grad.cpu()

    for here, there in zip(passed("cpu", 0.0), passed(DEVICE, 0.0), strict=True):
        assert there.equal(here)
        assert there.signbit().logical_and(there == 0).sum() == here.signbit().logical_and(here == 0).sum()
    torch.testing.assert_close(passed(DEVICE, 2e-4)[1], passed("cpu", 2e-4)[1])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.fc = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.fc(q * k + v)


RULES = [SparsityRule("*.fc.weight", TARGET), SparsityRule("*.qkv.weight", TARGET, rows=(0, 32))]
RECIPES = {
    **{name: {} for name in ("dense", "static", "ste", "sr_ste", "gmp", "asp", "step", "feather", "maxq")},
    "mdgf": {"tighten": True, "contenders": 2.0, "decay_end": 0.1},
    "sdgf": {"structure": "stepwise"},
    "s_ste": {"dense_fraction": 0.2},
    "rigl": {"every": 3},
    "top_kast": {"every": 5},
    "ac_dc": {"rounds": 2},
}
WAITS = ("rigl", "step")  # for how many entries are exchanged, and for a bias correction


def trained(recipe, device, total=30, strictly=False):
    """Losses, masks and weights of a training in float64, in which rounding of other kernels flips no mask."""
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block()).double()
    inputs = torch.randn(8, 16, dtype=torch.float64)
    model, inputs = model.to(device), inputs.to(device)
    sparsify_model(model, RULES)
    control, losses = sparsity_control(model), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    def update(number):
        control.update({TARGET: recipe.at(number, total)})
        loss = model(inputs).square().mean()
        loss.backward()
        control.add_penalty()
        control.exchange(optimizer)
        take_step(optimizer, control.with_held_variance())
        optimizer.zero_grad()
        return loss.detach()

    for number in range(total):
        if strictly and number:
            with waits_refused():
                losses.append(update(number))
        else:
            losses.append(update(number))
    control.update({TARGET: recipe.at(total, total)})
    masks = [mask.cpu().clone() for _, _, mask, _ in control.sparse_tensors()]
    remove_sparsity(model)
    if recipe.name != "dense":
        verify_sparsity(model, RULES)
    return torch.stack(losses).cpu(), masks, [parameter.detach().cpu() for parameter in model.parameters()]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_does_on_a_gpu_what_it_does_on_a_cpu_and_waits_for_nothing(name):
    recipe = build_recipe(name, TARGET, **RECIPES[name])
    here = trained(recipe, "cpu")
    there = trained(recipe, DEVICE, strictly=name not in WAITS)
    torch.testing.assert_close(there[0], here[0])
    assert all(one.equal(other) for one, other in zip(there[1], here[1], strict=True))
    torch.testing.assert_close(there[2], here[2])
