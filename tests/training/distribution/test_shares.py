"""Which samples are a rank's, and that each of them is what it is in the whole batch."""

import re

import pytest
import torch

from nmtrain.config.combinations import share_faults
from nmtrain.data import load_data
from nmtrain.data.images.files.transforms import Transforms
from nmtrain.training.distribution.shares import share
from nmtrain.training.mixing import mixed, mixer


def shares(train, world):
    return [share(train, rank, world).tolist() for rank in range(world)]


def test_a_rank_has_a_run_of_each_micro_batch(make_config):
    train = make_config("train.batch_size=12", "train.micro_batches=2").train
    assert shares(train, 3) == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_where_images_are_mixed_a_rank_has_those_that_are_mixed_with_each_other(make_config):
    train = make_config("train.batch_size=12", "train.mixup=0.2").train
    assert shares(train, 3) == [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]
    images, labels = torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    whole = mixed(mixer(train, 10), images.clone(), labels, seed=3)
    for rank in range(3):
        places = share(train, rank, 3)
        part = mixed(mixer(train, 10), images[places].clone(), labels[places], seed=3)
        assert all(torch.equal(own, all_[places]) for own, all_ in zip(part, whole, strict=True))


@pytest.mark.parametrize(
    ("overrides", "world", "told"),
    [
        (["train.batch_size=32"], 2, None),
        (["train.batch_size=32", "train.micro_batches=4"], 16, "of 8 samples equally; allowed: .* a multiple of 64"),
        (["train.batch_size=6", "train.mixup=0.1"], 2, "2 processes have 3 of them each"),
        (
            ["train.batch_size=8", "train.mixup=0.1", "train.mix_mode=elem"],
            2,
            "train.mix_mode=elem: draws for one image",
        ),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(overrides, world, told, make_config):
    faults = share_faults(make_config(*overrides).train, world)
    if told is None:
        assert faults == []
    else:
        (fault,) = faults
        assert re.search(told, fault)


def test_images_in_memory_are_augmented_as_in_the_whole_batch():
    data = load_data("glyphs", seed=0, train_size=200, val_size=200)
    images, labels = data.train_batch(3, 16)
    places = torch.tensor([14, 2, 7])
    part, own = data.train_batch(3, 16, places)
    assert torch.equal(part, images[places])
    assert torch.equal(own, labels[places])
    batches = list(data.val_batches(60))
    turns = [list(data.val_batches(60, first=rank, step=3)) for rank in range(3)]
    assert [len(turn) for turn in turns] == [2, 1, 1]
    for number, (expected, _) in enumerate(batches):
        assert torch.equal(turns[number % 3][number // 3][0], expected)


def test_rectangles_are_erased_as_in_the_whole_batch():
    class Options:
        image_size, channels, interpolation, crop_pct, crop_mode = 16, 3, "bilinear", 1.0, "center"
        mean, std, auto_augment, crop_scale, crop_ratio = (0.5,) * 3, (0.5,) * 3, None, (0.5, 1.0), (0.75, 1.33)
        hflip, color_jitter, erase = 0.5, None, 0.7

    transforms, images = Transforms.of(Options), torch.zeros(12, 3, 16, 16)
    whole = transforms.erased(images.clone(), 5)
    assert 3 <= whole.flatten(1).any(1).sum() < 12
    places = [11, 0, 4, 5]
    assert torch.equal(transforms.erased(images[places].clone(), 5, 12, places), whole[places])
