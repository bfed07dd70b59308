"""One small member of every family in timm: planned, or refused with a sentence."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

from nmtrain.config.check import check_config
from nmtrain.config.compose import compose_values
from nmtrain.data import DataShape
from nmtrain.errors import ConfigError
from nmtrain.models import build_model
from nmtrain.models.roles import unknown_fused, weights_by_role
from nmtrain.training.plan import make_plan, shape_faults

# The member to plan where it is not the family's first, and what makes it smaller still.
MEMBERS = {
    "beit": ("beitv2_base_patch16_224", {}),
    "byoanet": ("botnet26t_256", {}),
    "byobnet": ("test_byobnet", {}),
    "cait": ("cait_xxs24_224", {"depth": 1}),
    "coat": ("coat_lite_tiny", {}),
    "convit": ("convit_tiny", {"depth": 2, "local_up_to_layer": 1}),
    "convmixer": ("convmixer_1024_20_ks9_p14", {}),
    "convnext": ("test_convnext3", {}),
    "cpubone": ("cpubone_nano", {}),
    "crossvit": ("crossvit_9_240", {}),
    "csatv2": ("csatv2", {"depths": (1, 1, 1, 1), "transformer_depths": (0, 0, 1, 1)}),
    "cspnet": ("darknet17", {}),
    "cspnext": ("cspnext_tiny", {}),
    "davit": ("davit_tiny", {"depths": (1, 1, 1, 1)}),
    "deepseek_vit": ("deepseek_vit_412m", {"depth": 1}),
    "deit": ("deit_tiny_patch16_224", {"depth": 1}),
    "densenet": ("densenet121", {"block_config": (1, 1, 1, 1)}),
    "dpn": ("dpn48b", {}),
    "edgenext": ("edgenext_xx_small", {}),
    "efficientformer_v2": ("efficientformerv2_s0", {}),
    "efficientnet": ("test_efficientnet", {}),
    "efficientvit_msra": ("efficientvit_m2", {}),
    "eva": ("eva02_tiny_patch14_224", {"depth": 1}),
    "fasternet": ("fasternet_t0", {}),
    "fastvit": ("fastvit_t8", {}),
    "focalnet": ("focalnet_tiny_srf", {}),
    "gcvit": ("gcvit_xxtiny", {}),
    "gemma4_vit": ("gemma4_vit_167m", {}),
    "hgnet": ("hgnet_tiny", {}),
    "hiera": ("hiera_tiny_224", {}),
    "hieradet_sam2": ("sam2_hiera_tiny", {}),
    "hrnet": ("hrnet_w18_small", {}),
    "iformer": ("iformer_t", {}),
    "inception_next": ("inception_next_atto", {}),
    "lcnetv2": ("lcnetv2_small", {}),
    "levit": ("levit_128s", {}),
    "lowformer": ("lowformer_e1", {}),
    "mambaout": ("test_mambaout", {}),
    "maxxvit": ("test_coatnet", {}),
    "metaformer": ("poolformer_s12", {}),
    "mlp_mixer": ("resmlp_12_224", {}),
    "mobilenetv3": ("lcnet_035", {}),
    "mobilenetv5": ("mobilenetv5_base", {}),
    "mobilevit": ("mobilevit_xxs", {}),
    "mvitv2": ("mvitv2_tiny", {}),
    "naflexvit": ("naflexvit_base_patch16_gap", {"depth": 1}),
    "nest": ("nest_tiny", {}),
    "nextvit": ("nextvit_small", {}),
    "nfnet": ("test_nfnet", {}),
    "pit": ("pit_ti_224", {}),
    "pvt_v2": ("pvt_v2_b0", {}),
    "rdnet": ("rdnet_tiny", {}),
    "regnet": ("regnetx_002", {}),
    "repvit": ("repvit_m1_1", {}),
    "res2net": ("res2net50_48w_2s", {}),
    "resnest": ("resnest14d", {}),
    "resnet": ("resnet10t", {}),
    "resnetv2": ("resnetv2_18", {}),
    "senet": ("legacy_seresnet18", {}),
    "sequencer": ("sequencer2d_s", {"layers": (1, 1, 1, 1)}),
    "shvit": ("shvit_s1", {}),
    "starnet": ("starnet_s050", {}),
    "swiftformer": ("swiftformer_xs", {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", {"depths": (1, 1, 1, 1)}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", {"depths": (1, 1, 1, 1)}),
    "tiny_vit": ("tiny_vit_5m_224", {"depths": (1, 1, 1, 1)}),
    "tnt": ("tnt_s_legacy_patch16_224", {"depth": 1}),
    "tresnet": ("tresnet_m", {"layers": (1, 1, 1, 1)}),
    "twins": ("twins_svt_small", {"depths": (1, 1, 1, 1)}),
    "vgg": ("vgg11", {}),
    "visformer": ("visformer_tiny", {}),
    "vision_transformer": ("test_vit", {}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", {"depth": 1}),
    "vision_transformer_relpos": ("test_vit_relpos", {}),
    "vision_transformer_sam": ("samvit_base_patch16_224", {"depth": 1}),
    "vitamin": ("vitamin_small_224", {"depth": 1}),
    "volo": ("volo_d1_224", {}),
    "vovnet": ("ese_vovnet19b_slim", {}),
    "xception_aligned": ("xception41p", {}),
    "xcit": ("xcit_nano_12_p8_224", {"depth": 1}),
}
IMAGE_SIZES = {"sequencer": 56}  # its recurrent layers take a step for each patch
REFUSED = {
    "gemma4_vit": r"^mask\.roles=\[ff\]: the model has no ff\. Available: \[\]$",  # its names are of another kind
    "nfnet": r"^mask\.roles=\[conv\]: no matmul or convolution reads .* ScaledStdConv2d",
}


def planned(family, monkeypatch):
    """The plan of a sparse run, on images of the model's own size, with every role that it has."""
    name, options = MEMBERS.get(family) or (timm.list_models(module=family)[0], {})
    size = IMAGE_SIZES.get(family) or get_pretrained_cfg(name).input_size[1]
    config = check_config(
        compose_values(["recipe=ste", "sparsity=1:2", "train.batch_size=4", "mask.indivisible=skip", "measure=off"])
    )
    shape = DataShape(10, 3, size, train_size=1000, val_size=10)
    config = replace(config, data_shape=shape, model=config.model.model_copy(update={"name": name, "options": options}))
    with torch.device("meta"):
        model = build_model(config.model, shape)
    monkeypatch.setattr("nmtrain.training.on_meta.build_model", lambda *_, **__: model)  # once is enough
    monkeypatch.setattr("nmtrain.training.plan.training_memory", lambda *_: ({}, 0))
    assert unknown_fused(model) == []
    roles = list(dict.fromkeys(role for role, _, _ in weights_by_role(model)))
    return make_plan(replace(config, mask=config.mask.model_copy(update={"roles": roles or ["ff"]})))


@pytest.mark.slow
@pytest.mark.parametrize("family", timm.list_modules())
def test_a_small_member_of_every_family_is_planned_or_refused_with_a_sentence(family, monkeypatch):
    if family in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[family]):
            planned(family, monkeypatch)
        return
    plan = planned(family, monkeypatch)
    assert plan.tensors
    assert 0 < plan.flops["inference"] < plan.flops["inference_dense"]
    assert 0 < plan.flops["training"] < plan.flops["training_dense"]
    samples = plan.config.total_updates * 4
    assert plan.flops["training_dense"] < 3 * samples * plan.flops["inference_dense"]  # images need no gradient


@pytest.mark.parametrize(
    ("mask", "weights"),
    [
        (["mask.roles=[conv]"], "mask.roles=[conv]: no matmul or convolution reads stem.conv2.weight (nor 23 more)"),
        (
            ["mask.roles=[]", "mask.names=[stages.0.0.conv1.weight]"],
            "mask.names=[stages.0.0.conv1.weight]: no matmul or convolution reads stages.0.0.conv1.weight",
        ),
    ],
)
def test_standardised_convolutions_are_refused_wherever_a_run_is_checked(mask, weights):
    """What multiplies is another weight, made from the one that would be pruned: its zeros are none."""
    overrides = ["model.name=test_nfnet", "mask.indivisible=skip", *mask]
    config = check_config(compose_values([*overrides, "recipe=ste", "sparsity=1:2"]))
    with pytest.raises(ConfigError) as refused:
        make_plan(config)
    reason = "ScaledStdConv2d looks up its rows or makes another weight of it, for which N:M would not hold"
    assert refused.value.faults == [f"{weights} as it is: {reason}"]
    assert shape_faults([config]) == refused.value.faults
    dense = make_plan(check_config(compose_values([*overrides, "recipe=dense"])))
    assert dense.flops["training"] > 0


def test_embeddings_that_are_only_looked_up_are_refused():
    overrides = ["model=bert", "recipe=ste", "sparsity=1:2", "mask.names=[bert.embeddings.word_embeddings.weight]"]
    with pytest.raises(ConfigError, match=r"^mask\.names=\[bert\.embeddings\.word_embeddings\.weight\]: no matmul"):
        make_plan(check_config(compose_values(overrides)))
