import pytest
import torch
from sklearn.datasets import load_digits

from nmtrain.data import describe_data, load_data


def test_at_their_own_size_images_and_labels_are_those_of_scikit_learn():
    data = load_data("digits", seed=0, image_size=8)
    scans, labels = load_digits(return_X_y=True)
    expected = {(tuple(scan.astype(int)), int(label)) for scan, label in zip(scans, labels, strict=True)}
    images = torch.cat([data.train_images, data.val_images]).flatten(1).float() * (16 / 255)
    found = torch.cat([data.train_labels, data.val_labels])
    actual = {(tuple(image), label) for image, label in zip(images.round().int().tolist(), found.tolist(), strict=True)}
    assert len(images) == 1797
    assert actual == expected


def test_split_is_fixed_and_has_every_digit_in_proportion():
    data, again = load_data("digits", seed=0), load_data("digits", seed=9)
    assert data.shape == describe_data("digits")
    assert data.train_images.shape == (1437, 1, 16, 16)
    assert data.val_images.shape == (360, 1, 16, 16)
    assert torch.equal(data.val_images, again.val_images)
    assert torch.equal(data.train_labels, again.train_labels)
    share = data.val_labels.bincount() / (data.val_labels.bincount() + data.train_labels.bincount())
    assert share.tolist() == pytest.approx([0.2] * 10, abs=0.005)


def test_enlarging_keeps_the_brightness():
    small, large = load_data("digits", seed=0, image_size=8), load_data("digits", seed=0, image_size=32)
    assert large.train_images.shape == (1437, 1, 32, 32)
    assert large.train_images.dtype == torch.uint8
    assert large.mean == pytest.approx(small.mean, rel=0.005)
    assert large.train_images.amax() == 255
