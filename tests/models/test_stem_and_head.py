"""What has no role whatever its name: first convolutions, classifiers, MLPs that read positions."""

import pytest
import timm
import torch

from nmtrain.config.schema import MaskConfig
from nmtrain.models import sparsity_rules
from nmtrain.models.roles import weights_by_role
from nmtrain.sparsity import NMPattern


def with_roles(name, **options):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    return model, {weight for _, weight, _ in weights_by_role(model)}


@pytest.mark.parametrize(
    ("name", "head", "last"),
    [
        ("resnetv2_50", "head.fc.weight", "stages.3.blocks.2.conv3.weight"),
        ("dpn48b", "classifier.weight", "features.conv5_3.c1x1_c1.weight"),
        ("dla34", "fc.weight", "level5.root.conv.weight"),
    ],
)
def test_a_classifier_that_is_a_convolution_is_sparse_only_when_named(name, head, last):
    model, weights = with_roles(name)
    assert model.get_parameter(head).dim() == 4
    assert head not in weights
    assert last in weights
    mask = MaskConfig(axis="input", roles=["conv"], patterns={}, names=[head], indivisible="error")
    rules = sparsity_rules(model, mask, NMPattern(1, 4))
    assert [(rule.name, rule.role) for rule in rules if rule.name == head] == [(head, "named")]


@pytest.mark.parametrize(
    ("name", "stem", "behind"),
    [
        ("resnet18", ["conv1.weight"], "layer1.0.conv1.weight"),
        ("resnet18d", ["conv1.0.weight"], "conv1.3.weight"),  # the rest of a deep stem is ordinary
        ("crossvit_9_240", ["patch_embed.0.proj.weight", "patch_embed.1.proj.weight"], None),
        ("repvgg_a0", ["stem.conv_kxk.conv.weight", "stem.conv_1x1.conv.weight"], "stages.0.0.conv_kxk.conv.weight"),
        ("pvt_v2_b0", ["patch_embed.proj.weight"], "stages.1.downsample.proj.weight"),  # so are later patch embeddings
    ],
)
def test_every_first_convolution_that_timm_lists_stays_dense(name, stem, behind):
    model, weights = with_roles(name)
    assert all(model.get_parameter(weight).shape[1] == 3 for weight in stem)
    assert not weights & set(stem)
    assert behind is None or behind in weights


@pytest.mark.parametrize(
    ("name", "position", "feature"),
    [
        ("test_vit_relpos", "blocks.0.attn.rel_pos.mlp.fc1.weight", "blocks.0.mlp.fc1.weight"),
        (
            "maxvit_rmlp_pico_rw_256",
            "stages.0.blocks.0.attn_block.attn.rel_pos.mlp.fc2.weight",
            "stages.0.blocks.0.attn_block.mlp.fc2.weight",
        ),
        ("swinv2_cr_tiny_224", "stages.0.blocks.0.attn.meta_mlp.fc1.weight", "stages.0.blocks.0.mlp.fc1.weight"),
        ("swinv2_tiny_window8_256", "layers.0.blocks.0.attn.cpb_mlp.0.weight", "layers.0.blocks.0.mlp.fc1.weight"),
    ],
)
def test_an_mlp_that_reads_positions_is_not_ff(name, position, feature):
    model, weights = with_roles(name)
    assert model.get_parameter(position).dim() == 2
    assert position not in weights
    assert feature in weights
