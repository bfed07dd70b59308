"""Image files on their way to a GPU: pinned, copied beside other work, the same for any number of workers."""

import numpy as np
import pytest
import torch
from PIL import Image

from nmtrain.data import load_data
from nmtrain.errors import TrainingError

pytestmark = pytest.mark.cuda

DEVICE = "cuda"


@pytest.fixture
def photos(tmp_path):
    """A folder of small JPEGs of two classes, one of which is damaged."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ape", "bear"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(8):
                pixels = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.jpg")
    (tmp_path / "photos" / "train" / "ape" / "3.jpg").write_bytes(b"\xff\xd8 no image")
    return tmp_path / "photos"


@pytest.fixture
def load(photos):
    held = []

    def make(device, **options):
        given = {"image_size": 16, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.2], "interpolation": "bilinear"}
        given |= {"crop_pct": 1.0, "crop_mode": "center", "auto_augment": "rand-m9-mstd0.5", "evaluate": "val"}
        data = load_data("folder", seed=0, path=str(photos), **given | options).to(device)
        held.append(data)
        return data

    yield make
    for data in held:
        data.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_a_cpu(load, workers):
    here, there = load("cpu", workers=0, erase=0.5), load(DEVICE, workers=workers, erase=0.5)
    for update in (0, 1, 2, 1, 5):  # in order, and not
        images, labels = there.train_batch(update, 4)
        expected, classes = here.train_batch(update, 4)
        assert images.device.type == labels.device.type == DEVICE
        assert labels.cpu().equal(classes)
        torch.testing.assert_close(images.cpu(), expected)
        assert images.equal(there.train_batch(update, 4)[0])
    assert there.damaged.keys() == here.damaged.keys()
    for (images, labels), (expected, classes) in zip(there.val_batches(5), here.val_batches(5), strict=True):
        torch.testing.assert_close(images.cpu(), expected)
        assert labels.cpu().equal(classes)


def test_a_batch_waits_for_nothing_once_workers_run(load):
    data = load(DEVICE, workers=2)
    data.train_batch(0, 4)
    queued = torch.randn(4096, 4096, device=DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for update in range(1, 4):
            queued = queued @ queued
            images, labels = data.train_batch(update, 4)
            assert images.shape == (4, 3, 16, 16)
            assert labels.shape == (4,)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_worker_that_dies_ends_the_run_with_a_plain_message(load):
    data = load(DEVICE, workers=1, prefetch=1)
    data.train_batch(0, 4)
    for worker in data._train_ahead._iterator._workers:
        worker.kill()
    with pytest.raises(TrainingError, match="a process that reads images ended"):
        [data.train_batch(update, 4) for update in range(1, 30)]
