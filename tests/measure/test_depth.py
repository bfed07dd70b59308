from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from nmtrain.measure.depth import blocks, depth_of
from nmtrain.sparsity import NMPattern, SparsityRule, sparsify_model

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 8}


def model(name):
    with torch.device("meta"):
        if name == "t5":
            return T5ForConditionalGeneration(T5Config(num_layers=2, num_decoder_layers=1, d_model=16, vocab_size=8))
        return BertModel(BertConfig(**SMALL)) if name == "bert" else timm.create_model(name)


@pytest.mark.parametrize(
    ("name", "count", "depths"),
    [
        (
            "vit_tiny_patch16_224",
            12,
            {"blocks.0.mlp.fc1.weight": 0, "blocks.11.attn.qkv.weight": 11, "head.weight": None},
        ),
        (
            "swinv2_tiny_window8_256",
            2 + 2 + 6 + 2,
            {
                "layers.0.blocks.1.mlp.fc1.weight": 1,
                "layers.1.blocks.0.mlp.fc1.weight": 2,
                "layers.3.blocks.1.mlp.fc2.weight": 11,
                "layers.1.downsample.reduction.weight": None,
            },
        ),
        ("resnet50", 3 + 4 + 6 + 3, {"layer1.0.conv1.weight": 0, "layer2.0.conv3.weight": 3, "conv1.weight": None}),
        (
            "t5",
            3,
            {
                "encoder.block.1.layer.1.DenseReluDense.wi.weight": 1,
                "decoder.block.0.layer.0.SelfAttention.q.weight": 2,
                "shared.weight": None,
            },
        ),
        ("bert", 2, {"encoder.layer.1.output.dense.weight": 1, "embeddings.word_embeddings.weight": None}),
    ],
)
def test_blocks_are_counted_through_the_whole_model(name, count, depths):
    built = model(name)
    found = blocks(built)
    assert len(found) == count
    assert depths.keys() <= dict(built.named_parameters()).keys()
    assert {weight: depth_of(weight, found) for weight in depths} == depths


def test_a_list_of_plain_layers_has_no_blocks_and_sparsifying_it_makes_none():
    net = nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 8))
    assert blocks(net) == []
    sparsify_model(
        net, [SparsityRule("0.0.weight", NMPattern(1, 4), "ff"), SparsityRule("2.weight", NMPattern(1, 4), "ff")]
    )
    assert blocks(net) == []


def test_depth_ten_is_not_depth_one():
    assert depth_of("blocks.10.weight", [f"blocks.{i}" for i in range(12)]) == 10
