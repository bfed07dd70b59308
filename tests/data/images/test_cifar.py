"""Tiny trees in the forms that CIFAR has: torchvision's files, their archive, the hub's Parquet."""

import io
import json
import pickle
import tarfile
from dataclasses import replace
from hashlib import md5

import datasets
import numpy
import pytest
import torch
import torchvision
from PIL import Image

from nmtrain.data import describe_data, load_data
from nmtrain.data.images import in_memory
from nmtrain.data.images.cifar import names, read, source
from nmtrain.data.images.cifar.published import CIFAR10, CIFAR100
from nmtrain.errors import DataError

SIZES = (200, 50)


def drawn(classes: int) -> dict[str, tuple[numpy.ndarray, list[int]]]:
    """Images of each split, ``[N, 3, 32, 32]``, and their labels."""
    draws = numpy.random.default_rng(0)
    return {
        split: (draws.integers(256, size=(size, 3, 32, 32), dtype=numpy.uint8), [i % classes for i in range(size)])
        for split, size in zip(("train", "test"), SIZES, strict=True)
    }


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request):
    return request.param


@pytest.fixture
def published(name, monkeypatch):
    """What is published, as far as `drawn` is: the MD5s are those of files that are not yet written."""
    kind = {"cifar10": source.Cifar10, "cifar100": source.Cifar100}[name]
    images = drawn(len(kind.class_names))
    files = {}
    for split, batches in kind.published.batches.items():
        pixels, labels = images[split]
        for part, batch in enumerate(batches):
            some = slice(part, None, len(batches))
            content = {"data": pixels[some].reshape(-1, 3072), kind.published.labels: labels[some]}
            files[batch] = pickle.dumps(content, protocol=2)
    digests = {
        split: {batch: md5(files[batch]).hexdigest() for batch in batches}
        for split, batches in kind.published.batches.items()
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for batch in reversed(files):
            member = tarfile.TarInfo(f"{kind.published.folder}/{batch}")
            member.size = len(files[batch])
            tar.addfile(member, io.BytesIO(files[batch]))
    archive_name = kind.published.archive[0]
    fake = replace(
        kind.published, sizes=SIZES, batches=digests, archive=(archive_name, md5(archive.getvalue()).hexdigest())
    )
    monkeypatch.setattr(kind, "published", fake)
    return fake, files, archive.getvalue(), images


@pytest.fixture
def places(published, tmp_path, monkeypatch):
    """The same data in every form, by its name; the cache is a folder of the test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    kind, files, archive, images = published
    batches = tmp_path / "my data" / kind.folder
    batches.mkdir(parents=True)
    for batch, content in files.items():
        (batches / batch).write_bytes(content)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / kind.archive[0]).write_bytes(archive)
    (downloads / "renamed.tgz").write_bytes(archive)
    tables = {"hub": tmp_path / "hub" / kind.subset, "flat": tmp_path / "flat", "saved": tmp_path / "saved"}
    for split, (pixels, labels) in images.items():
        column = "image" if split == "flat" else "img"
        encoded = [{"bytes": png(image), "path": None} for image in pixels]
        rows = {column: encoded, kind.label_column: labels, "coarse_label": labels}
        plain = datasets.Dataset.from_dict(rows)
        typed = plain.cast_column(column, datasets.Image())
        typed.to_parquet(tables["hub"] / f"{split}-00000-of-00001.parquet")
        plain.to_parquet(tables["flat"] / f"{split}.parquet")
        typed.save_to_disk(tables["saved"] / split)
    return {
        "batches": str(batches),
        "parent": f"~/{batches.parent.relative_to(tmp_path)}/",
        "archive": str(downloads / "renamed.tgz"),
        "folder of the archive": str(downloads),
        "hub": str(tables["hub"].parent),
        "subset": str(tables["hub"]),
        "flat": str(tables["flat"]),
        "saved": str(tables["saved"]),
    }


def png(image: numpy.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def rows(images, labels):
    return {(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


def test_files_are_told_by_the_digests_of_torchvision():
    for ours, theirs in (
        (CIFAR10, torchvision.datasets.CIFAR10),
        (CIFAR100, torchvision.datasets.CIFAR100),
    ):
        assert list(map(list, ours.batches["train"].items())) == theirs.train_list
        assert list(map(list, ours.batches["test"].items())) == theirs.test_list
        assert ours.archive == (theirs.filename, theirs.tgz_md5)
        assert (ours.folder, ours.address) == (theirs.base_folder, theirs.url)
    assert (len(set(names.CIFAR10)), len(set(names.CIFAR100))) == (10, 100)
    assert sorted(names.CIFAR100) == list(names.CIFAR100)


def test_the_same_images_come_in_the_same_order_from_every_form(name, places, published):
    images = published[3]
    found = {}
    for form, path in places.items():
        for evaluate in ("val", "test"):
            data = load_data(name, seed=0, path=path, evaluate=evaluate)
            assert data.shape == describe_data(name, path=path, evaluate=evaluate)
            assert data.shape.train_size == len(data.train_images) == 180, form
            assert data.shape.val_size == len(data.val_images) == {"val": 20, "test": 50}[evaluate]
            found[form, evaluate] = data
    assert len({data.digest() for (_, evaluate), data in found.items() if evaluate == "val"}) == 1
    assert len({data.digest() for (_, evaluate), data in found.items() if evaluate == "test"}) == 1
    val, test = found["batches", "val"], found["batches", "test"]
    train = rows(val.train_images, val.train_labels)
    held_out = rows(val.val_images, val.val_labels)
    published_rows = {
        split: {(image.tobytes(), label) for image, label in zip(*content, strict=True)}
        for split, content in images.items()
    }
    assert train | held_out == published_rows["train"]
    assert not train & held_out
    assert rows(test.val_images, test.val_labels) == published_rows["test"]
    assert torch.equal(test.train_images, val.train_images)
    assert val.class_names == list(getattr(names, name.upper()))
    if name == "cifar10":
        assert val.val_labels.bincount().tolist() == [2] * 10


def test_nothing_held_out_trains_on_all_and_is_scored_on_test_alone(name, places):
    path = places["batches"]
    data = load_data(name, seed=0, path=path, hold_out=False, evaluate="test")
    assert data.shape == describe_data(name, path=path, hold_out=False, evaluate="test")
    assert (len(data.train_images), len(data.val_images)) == SIZES
    message = (
        "data.evaluate: 'val' is not allowed with data.hold_out=false: those images are among the training's;"
        " allowed: test"
    )
    with pytest.raises(ValueError, match=message):
        describe_data(name, path=path, hold_out=False)


class Executed:
    """A pickle that leaves a file when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("form", ["batches", "archive"])
def test_a_strangers_pickle_is_refused_and_not_executed(name, places, published, form, tmp_path):
    kind, files, _, _ = published
    first = next(iter(kind.batches["train"]))
    stranger = pickle.dumps(Executed(tmp_path / "executed"))
    if form == "batches":
        (tmp_path / "my data" / kind.folder / first).write_bytes(stranger)
    else:
        with tarfile.open(places["archive"], "w:gz") as tar:
            for batch, content in (files | {first: stranger}).items():
                member = tarfile.TarInfo(f"{kind.folder}/{batch}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    with pytest.raises(
        DataError, match=rf"^data\.path: {first} in .* is not the file that was published .*may run code"
    ):
        load_data(name, seed=0, path=places[form])
    assert not (tmp_path / "executed").exists()
    pickle.loads(stranger)
    assert (tmp_path / "executed").exists()  # it would have been


def test_what_is_no_copy_is_named_with_what_was_looked_for(name, places, published, tmp_path):
    kind = published[0]
    first = next(iter(kind.batches["train"]))

    def refusal(path, **options):
        with pytest.raises(ValueError, match=r"^data\.path=") as refused:
            describe_data(name, path=str(path), **options)
        return str(refused.value)

    missing = "there is no such file or folder; data.download=true puts it there"
    assert refusal(tmp_path / "nowhere") == f"data.path={tmp_path / 'nowhere'}: {missing}"
    assert refusal(tmp_path / "cache").endswith(missing)
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == (
        f"data.path={tmp_path / 'empty'}: holds no {name}; allowed: {kind.folder}, {kind.archive[0]}, a folder with one"
        " of them, or one with the hub's train-*.parquet and test-*.parquet; data.download=true puts it there"
    )
    (tmp_path / "my data" / kind.folder / first).unlink()
    assert f"of {name}, and lacks {first}" in refusal(places["batches"])
    assert f"of {name}, and lacks {first}" in refusal(places["parent"], download=True)
    (tmp_path / "text.tar.gz").write_text("no archive")
    assert f"is no archive such as {kind.archive[0]}" in refusal(tmp_path / "text.tar.gz")
    (tmp_path / "empty" / kind.archive[0]).write_bytes(b"")
    assert f"is no archive such as {kind.archive[0]}" in refusal(tmp_path / "empty")


def test_a_half_downloaded_archive_is_named(name, places, published, tmp_path):
    half = tmp_path / "half.tar.gz"
    half.write_bytes(published[2][: len(published[2]) // 2])
    with pytest.raises(DataError, match=r"^data\.path: .*half\.tar\.gz is not whole \(.*\); copy or download it anew$"):
        load_data(name, seed=0, path=str(half))


def test_the_hub_gives_the_same_as_a_local_copy(name, places, published, monkeypatch):
    asked = []

    def load_from_hub(repository, subset, what, cache_dir):
        asked.append((repository, subset, what, cache_dir))
        return {split: datasets.load_from_disk(f"{places['saved']}/{split}") for split in ("train", "test")}

    monkeypatch.setattr(read, "load_from_hub", load_from_hub)
    for evaluate in ("val", "test"):
        local = load_data(name, seed=0, path=places["archive"], evaluate=evaluate)
        assert load_data(name, seed=0, evaluate=evaluate).digest() == local.digest()
    subset = {"cifar10": "plain_text", "cifar100": "cifar100"}[name]
    assert set(asked) == {(f"uoft-cs/{name}", subset, f"data={name}", None)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": -1}, r"example 3 has the label -1; allowed: 0 to "),
        ({"label": 100}, r"example 3 has the label 100; allowed: 0 to "),
        ({"img": {"bytes": b"GIF", "path": None}}, r"example 3 is no image: "),
        ({"img": {"bytes": png(numpy.zeros((3, 8, 32), numpy.uint8)), "path": None}}, r"has 32x8 pixels, not 32x32$"),
    ],
)
def test_a_damaged_example_of_a_table_is_named(name, published, change, message, tmp_path):
    kind, _, _, images = published
    for split, (pixels, labels) in images.items():
        content = {"img": [{"bytes": png(image), "path": None} for image in pixels], kind.label_column: list(labels)}
        if split == "train":
            for column, value in change.items():
                content[kind.label_column if column == "label" else column][3] = value
        datasets.Dataset.from_dict(content).to_parquet(tmp_path / "table" / f"{split}.parquet")
    with pytest.raises(DataError, match=rf"^data={name} \(train\): .*{message}"):
        load_data(name, seed=0, path=str(tmp_path / "table"), cache_dir=str(tmp_path / "cache"))


def test_the_archive_is_downloaded_whole_or_not_at_all(name, published, tmp_path, monkeypatch):
    kind, _, archive, _ = published
    asked = []

    def download_url(address, root, filename, md5):
        asked.append(address)
        (tmp_path / root / filename).write_bytes(archive)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    monkeypatch.setattr(read, "outcome_in_time", lambda ask: "")
    there = load_data(name, seed=0, path=str(tmp_path / "new" / "folder"), download=True)
    kept = load_data(name, seed=0, download=True)
    again = load_data(name, seed=0)
    assert asked == [kind.address] * 2
    assert there.digest() == kept.digest() == again.digest()
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [kind.archive[0]]
    assert [path.name for path in (tmp_path / "cache" / "nmtrain").iterdir()] == [kind.archive[0]]


def test_without_a_network_a_download_says_so_at_once(name, published, tmp_path, monkeypatch):
    fake = replace(published[0], archive=("none.tar.gz", "0"))
    monkeypatch.setattr("nmtrain.data.images.cifar.published._SITE", "http://127.0.0.1:9/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr({"cifar10": source.Cifar10, "cifar100": source.Cifar100}[name], "published", fake)
    with pytest.raises(
        DataError, match=r"^data\.download=true: http://127\.0\.0\.1:9/none\.tar\.gz cannot be reached \("
    ):
        load_data(name, seed=0, path=str(tmp_path / "new"), download=True)
    assert not (tmp_path / "new").exists()


def test_crops_and_flips_move_pixels_by_at_most_four_and_change_none():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 32, 32)
    moved = in_memory.cropped_and_flipped(images, generator)
    padded = torch.nn.functional.pad(images, [4] * 4)
    seen = set()
    for image, original in zip(moved, padded, strict=True):
        crops = original.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4)  # by rows and columns left out
        places = [
            (down, right, flipped)
            for flipped in (False, True)
            for down, right in (crops == (image.flip(2) if flipped else image)).all((2, 3, 4)).nonzero().tolist()
        ]
        assert len(places) == 1
        seen.update(places)
    assert {down for down, _, _ in seen} == {right for _, right, _ in seen} == set(range(9))
    assert 16 < sum(flipped for _, _, flipped in seen) < 48


def test_a_run_of_the_papers_compact_vit_is_trained_and_scored_on_test(places, name, nm, tmp_path):
    line = [f"data={name}", f"data.path={places['parent']}", "model=vit_compact", "model.options.depth=1"]
    line += [
        "sparsity=1:16",
        "recipe=sr_ste",
        "train.updates=3",
        "train.batch_size=20",
        "train.mixup=0.2",
        "measure=off",
    ]
    status, _, err = nm(*line, f"results_dir={tmp_path}/runs")
    assert status == 0, err
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("vit_compact"))
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["metrics"]) == {"val/loss", "val/accuracy", "val/top5"}
    status, _, err = nm("eval", str(folder), "data.evaluate=test", f"data.path={places['folder of the archive']}")
    assert (status, err) == (0, "")
    status, _, err = nm("eval", str(folder), "data.evaluate=test", "data.hold_out=false")
    assert status == 2
    assert "data.hold_out=false: was true in training" in err
