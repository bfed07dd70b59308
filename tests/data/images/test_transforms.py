import io
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from nmtrain.data.images.files.transforms import Transforms, read_image, seeded

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def transforms(**changes) -> Transforms:
    options = {"channels": 3, "image_size": 32, "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    options |= {"mean": MEAN, "std": STD, "auto_augment": None, "crop_scale": [0.08, 1.0], "crop_ratio": [0.75, 1.33]}
    options |= {"hflip": 0.5, "color_jitter": None, "erase": 0.0}
    return Transforms.of(SimpleNamespace(**options | changes))


def picture(width: int = 57, height: int = 43, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def stored(image: Image.Image, suffix: str, **options) -> dict:
    content = io.BytesIO()
    image.save(content, suffix, **options)
    return {"bytes": content.getvalue(), "path": None}


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_evaluation_is_timms_own_to_the_bit(crop_mode, mode):
    channels = len(mode) if mode == "RGB" else 1
    mean, std = MEAN[:channels], STD[:channels]
    ours = transforms(channels=channels, mean=mean, std=std, crop_mode=crop_mode)
    theirs = create_transform(
        (channels, 32, 32), interpolation="bicubic", mean=mean, std=std, crop_pct=0.9, crop_mode=crop_mode
    )
    image = picture(mode=mode)
    pixels = ours.for_evaluation()(image)
    assert pixels.dtype == torch.uint8
    assert torch.equal(ours.normalized(pixels[None])[0], theirs(image))


def test_training_without_extras_is_timms_own_to_the_bit():
    ours = transforms()
    theirs = create_transform(
        32, is_training=True, scale=(0.08, 1.0), ratio=(0.75, 1.33), color_jitter=None, interpolation="bicubic",
        mean=MEAN, std=STD,
    )  # fmt: skip
    with seeded(7):
        one = ours.normalized(ours.for_training()(picture())[None])[0]
    with seeded(7):
        other = theirs(picture())
    assert torch.equal(one, other)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["rand-m15-n2-mstd0", "rand-m9-mstd0.5-inc1", "augmix-m3-w3", "3a", "original"])
def test_policies_of_timm_augment_colour_and_grey_and_can_be_sent_to_a_process(policy, channels):
    ours = transforms(auto_augment=policy, channels=channels, mean=MEAN[:channels], std=STD[:channels])
    image = picture(mode="RGB" if channels == 3 else "L")
    transform = pickle.loads(pickle.dumps(ours.for_training()))
    for seed in range(30):
        with seeded(seed):
            assert transform(image).shape == (channels, 32, 32)


def test_the_strongest_policy_of_timm_may_leave_no_bit_of_a_colour():
    transform = transforms(auto_augment="rand-m10-n1-p1.0-inc1").for_training()  # posterize then keeps 0 bits
    image = picture()
    black = 0
    for seed in range(60):
        with seeded(seed):
            black += not transform(image).any()
    assert black


def test_color_jitter_changes_colours_beside_a_policy_too():
    still = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "hflip": 0.0, "auto_augment": "rand-m0-n1-p0.0"}
    image = picture(32, 32)
    without, jittered = (transforms(color_jitter=jitter, **still).for_training()(image) for jitter in (None, 0.9))
    assert torch.equal(without, torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert not torch.equal(jittered, without)


def test_erasing_puts_noise_on_a_rectangle_of_some_images_and_leaves_the_generators():
    images = torch.full((64, 3, 32, 32), 5.0)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    ours = transforms(erase=0.5)
    once, again = (ours.erased(images.clone(), 3) for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, ours.erased(images.clone(), 4))
    share = [(image != 5).float().mean().item() for image in once]
    assert 15 < sum(s > 0 for s in share) < 49
    assert max(share) <= 0.36
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_16_bits_is_scaled_and_not_clipped(suffix, channels):
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    read = np.asarray(read_image(stored(Image.fromarray(levels), suffix), channels)).reshape(16, 16, -1)
    assert read.shape[2] == channels
    for channel in range(channels):
        assert read[..., channel].tolist() == np.arange(256).reshape(16, 16).tolist()


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for suffix, options in (("GIF", {}), ("WEBP", {"lossless": True})):
        cell = stored(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
        assert read_image(cell, 3).getpixel((4, 4)) == (255, 0, 0), suffix


def test_cmyk_palettes_and_transparency_become_rgb_as_pil_converts_them():
    cmyk = stored(picture(mode="CMYK"), "JPEG", quality=95)
    palette = stored(picture(mode="P"), "PNG", transparency=b"\x00\x80\xff")
    alpha = picture(mode="RGBA")
    alpha.putalpha(0)
    for cell in (
        cmyk,
        palette,
        stored(alpha, "PNG"),
        stored(picture(mode="1"), "PNG"),
        stored(picture(mode="LA"), "PNG"),
    ):
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            assert read_image(cell, 3).tobytes() == image.convert("RGB").tobytes()
            assert read_image(cell, 1).mode == "L"


def test_the_orientation_that_a_camera_notes_is_not_followed_as_in_timm(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    picture(20, 10).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image({"bytes": None, "path": str(tmp_path / "turned.jpg")}, 3).size == (20, 10)


def test_a_large_image_is_an_image_and_a_bomb_is_none(monkeypatch, recwarn):
    cell = stored(picture(40, 40), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(cell, 3).size == (40, 40)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(Image.DecompressionBombError):
        read_image(cell, 3)
