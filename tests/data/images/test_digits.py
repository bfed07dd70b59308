import pytest
import torch
from sklearn.datasets import load_digits

from nmtrain.data import describe_data, load_data


def pixels(images):
    return {tuple(image.flatten().tolist()) for image in images}


def test_at_their_own_size_images_and_labels_are_those_of_scikit_learn():
    data, test = (load_data("digits", seed=0, image_size=8, evaluate=split) for split in ("val", "test"))
    scans, labels = load_digits(return_X_y=True)
    expected = {(tuple(scan.astype(int)), int(label)) for scan, label in zip(scans, labels, strict=True)}
    images = torch.cat([data.train_images, data.val_images, test.val_images]).flatten(1).float() * (16 / 255)
    found = torch.cat([data.train_labels, data.val_labels, test.val_labels])
    actual = {(tuple(image), label) for image, label in zip(images.round().int().tolist(), found.tolist(), strict=True)}
    assert len(images) == 1797
    assert actual == expected


def test_split_is_fixed_and_has_every_digit_in_proportion():
    data, again = load_data("digits", seed=0), load_data("digits", seed=9)
    assert data.shape == describe_data("digits")
    assert data.train_images.shape == (1078, 1, 16, 16)
    assert data.val_images.shape == (360, 1, 16, 16)
    assert torch.equal(data.val_images, again.val_images)
    assert torch.equal(data.train_labels, again.train_labels)
    every = torch.as_tensor(load_digits().target).bincount()
    assert (data.val_labels.bincount() / every).tolist() == pytest.approx([0.2] * 10, abs=0.005)


def test_the_test_split_is_held_out_of_training_and_leaves_validation_as_it_was():
    before, data, test = (
        load_data("digits", seed=0, **options) for options in ({"test_split": False}, {}, {"evaluate": "test"})
    )
    assert before.shape.train_size == len(before.train_images) == 1437
    assert test.shape == describe_data("digits", evaluate="test")
    assert test.shape.val_size == len(test.val_images) == 359
    assert torch.equal(before.val_images, data.val_images)
    assert torch.equal(test.train_images, data.train_images)
    assert pixels(test.val_images) | pixels(data.train_images) == pixels(before.train_images)
    assert not pixels(test.val_images) & pixels(torch.cat([data.train_images, data.val_images]))
    every = torch.as_tensor(load_digits().target).bincount()
    assert (test.val_labels.bincount() / every).tolist() == pytest.approx([0.2] * 10, abs=0.005)


def test_what_was_trained_on_is_no_test_split():
    with pytest.raises(
        ValueError, match=r"^data\.evaluate: 'test' is not allowed with data\.test_split=false: those images"
    ):
        describe_data("digits", evaluate="test", test_split=False)


def test_enlarging_keeps_the_brightness():
    small, large = load_data("digits", seed=0, image_size=8), load_data("digits", seed=0, image_size=32)
    assert large.train_images.shape == (1078, 1, 32, 32)
    assert large.train_images.dtype == torch.uint8
    assert large.mean == pytest.approx(small.mean, rel=0.005)
    assert large.train_images.amax() == 255
