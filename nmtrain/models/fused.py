"""Which rows of a fused attention weight are q, k and v: they lie as the class that reads them cuts them up again."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from torch import nn

Rows = tuple[int, int]  # (first, last + 1)

# Attention classes of timm, by module and name, that cut ``qkv`` into three equal parts, ``qk`` or ``kv`` into two, in
# the order of the letters. tests/models/test_fused.py holds each against the gradients of q, k and v.
_EQUAL_PARTS = {
    "timm.layers.attention.Attention",
    "timm.layers.attention.AttentionRope",
    "timm.layers.diff_attention.DiffAttention",
    "timm.models.beit.Attention",
    "timm.models.cait.TalkingHeadAttn",
    "timm.models.convit.GPSA",
    "timm.models.convit.MHSA",
    "timm.models.csatv2.SpatialTransformerBlock",
    "timm.models.davit.ChannelAttention",
    "timm.models.davit.ChannelAttentionV2",
    "timm.models.davit.WindowAttention",
    "timm.models.eva.EvaAttention",
    "timm.models.hiera.MaskUnitAttention",
    "timm.models.hieradet_sam2.MultiScaleAttention",
    "timm.models.mvitv2.MultiScaleAttention",
    "timm.models.pvt_v2.Attention",
    "timm.models.swin_transformer.WindowAttention",
    "timm.models.swin_transformer_v2.WindowAttention",
    "timm.models.swin_transformer_v2_cr.WindowMultiHeadAttention",
    "timm.models.twins.GlobalSubSampleAttn",
    "timm.models.twins.LocallyGroupedAttn",
    "timm.models.vision_transformer_relpos.RelPosAttention",
    "timm.models.vision_transformer_sam.Attention",
    "timm.models.xcit.XCA",
}


def fused_rows(attention: nn.Module, attribute: str, rows: int) -> list[tuple[str, Rows]] | None:
    """``(role, rows)`` of every slice of ``attention.<attribute>.weight``, top to bottom; None if that is not known.

    Args:
        attribute: ``qkv``, ``qk`` or ``kv``; ``in_proj`` of DeBERTa.
        rows: how many the weight has.
    """
    parts = _one_repeat(attention, attribute, rows)
    if parts is None:
        return None
    slices: list[tuple[str, Rows]] = []
    row = 0
    for role, height in cycle(parts):
        if row == rows:
            return slices
        slices.append((role, (row, row + height)))
        row += height
    return None


def _one_repeat(attention: Any, attribute: str, rows: int) -> list[tuple[str, int]] | None:
    """The roles and heights of the slices that repeat down the weight."""
    kind = f"{type(attention).__module__}.{type(attention).__qualname__}"
    if kind in _EQUAL_PARTS:
        return [(role, rows // len(attribute)) for role in attribute]
    if kind == "timm.models.gcvit.WindowAttentionGlobal":  # where all windows share the queries, qkv holds no q
        held = "kv" if attention.use_global else "qkv"
        return [(role, rows // len(held)) for role in held]
    if kind == "timm.models.maxxvit.AttentionCl":
        height = attention.dim_head if attention.head_first else rows // 3
        return [(role, height) for role in attribute]
    if kind == "transformers.models.deberta.modeling_deberta.DisentangledSelfAttention":  # head by head
        return [(role, attention.attention_head_size) for role in "qkv"]
    if kind == "timm.models.tiny_vit.Attention":  # head by head
        return [("q", attention.key_dim), ("k", attention.key_dim), ("v", attention.val_dim)]
    return None
