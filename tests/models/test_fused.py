"""Rows of q, k and v in fused weights, held against the gradients of what timm's own code calls q, k and v."""

import sys
from contextlib import contextmanager

import pytest
import timm
import torch
from torch import nn

from nmtrain.config.schema import MaskConfig
from nmtrain.data import DataShape
from nmtrain.models import sparsity_rules
from nmtrain.models.fused import _EQUAL_PARTS, fused_rows
from nmtrain.models.roles import unknown_fused, weights_by_role
from nmtrain.models.vision import build_vision_model
from nmtrain.sparsity import NMPattern, resolve_rules

# A small model of every class whose layout is known: image size and what makes it small.
CASES = {
    "test_vit": (160, {}),
    "vit_dlittle_patch16_reg1_gap_256": (64, {"img_size": 64, "depth": 1}),
    "vit_tiny_patch16_dinov3_qkvb": (64, {"img_size": 64, "depth": 1}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56, "depth": 1}),  # q, k and v are weights of their own
    "eva02_enormous_patch14_clip_224": (56, {"img_size": 56, "depth": 1, "embed_dim": 64, "num_heads": 2}),
    "qwen3_vit_88m": (64, {"depth": 1, "embed_dim": 64, "num_heads": 2}),
    "beit_base_patch16_224": (64, {"img_size": 64, "depth": 1, "embed_dim": 64, "num_heads": 2}),
    "cait_xxs24_224": (64, {"img_size": 64, "depth": 1, "depth_token_only": 1}),
    "convit_tiny": (64, {"img_size": 64, "depth": 2, "local_up_to_layer": 1}),
    "csatv2": (128, {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "transformer_depths": (0, 0, 1, 1)}),
    "davit_tiny": (64, {"depths": (1,), "embed_dims": (32,), "num_heads": (2,)}),
    "davit_base_fl": (64, {"depths": (1,), "embed_dims": (32,), "num_heads": (2,)}),
    "gcvit_xxtiny": (224, {}),
    "hiera_tiny_224": (224, {"embed_dim": 16, "stages": (1, 1, 1, 1)}),
    "sam2_hiera_tiny": (224, {"embed_dim": 16}),
    "maxvit_pico_rw_256": (256, {"embed_dim": (32, 32, 32, 32), "depths": (1, 1, 1, 1)}),
    "test_maxvit": (160, {}),
    "mvitv2_tiny": (224, {}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "pvt_v2_b2_li": (224, {"depths": (1, 1, 1, 1), "embed_dims": (32, 32, 32, 32), "num_heads": (2, 2, 2, 2)}),
    "swin_tiny_patch4_window7_224": (56, {"img_size": 56, "embed_dim": 32, "depths": (2,), "num_heads": (2,)}),
    "swinv2_tiny_window8_256": (64, {"img_size": 64, "embed_dim": 32, "depths": (2,), "num_heads": (2,)}),
    "swinv2_cr_tiny_224": (56, {"img_size": 56, "embed_dim": 32, "depths": (2,), "num_heads": (2,)}),
    "tiny_vit_5m_224": (224, {"embed_dims": (16, 32, 32, 64), "num_heads": (2, 4, 2, 2), "depths": (1, 1, 1, 1)}),
    "twins_svt_small": (64, {"embed_dims": (32, 32, 32, 32), "num_heads": (2, 2, 2, 2), "depths": (2, 1, 1, 1)}),
    "test_vit_relpos": (160, {}),
    "samvit_base_patch16_224": (64, {"img_size": 64, "embed_dim": 64, "depth": 1, "num_heads": 2, "neck_chans": 8}),
    "xcit_nano_12_p16_224": (64, {"depth": 1}),
}
NAMES = {"q": ("q", "query"), "k": ("k", "key"), "v": ("v", "value")}  # timm's own words


@contextmanager
def local_variables(attentions):
    """What each attention module's methods called q, k and v when they returned: {(module id, role): tensor}."""
    found = {}

    def on_return(frame, event, result):
        owner = frame.f_locals.get("self") if event == "return" else None
        if id(owner) in attentions:
            for role, names in NAMES.items():
                for name in names:
                    if isinstance(value := frame.f_locals.get(name), torch.Tensor):
                        found[id(owner), role] = value

    sys.setprofile(on_return)
    try:
        yield found
    finally:
        sys.setprofile(None)


def rows_with_a_gradient(tensor, weight):
    """The rows of ``weight`` that ``tensor`` was made with."""
    (gradient,) = torch.autograd.grad((tensor * torch.randn_like(tensor)).sum(), weight, retain_graph=True)
    return set(gradient.flatten(1).any(1).nonzero().flatten().tolist())


@pytest.mark.parametrize("name", CASES)
def test_the_rows_of_a_role_are_those_that_its_gradient_reaches(name):
    torch.manual_seed(0)
    size, options = CASES[name]
    model = timm.create_model(name, num_classes=4, **options).eval()
    for parameter in model.parameters():  # some begin at zero, and let no gradient through
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    slices = {}
    for role, weight, rows in weights_by_role(model):
        if role in ("q", "k", "v"):
            first, last = rows or (0, len(model.get_parameter(weight)))
            slices.setdefault((weight.removesuffix(".weight").rpartition(".")[0], role), []).append(
                (weight, first, last)
            )
    attentions = {id(model.get_submodule(attention)) for attention, _ in slices}
    assert attentions
    assert unknown_fused(model) == []
    with local_variables(attentions) as found:
        model(torch.randn(1, 3, size, size))
    for (attention, role), parts in slices.items():
        (weight,) = {weight for weight, _, _ in parts}
        listed = {row for _, first, last in parts for row in range(first, last)}
        tensor = found[id(model.get_submodule(attention)), role]
        assert listed == rows_with_a_gradient(tensor, model.get_parameter(weight)), (attention, role)


def test_every_known_layout_is_tried():
    tried = set()
    for name, (_, options) in CASES.items():
        with torch.device("meta"):
            model = timm.create_model(name, **options)
        for _, weight, rows in weights_by_role(model):
            if rows is not None:
                attention = type(model.get_submodule(weight.removesuffix(".weight").rpartition(".")[0]))
                tried.add(f"{attention.__module__}.{attention.__qualname__}")
    special = {"gcvit.WindowAttentionGlobal", "maxxvit.AttentionCl", "tiny_vit.Attention"}
    assert tried == _EQUAL_PARTS | {f"timm.models.{name}" for name in special}


def test_tiny_vit_goes_head_by_head():
    with torch.device("meta"):
        model = timm.create_model("tiny_vit_5m_224")
    name = "stages.1.blocks.0.attn.qkv.weight"  # 4 heads, each of 32 rows of q, then of k, then of v
    rows = {role: [r for part, n, r in weights_by_role(model) if (part, n) == (role, name)] for role in "qkv"}
    assert rows["q"] == [(0, 32), (96, 128), (192, 224), (288, 320)]
    assert rows["k"] == [(32, 64), (128, 160), (224, 256), (320, 352)]
    assert rows["v"] == [(64, 96), (160, 192), (256, 288), (352, 384)]


def test_global_blocks_of_gcvit_hold_no_q():
    with torch.device("meta"):
        model = timm.create_model("gcvit_xxtiny")
    found = [(role, rows) for role, name, rows in weights_by_role(model) if name == "stages.0.blocks.1.attn.qkv.weight"]
    assert found == [("k", (0, 64)), ("v", (64, 128))]


class OddAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)


def odd_model():
    model = build_vision_model("vit", DataShape(10, 1, 16, 100, 10), {})
    model.blocks[1].attn = OddAttention()
    return model


def mask(*roles):
    return MaskConfig(axis="input", roles=list(roles), patterns={}, names=[], indivisible="error")


def test_an_unknown_layout_is_refused_for_q_k_and_v_alone():
    model = odd_model()
    with pytest.raises(
        ValueError, match=r"^mask\.roles=\[ff,k\]: the fused weight blocks\.1\.attn\.qkv\.weight \(OddAtt"
    ):
        sparsity_rules(model, mask("ff", "k"), NMPattern(1, 4))
    assert len(resolve_rules(model, sparsity_rules(model, mask("ff", "o"), NMPattern(1, 4)))) == 2 * 3 + 2
    assert fused_rows(model.blocks[1].attn, "qkv", 24) is None
