"""Which weights decay: the same of a dense model and of its sparse twin, whatever a parametrization calls them."""

import copy
import warnings

import pytest
import timm
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from nmtrain.config.schema import AdamWConfig
from nmtrain.sparsity import NMPattern, SparsityRule, sparsify_model
from nmtrain.sparsity.rules import stock_name
from nmtrain.training.optim import build_optimizer, take_step

CONFIG = AdamWConfig(
    name="adamw",
    lr=1.0,
    schedule="cosine",
    weight_decay=0.1,
    betas=[0.9, 0.99],
    eps=1e-8,
    warmup_fraction=0.2,
    final_lr=0.0,
    clip_norm=None,
)


def t5(tied):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 32}
    return T5ForConditionalGeneration(T5Config(**sizes, tie_word_embeddings=tied))


def bert():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=32))


MODELS = {
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", depth=1),
    "eva": lambda: timm.create_model("eva02_tiny_patch14_224", depth=1),
    "swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1), num_heads=(1, 2)),
    "swinv2": lambda: timm.create_model("swinv2_tiny_window8_256", depths=(1, 1), num_heads=(1, 2)),
    "xcit": lambda: timm.create_model("xcit_nano_12_p16_224", depth=1),
    "tiny_vit": lambda: timm.create_model("tiny_vit_5m_224"),
    "maxvit": lambda: timm.create_model("maxvit_rmlp_pico_rw_256"),
    "beit": lambda: timm.create_model("beit_base_patch16_224", depth=1, use_shared_rel_pos_bias=True),
    "convnext": lambda: timm.create_model("convnext_atto"),
    "resnet": lambda: timm.create_model("resnet18"),
    "t5": lambda: t5(tied=True),
    "t5_v1_1": lambda: t5(tied=False),
    "bert": bert,
}


def groups(model):
    names = {id(parameter): stock_name(name) for name, parameter in model.named_parameters()}
    return [
        (group["weight_decay"], {names[id(parameter)] for parameter in group["params"]})
        for group in build_optimizer(model, CONFIG).param_groups
    ]


@pytest.mark.parametrize("name", MODELS)
def test_a_sparse_model_has_the_groups_of_its_dense_twin(name):
    with torch.device("meta"):
        model = MODELS[name]()
    dense = groups(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights whose axis is odd
        sparsify_model(model, [SparsityRule("*", NMPattern(1, 2), indivisible="skip")])
    assert groups(model) == dense
    assert dense[0][1]
    assert dense[1][1]


def test_a_sparse_embedding_does_not_decay():
    for model, name in ((t5(tied=True), "shared.weight"), (bert(), "bert.embeddings.word_embeddings.weight")):
        sparsify_model(model, [SparsityRule(name, NMPattern(1, 4))])
        (_, decayed), (rate, spared) = groups(model)
        assert (name in decayed, name in spared, rate) == (False, True, 0.0)


def test_lists_of_timm_may_hold_wildcards():
    with torch.device("meta"):
        model = timm.create_model("xcit_nano_12_p16_224", depth=1)
    assert "pos_embed.*" in model.no_weight_decay()
    assert "pos_embed.token_projection.weight" in groups(model)[1][1]


def test_a_held_second_moment_keeps_its_correction_and_the_first_one_goes_on():
    """Three steps by hand: two of Adam, then one whose v_hat is that of the second."""
    weight, free = nn.Parameter(torch.tensor([[1.0]])), nn.Parameter(torch.tensor([[1.0]]))
    twin = nn.Parameter(torch.tensor([[1.0]]))
    settings = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.5}
    optimizer = torch.optim.AdamW([weight, free], **settings)
    plain = torch.optim.AdamW([twin], **settings)
    for gradient in (2.0, 1.0):
        weight.grad, free.grad, twin.grad = (torch.tensor([[gradient]]) for _ in range(3))
        take_step(optimizer, {})
        plain.step()
    assert weight.equal(free)
    assert weight.equal(twin)
    before = weight.item()
    weight.grad, free.grad, twin.grad = (torch.tensor([[3.0]]) for _ in range(3))
    take_step(optimizer, {weight: []})
    plain.step()
    assert free.equal(twin)  # what is not held goes on as ever
    m = 0.9 * (0.9 * 0.2 + 0.1) + 0.1 * 3.0
    v = (0.99 * 0.04 + 0.01) / (1 - 0.99**2)
    expected = before * (1 - 0.1 * 0.5) - 0.1 * (m / (1 - 0.9**3)) / (v**0.5 + 1e-8)
    assert weight.item() == pytest.approx(expected, rel=1e-6)
    assert weight.grad.item() == 3.0  # the meters still see it
    saved = copy.deepcopy(optimizer.state_dict())
    again = torch.optim.AdamW([nn.Parameter(weight.detach().clone()), nn.Parameter(free.detach().clone())], **settings)
    again.load_state_dict(saved)
    (loaded, _) = again.param_groups[0]["params"]
    weight.grad = loaded.grad = torch.tensor([[1.0]])
    take_step(optimizer, {weight: []})
    take_step(again, {loaded: []})
    assert loaded.equal(weight)


def test_rows_that_go_on_are_adams_own():
    weight, twin = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizer, plain = (torch.optim.AdamW([one], lr=0.1, weight_decay=0.5) for one in (weight, twin))
    for number, gradient in enumerate((2.0, 1.0, 3.0, 0.5)):
        weight.grad, twin.grad = torch.full((3, 2), gradient), torch.full((3, 2), gradient)
        take_step(optimizer, {weight: [slice(0, 1), slice(2, 3)]} if number > 1 else {})
        plain.step()
    assert weight[::2].tolist() == [pytest.approx(row) for row in twin[::2].tolist()]
    moment, expected = (one.state[own]["exp_avg_sq"] for one, own in ((optimizer, weight), (plain, twin)))
    assert moment[::2].tolist() == [pytest.approx(row) for row in expected[::2].tolist()]
    held = 0.999 * 0.004 + 0.001  # of the first two gradients
    assert moment[1].tolist() == pytest.approx([held, held])
    assert weight[1, 0].item() != pytest.approx(twin[1, 0].item())


def test_a_held_weight_whose_layer_was_skipped_stays_as_it_is():
    weight, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight, other], lr=0.1)
    weight.grad, other.grad = torch.ones(1), torch.ones(1)
    take_step(optimizer, {})
    before, moment = weight.item(), optimizer.state[weight]["exp_avg"].item()
    weight.grad, other.grad = None, torch.ones(1)
    take_step(optimizer, {weight: [], other: []})
    assert (weight.item(), optimizer.state[weight]["exp_avg"].item()) == (before, moment)
    assert optimizer.state[weight]["step"] == 1
    assert weight.grad is None
    assert other.item() < before


def test_momentum_begins_with_a_weights_first_gradient_whenever_that_is():
    """Two gradients of 1 with momentum 1/2: a step of 1, then one of 1.5; the late weight has the first of them."""
    early, late = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([early, late], lr=1.0, momentum=0.5, fused=True)
    for late_gradient in (None, torch.ones(1)):
        early.grad, late.grad = torch.ones(1), late_gradient
        take_step(optimizer, {})
    assert (early.item(), late.item()) == (-2.5, -1.0)
