"""``drop_path_rate`` and ``drop_rate`` reach every image model that the docs name, and draw by the seed alone."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from nmtrain.data import DataShape
from nmtrain.models.vision import build_vision_model

SMALL = ("vit", "vit_compact", "resnet", "swin")
BASE = ("vit_base_patch16_224", "resnet50", "swinv2_base_window8_256")


def shape(size):
    return DataShape(num_classes=5, channels=3, image_size=size, train_size=8, val_size=8)


def built(name, **options):
    torch.manual_seed(0)
    return build_vision_model(name, shape(16 if name in SMALL else 256), options).train()


@pytest.mark.parametrize("name", [*SMALL, *BASE])
def test_drop_path_is_in_the_blocks(name):
    with torch.device("meta"):
        rates = [m.drop_prob for m in built(name, drop_path_rate=0.3).modules() if isinstance(m, DropPath)]
    assert max(rates) == pytest.approx(0.3)
    assert len(set(rates)) > 1  # deeper blocks are dropped more often


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("option", ["drop_path_rate", "drop_rate"])
def test_what_is_dropped_follows_the_seed(name, option):
    model, images = built(name, **{option: 0.5}), torch.randn(32, 3, 16, 16)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)  # some branches and heads begin at zero

    def output(seed):
        torch.manual_seed(seed)
        return model(images)

    assert output(1).equal(output(1))
    assert not output(1).equal(output(2))
    model.eval()
    assert output(1).equal(output(2))


@pytest.mark.parametrize("option", ["drop_path_rate", "drop_rate", "attn_drop_rate", "drop_block_rate"])
@pytest.mark.parametrize("rate", [2, -0.1, float("nan"), "much", True])
def test_a_rate_that_is_none_is_refused_by_its_key(option, rate):
    with pytest.raises(ValueError, match=rf"^model\.options\.{option}={rate}: .* allowed: numbers from 0 to 1$"):
        built("vit", **{option: rate})
