import unicodedata
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from safetensors import safe_open

from nmtrain.data import describe_data, load_data
from nmtrain.data.cache import checksum
from nmtrain.data.images.glyph_drawing import FACES, draw_images, draw_templates
from nmtrain.data.images.glyphs import CHARACTERS, Glyphs
from nmtrain.data.seeds import mix_seed

SMALL = {"classes": 10, "train_size": 505, "val_size": 50}
# Digits, Latin, Greek, Cyrillic, Georgian, Armenian, Latin with phonetic letters, currency signs.
BLOCKS = [(0x30, 0x39), (0x41, 0x7A), (0x370, 0x3FF), (0x400, 0x52F), (0x10A0, 0x10FF), (0x530, 0x58F)]
BLOCKS += [(0x21, 0x2AF), (0x20A0, 0x20BF)]


@pytest.fixture(scope="module")
def templates():
    return draw_templates(CHARACTERS[:10])


@pytest.fixture
def load(tmp_path):
    return lambda **options: load_data("glyphs", **({"seed": 0, "cache_dir": str(tmp_path)} | SMALL | options))


def same_images(one, other) -> bool:
    return torch.equal(one.train_images, other.train_images) and torch.equal(one.val_images, other.val_images)


def test_characters_are_those_the_rule_picks():
    folder = Path(get_data_path()) / "fonts" / "ttf"
    drawn_by_all = set.intersection(*[set(FT2Font(folder / f"{face}.ttf").get_charmap()) for face in FACES])
    candidates = "".join(
        dict.fromkeys(
            chr(code)
            for first, last in BLOCKS
            for code in range(first, last + 1)
            if code in drawn_by_all
            and unicodedata.category(chr(code)) in ("Nd", "Lu", "Ll", "Lo", "Sc")
            and not unicodedata.decomposition(chr(code))
        )
    )
    at_16_pixels = F.normalize(F.avg_pool2d(draw_templates(candidates).float(), 4).flatten(2), dim=-1)
    similarity = torch.einsum("ifp,jfp->fij", at_16_pixels, at_16_pixels).amax(dim=0)

    assert len(CHARACTERS) == 320
    chosen = [candidates.index(character) for character in CHARACTERS]
    assert chosen == sorted(set(chosen))
    for index in range(1, len(candidates)):
        nearest_earlier = similarity[index, [other for other in chosen if other < index]].max()
        # A little tolerance, because versions of Pillow differ in a few grey levels.
        if index in chosen:
            assert nearest_earlier < 0.946, candidates[index]
        else:
            assert nearest_earlier > 0.942, candidates[index]


def test_every_template_is_centred_and_of_equal_size(templates):
    assert templates.shape == (10, 12, 64, 64)
    assert templates.dtype == torch.uint8
    inked = templates > 0
    rows, columns = inked.any(dim=3).sum(dim=2), inked.any(dim=2).sum(dim=2)
    longer = torch.maximum(rows, columns)
    assert longer.min() >= 51
    assert longer.max() == 52
    assert not inked[:, :, :6].any()
    assert not inked[:, :, :, :6].any()


def test_same_seed_draws_the_same_bits_and_another_seed_others(load):
    first, again = load(cache_dir="/dev/null/none"), load(cache_dir="/dev/null/none")
    assert same_images(first, again)
    other = load(generation_seed=1)
    assert (first.train_images.float() - other.train_images.float()).abs().mean() > 20


def test_the_run_seed_changes_no_image(load):
    assert same_images(load(cache_dir="/dev/null/none", seed=0), load(cache_dir="/dev/null/none", seed=1))


def test_train_and_validation_images_differ(load):
    data = load()
    assert (data.train_images[:50].float() - data.val_images.float()).abs().flatten(1).mean(dim=1).min() > 10


def test_the_test_images_are_drawn_only_where_wanted_and_leave_the_others_as_they_are(load, tmp_path):
    data = load(test_size=30)
    files = set(tmp_path.iterdir())
    assert len(files) == 1
    test = load(test_size=30, evaluate="test")
    drawn = set(tmp_path.iterdir()) - files
    assert [path.name.rpartition("-")[0] for path in drawn] == ["glyphs-test"]
    assert torch.equal(test.train_images, data.train_images)
    assert (test.mean, test.std) == (data.mean, data.std)
    assert test.shape == describe_data("glyphs", **SMALL, test_size=30, evaluate="test")
    assert len(test.val_images) == len(test.val_labels) == 30
    assert test.val_labels.bincount().tolist() == [3] * 10
    known = {tuple(image.flatten().tolist()) for image in torch.cat([data.train_images, data.val_images])}
    assert not known & {tuple(image.flatten().tolist()) for image in test.val_images}
    more = load(train_size=60, val_size=20, test_size=30, evaluate="test")
    assert torch.equal(more.val_images, test.val_images)
    assert len(list(tmp_path.iterdir())) == 3
    larger = load(test_size=50, evaluate="test").val_images
    assert len(larger) == 50
    assert torch.equal(larger[:30], test.val_images)
    other = load(test_size=30, generation_seed=1, evaluate="test")
    assert not torch.equal(other.val_images, test.val_images)


def test_train_and_validation_images_are_those_of_before_there_was_a_test_split(load, tmp_path):
    load(cache_dir=str(tmp_path))
    (file,) = tmp_path.iterdir()
    content = Glyphs(**SMALL)._draw({"train": 505, "val": 50})
    assert checksum(content) == safe_open(file, framework="pt").metadata()["checksum"]
    assert checksum(draw_of_before(505, 50)) == checksum(content)


def draw_of_before(train_size, val_size):
    templates = draw_templates(CHARACTERS[:10])
    tensors = {}
    for split, count in (("train", train_size), ("val", val_size)):
        images, labels = draw_images(templates, count, 16, 0.1, mix_seed("glyphs", split, 0))
        tensors |= {f"{split}_images": images, f"{split}_labels": labels}
    return tensors


def test_cached_data_equals_fresh_data(load):
    fresh, cached = load(), load()
    assert same_images(fresh, cached)
    assert torch.equal(fresh.train_labels, cached.train_labels)
    assert same_images(fresh, load(cache_dir="/dev/null/none"))


@pytest.mark.parametrize("change", [{"classes": 9}, {"noise": 0.2}, {"generation_seed": 1}, {"image_size": 20}])
def test_options_that_change_the_images_miss_the_cache(load, tmp_path, change):
    load()
    load(**change)
    assert len(list(tmp_path.iterdir())) == 2


def test_options_that_change_no_image_share_the_cache(load, tmp_path):
    load()
    load(seed=3, augment=False)
    assert len(list(tmp_path.iterdir())) == 1


def test_changed_drawing_code_misses_the_cache(load, tmp_path, monkeypatch):
    before = load()
    monkeypatch.setattr("nmtrain.data.images.glyph_drawing._ROTATION", 0.2)
    after = load()
    assert len(list(tmp_path.iterdir())) == 2
    assert not same_images(before, after)


def test_classes_are_equally_frequent_within_one(load):
    data = load(classes=7, train_size=500, val_size=51)
    for labels, size in ((data.train_labels, 500), (data.val_labels, 51)):
        counts = labels.bincount(minlength=7)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1


def test_a_larger_set_begins_with_the_smaller_one(templates):
    few, few_labels = draw_images(templates, 40, image_size=16, noise=0.1, seed=3)
    many, many_labels = draw_images(templates, 1010, image_size=16, noise=0.1, seed=3)
    assert torch.equal(few, many[:40])
    assert torch.equal(few_labels, many_labels[:40])


def test_every_image_is_distorted_in_its_own_way(templates):
    images, _ = draw_images(templates[:1, :1], 1010, image_size=16, noise=0.0, seed=3)
    assert len(images.flatten(1).unique(dim=0)) == 1010


@pytest.mark.parametrize("image_size", [16, 20, 24, 28, 32])
def test_loaded_data_has_the_described_shape(load, image_size):
    data = load(image_size=image_size)
    assert data.shape == describe_data("glyphs", image_size=image_size, **SMALL)
    assert data.train_images.shape == (505, 1, image_size, image_size)
    assert data.val_images.shape == (50, 1, image_size, image_size)
    assert data.train_images.dtype == torch.uint8
    assert data.class_names == list("0123456789")
    assert data.train_labels.max() == 9


def test_images_show_the_character_of_their_label(templates):
    images, labels = draw_images(templates, 1200, image_size=16, noise=0.0, seed=0)
    shapes = F.normalize(_centred(F.avg_pool2d(templates.float().mean(dim=1, keepdim=True), 4)), dim=1)
    nearest = (_centred(images.float()) @ shapes.T).argmax(dim=1)
    assert (nearest == labels).float().mean() > 0.7  # chance is 0.1


def test_missing_fonts_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="lacks DejaVuSans, DejaVuSans-Bold"):
        draw_templates("a")


def test_defaults_are_valid():
    assert Glyphs().faults() == []


def _centred(images):
    return images.flatten(1) - images.flatten(1).mean(dim=1, keepdim=True)
