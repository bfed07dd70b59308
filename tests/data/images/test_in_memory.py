import pytest
import torch

from nmtrain.data.images.in_memory import ImageData
from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import DataShape

TRAIN, VAL, BATCH = 50, 17, 8


def make_data(seed: int = 0, augment: bool = True) -> ImageData:
    """Random images; the label of each is its index, so that a batch says which images are in it."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (TRAIN + VAL, 1, 16, 16), dtype=torch.uint8, generator=generator)
    return ImageData(
        name="random",
        shape=DataShape(num_classes=TRAIN, channels=1, image_size=16, train_size=TRAIN, val_size=VAL),
        class_names=[str(index) for index in range(TRAIN)],
        train=(images[:TRAIN], torch.arange(TRAIN)),
        val=(images[TRAIN:], torch.arange(VAL)),
        seed=seed,
        augment=augment,
    )


def test_batches_have_the_promised_shapes_and_types():
    inputs, targets = make_data().train_batch(0, BATCH)
    assert inputs.shape == (BATCH, 1, 16, 16)
    assert inputs.dtype == torch.float32
    assert targets.shape == (BATCH,)
    assert targets.dtype == torch.int64


def test_a_batch_does_not_depend_on_what_was_called_before():
    used, fresh = make_data(), make_data()
    for update in (0, 7, 6, 100, 7):  # 6 is the first update of the second epoch
        used.train_batch(update, BATCH)
        used.train_batch(update, 5)
        next(used.val_batches(4))
        torch.rand(3)
        for one, other in zip(used.train_batch(update, BATCH), fresh.train_batch(update, BATCH), strict=True):
            assert torch.equal(one, other)


def test_the_global_random_state_is_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make_data().train_batch(3, BATCH)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_epoch_is_its_own_permutation_of_the_training_images():
    data = make_data()
    assert data.updates_per_epoch(10) == 5
    epochs = [torch.cat([data.train_batch(5 * epoch + i, 10)[1] for i in range(5)]) for epoch in range(3)]
    for order in epochs:
        assert order.sort().values.tolist() == list(range(TRAIN))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_the_last_partial_batch_of_an_epoch_is_dropped():
    data = make_data()
    assert data.updates_per_epoch(BATCH) == 6
    first = torch.cat([data.train_batch(update, BATCH)[1] for update in range(6)])
    assert len(first.unique()) == 48
    second = torch.cat([data.train_batch(update, BATCH)[1] for update in range(6, 12)])
    assert len(second.unique()) == 48


def test_the_run_seed_decides_order_and_augmentation():
    one, other = make_data(seed=0), make_data(seed=1)
    assert not torch.equal(one.train_batch(0, BATCH)[1], other.train_batch(0, BATCH)[1])
    whole = [data.train_batch(0, TRAIN) for data in (one, other)]
    by_index = [inputs[targets.argsort()] for inputs, targets in whole]
    assert (by_index[0] - by_index[1]).abs().amax(dim=(1, 2, 3)).min() > 0.1


def test_augmentation_moves_images_by_no_more_than_its_bounds():
    data = make_data()
    data.train_images = torch.zeros_like(data.train_images)
    data.train_images[:, :, 7:9, 7:9] = 255  # a dot in the middle
    data.mean, data.std = 0.0, 1.0
    inputs, _ = data.train_batch(0, TRAIN)
    dot = inputs.squeeze(1).clamp(min=0.15)  # five standard deviations of the noise
    weight = (dot - 0.15) / (dot - 0.15).sum(dim=(1, 2), keepdim=True)
    pixel = torch.arange(16.0) - 7.5
    x, y = (weight.sum(dim=1) * pixel).sum(dim=1), (weight.sum(dim=2) * pixel).sum(dim=1)
    assert x.abs().max() < 1.4  # a sixteenth of the side, and up to 8 % of scale and rounding of the dot
    assert y.abs().max() < 1.4
    assert x.std() > 0.3
    assert y.std() > 0.3


def test_without_augmentation_images_are_only_normalized():
    data = make_data(augment=False)
    inputs, targets = data.train_batch(0, TRAIN)
    assert inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    pixels = (inputs * data.std + data.mean) * 255
    assert torch.allclose(pixels, data.train_images[targets].float(), atol=1e-3)


def test_validation_is_whole_in_order_and_not_augmented():
    data = make_data(augment=True)
    batches = list(data.val_batches(5))
    assert [len(targets) for _, targets in batches] == [5, 5, 5, 2]
    assert torch.cat([targets for _, targets in batches]).tolist() == list(range(VAL))
    pixels = (torch.cat([inputs for inputs, _ in batches]) * data.std + data.mean) * 255
    assert torch.allclose(pixels, data.val_images.float(), atol=1e-3)


def test_batches_leave_the_stored_images_as_they_are():
    data, untouched = make_data(), make_data()
    data.train_batch(0, BATCH)
    list(data.val_batches(5))
    assert torch.equal(data.train_images, untouched.train_images)
    assert torch.equal(data.val_images, untouched.val_images)


@pytest.mark.parametrize("batch_size", [0, TRAIN + 1])
def test_a_batch_size_that_cannot_be_filled_is_refused(batch_size):
    with pytest.raises(ValueError, match=rf"batch size {batch_size}: random allows 1 to 50"):
        make_data().train_batch(0, batch_size)


def test_moving_returns_the_same_data():
    data = make_data()
    assert data.to("cpu") is data
    assert data.device == torch.device("cpu")


@pytest.mark.cuda
def test_on_a_gpu_order_is_the_same_and_batches_stay_there():
    on_cpu, on_gpu = make_data(), make_data().to("cuda")
    state = torch.cuda.get_rng_state()
    inputs, targets = on_gpu.train_batch(9, BATCH)
    assert inputs.device.type == "cuda"
    assert torch.equal(targets.cpu(), on_cpu.train_batch(9, BATCH)[1])
    assert torch.equal(inputs, on_gpu.train_batch(9, BATCH)[0])
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_mixed_seeds_are_fixed_and_do_not_collide():
    assert mix_seed("augment", 0, 1) == 5808947112450563999
    seeds = {mix_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
