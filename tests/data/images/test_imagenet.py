import io
import shutil
import tarfile
from pathlib import Path

import datasets
import pytest
from PIL import Image

from nmtrain.data import describe_data, local_digests
from nmtrain.data.images.files import imagenet
from nmtrain.data.images.files.imagenet import ImageNet
from nmtrain.errors import DataError

WNIDS = ["n01440764", "n01443537", "n01484850"]
TRAIN, VAL = [0, 1, 2, 1, 0], [2, 0, 1]


@pytest.fixture
def source(tmp_path):
    def make(path, **options) -> ImageNet:
        return ImageNet(path=str(path), image_size=32, cache_dir=str(tmp_path / "cache, [1]"), **options)

    return make


def shape(path, **options) -> tuple[int, int, int]:
    found = describe_data("imagenet", path=str(path), image_size=32, **options)
    return found.num_classes, found.train_size, found.val_size


def fault(path, **options) -> str:
    with pytest.raises(ValueError, match=r"^data\.") as raised:
        describe_data("imagenet", path=str(path), image_size=32, **options)
    return str(raised.value)


def labels(dataset) -> list[int]:
    """Of a dataset as the contract says, whose images are as they were written: red is the label."""
    assert dataset.column_names == ["image", "label"]
    assert dataset.features["image"] == datasets.Image(decode=False)
    for row in dataset:
        content = row["image"]["bytes"]
        image = Image.open(io.BytesIO(content) if content is not None else row["image"]["path"])
        assert abs(image.getpixel((0, 0))[0] - row["label"]) <= 2
    return list(dataset["label"])


def saved_labels(path, source, **options) -> list[list[int]]:
    return [labels(dataset) for dataset in source(path, **options).datasets()]


@pytest.mark.parametrize("place", ["", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/"])
def test_class_folders_as_unpacked(grow, place):
    images = [f"train/{wnid}/{wnid}_{n}.JPEG" for wnid in WNIDS for n in range(3)]
    images += [f"val/{wnid}/ILSVRC2012_val_0000000{n}.JPEG" for n, wnid in enumerate(WNIDS)]
    root = grow(*[place + name for name in images], place + "test/ILSVRC2012_test_00000001.JPEG")
    assert shape(root) == (3, 9, 3)
    train, val = ImageNet(path=str(root)).datasets()
    assert train.features["label"].names == WNIDS
    assert list(train["label"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(val["label"]) == [0, 1, 2]
    assert "test has no class folders; the published test set of ImageNet has no labels" in fault(root, evaluate="test")


def test_validation_images_in_one_folder_take_their_classes_from_the_list_of_the_challenge(grow):
    place = "ILSVRC/Data/CLS-LOC/"
    images = [f"{place}train/{wnid}/1.JPEG" for wnid in WNIDS]
    root = grow(*images, *[f"{place}val/ILSVRC2012_val_0000000{n}.JPEG" for n in (1, 2, 3)])
    missing = fault(root)
    assert missing.startswith(f"data.path={root}: {root}/{place}val has no class folders; sort its images as in train")
    assert "LOC_val_solution.csv" in missing
    rows = [f"ILSVRC2012_val_0000000{n},{WNIDS[-n]} 85 1 499 272" for n in (3, 2, 1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    for path in (root, root / "ILSVRC", root / place):
        assert shape(path) == (3, 3, 3)
        _, val = ImageNet(path=str(path)).datasets()
        assert list(val["label"]) == [2, 1, 0]
        assert [Path(row["image"]["path"]).name[-6:] for row in val] == ["1.JPEG", "2.JPEG", "3.JPEG"]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n")
    assert f"{root}/LOC_val_solution.csv does not give" in fault(root)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("names", [None, WNIDS])
@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([f"data/train-0000{n}-of-00002.parquet" for n in (0, 1)], "data/validation-00000-of-00001.parquet"),
        (["train-00000-of-00001.parquet"], "val-00000-of-00001.parquet"),
        (["train/0.parquet", "train/1.parquet"], "valid/0.parquet"),
        (["train.parquet"], "validation.parquet"),
    ],
)
def test_parquet(tmp_path, shard, source, train, val, names, statistics):
    root = tmp_path / "my [data], ü"
    parts = [TRAIN] if len(train) == 1 else [TRAIN[:3], TRAIN[3:]]
    for name, part in zip(train, parts, strict=True):
        shard(root / name, part, names, statistics=statistics)
    shard(root / val, VAL, names, statistics=statistics)
    assert shape(root) == (3, 5, 3)
    assert saved_labels(root, source) == [TRAIN, VAL]
    assert source(root).datasets()[1].features["label"].names == (names or ["0", "1", "2"])
    assert Path(source(root).datasets()[0].cache_files[0]["filename"]).is_relative_to(tmp_path / "cache, [1]")


@pytest.mark.parametrize("label_in", ["cls", "json"])
@pytest.mark.parametrize("suffixes", [("jpg",), ("JPEG",), ("png", "jpeg")])
@pytest.mark.parametrize("named", ["train-{}.tar", "imagenet1k-train-000{}.tar", "train/{}.tar"])
def test_tar(tmp_path, shard, source, suffixes, label_in, named):
    for number, part in enumerate([TRAIN[:3], TRAIN[3:]]):
        shard(tmp_path / "tar" / named.format(number), part, suffixes=suffixes, label_in=label_in)
    shard(tmp_path / "tar" / named.format(0).replace("train", "validation"), VAL, suffixes=suffixes, label_in=label_in)
    assert shape(tmp_path / "tar") == (3, 5, 3)
    train, val = saved_labels(tmp_path / "tar", source)
    assert sorted(train) == sorted(TRAIN)
    if len(suffixes) == 1:  # else those of one suffix come after those of the other
        assert (train, val) == (TRAIN, VAL)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("val", ["validation", "val"])
def test_a_folder_of_save_to_disk(tmp_path, shard, source, named, val):
    for split, part in (("train", TRAIN), (val, VAL)):
        shard(tmp_path / f"{split}.parquet", part, WNIDS if named else None)
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", val)}
    whole = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "c"))
    whole["train"] = whole["train"].add_column("extra", list("abcde")).select([4, 0, 1, 2, 3]).with_format("numpy")
    whole.save_to_disk(str(tmp_path / "saved"))
    assert shape(tmp_path / "saved") == (3, 5, 3)
    train, found = source(tmp_path / "saved").datasets()
    assert (labels(train), labels(found)) == ([0, 0, 1, 2, 1], VAL)
    assert Path(train.cache_files[0]["filename"]).is_relative_to(tmp_path / "saved")  # memory-mapped where it lies
    assert train.features["label"].names == (WNIDS if named else ["0", "1", "2"])


def test_a_split_for_test_counts_where_it_has_labels(tmp_path, shard, source):
    shard(tmp_path / "train.parquet", TRAIN)
    shard(tmp_path / "val.parquet", VAL)
    assert "has no test split; the published test set of ImageNet has no labels" in fault(tmp_path, evaluate="test")
    shard(tmp_path / "test-00000-of-00002.parquet", [2])
    assert shape(tmp_path) == (3, 5, 3)  # to validate takes none of it
    assert fault(tmp_path, evaluate="test").endswith("1 of 2 shards; test-00001-of-00002.parquet is missing")
    (tmp_path / "test-00000-of-00002.parquet").unlink()
    shard(tmp_path / "test.parquet", [-1, -1])
    assert fault(tmp_path, evaluate="test") == (
        f"data.path: {tmp_path}/test.parquet has the label -1, as hidden ones are; allowed: 0, 1, ..."
    )
    shard(tmp_path / "test.parquet", [2, 1, 0, 0])
    assert shape(tmp_path, evaluate="test") == (3, 5, 4)


@pytest.mark.parametrize("suffix", ["parquet", "tar"])
def test_labels_out_of_range_are_refused_with_the_file(tmp_path, shard, suffix):
    shard(tmp_path / f"train.{suffix}", TRAIN)
    val = shard(tmp_path / f"val.{suffix}", [0, 7])
    assert fault(tmp_path) == f"data.path: {val} has the label 7, where there are 3 classes; allowed: 0 to 2"
    shard(val, [0, -3])
    assert fault(tmp_path) == f"data.path: {val} has the label -3, as hidden ones are; allowed: 0, 1, ..."
    shard(val, VAL)
    shard(tmp_path / f"train.{suffix}", [1, 2, 3])
    assert fault(tmp_path) == f"data.path: the labels of {tmp_path} begin with 1; allowed: 0, 1, ..."
    train = shard(tmp_path / f"train.{suffix}", [0, 10**12])
    told = "has the label 1000000000000, where the classes have no names; allowed: 0 to 99999"
    assert fault(tmp_path) == f"data.path: {train} {told}"
    shard(tmp_path / f"train.{suffix}", [0, 0])
    shard(val, [0])
    assert "has one class only, 0; allowed: two or more" in fault(tmp_path)


def test_names_of_classes_are_compared(tmp_path, shard):
    shard(tmp_path / "train.parquet", TRAIN, WNIDS)
    shard(tmp_path / "val.parquet", VAL, WNIDS[::-1])
    assert "val has the classes of train in another order; allowed: the same in both" in fault(tmp_path)
    shard(tmp_path / "val.parquet", VAL, [*WNIDS[:2], "owl"])
    assert [line.partition(": ")[2] for line in fault(tmp_path).splitlines()] == [
        "n01484850 is a class of train and not of val; allowed: the same classes in both",
        "owl is a class of val and not of train; allowed: the same classes in both",
    ]
    shard(tmp_path / "val.parquet", [3], [*WNIDS, "owl"])
    shard(tmp_path / "train.parquet", [3], WNIDS)
    assert "has the label 3, where there are 3 classes" in fault(tmp_path)


def test_shards_that_are_missing_or_cut_off_are_named(tmp_path, shard):
    for number in (0, 2):
        shard(tmp_path / f"data/train-0000{number}-of-00003.parquet", TRAIN)
    val = shard(tmp_path / "data/validation-00000-of-00001.parquet", VAL)
    assert fault(tmp_path) == (f"data.path: {tmp_path}/data has 2 of 3 shards; train-00001-of-00003.parquet is missing")
    shard(tmp_path / "data/train-00001-of-00003.parquet", TRAIN)
    val.write_bytes(val.read_bytes()[:-20])
    assert fault(tmp_path).startswith(f"data.path: {val} cannot be read: ")
    assert fault(tmp_path).endswith(" (downloaded by half?)")
    val.unlink()
    assert "has a training split (parquet) and none to validate on; wanted: train/CLASS/..." in fault(tmp_path)


def test_a_shard_that_is_damaged_inside_and_a_copy_that_cannot_be_made_are_named(tmp_path, shard, source):
    shard(tmp_path / "train-00000-of-00002.parquet", TRAIN)
    damaged = shard(tmp_path / "train-00001-of-00002.parquet", TRAIN)
    shard(tmp_path / "val.parquet", VAL)
    content = damaged.read_bytes()
    damaged.write_bytes(bytes(len(content) // 3) + content[len(content) // 3 :])
    with pytest.raises(DataError) as raised:
        source(tmp_path).datasets()
    assert str(raised.value).startswith(f"data.path: {damaged} cannot be read: ")
    assert "\n" not in str(raised.value)
    damaged.write_bytes(content)
    (tmp_path / "cache").touch()
    with pytest.raises(DataError) as raised:
        ImageNet(path=str(tmp_path), image_size=32, cache_dir=str(tmp_path / "cache")).datasets()
    assert f"{damaged} cannot be copied to data.cache_dir={tmp_path}/cache: " in str(raised.value)


def test_columns_of_other_types_are_cast(tmp_path, shard, source):
    import pyarrow
    from pyarrow import parquet

    content = [shard.encoded(label) for label in TRAIN]
    for type, name in ((pyarrow.uint8(), "train"), (pyarrow.int32(), "val")):
        table = pyarrow.table({"label": pyarrow.array(TRAIN, type), "image": content, "size": [1, 2, 3, 4, 5]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    assert shape(tmp_path) == (3, 5, 5)
    assert saved_labels(tmp_path, source) == [TRAIN, TRAIN]
    parquet.write_table(table.set_column(0, "label", pyarrow.array(list("abcab"))), tmp_path / "val.parquet")
    assert fault(tmp_path).endswith("val.parquet has labels of the type string; allowed: whole numbers from 0")
    parquet.write_table(table.set_column(0, "label", pyarrow.array([0, 1, None, 2, 0])), tmp_path / "val.parquet")
    assert fault(tmp_path).endswith("val.parquet has 1 images without a label")


@pytest.mark.parametrize("note", ["{bad", '{"info": 5}', '{"info": {"features": {"label": {"names": 3}}}}'])
def test_a_note_of_datasets_that_is_none_is_named_with_its_file(tmp_path, shard, note):
    from pyarrow import parquet

    shard(tmp_path / "val.parquet", VAL)
    table = parquet.read_table(shard(tmp_path / "train.parquet", TRAIN)).replace_schema_metadata({"huggingface": note})
    parquet.write_table(table, tmp_path / "train.parquet")
    assert fault(tmp_path).startswith(
        f"data.path: {tmp_path}/train.parquet has a note of `datasets` (huggingface) that"
    )


def test_a_note_of_datasets_without_features_gives_no_names(tmp_path, shard):
    from pyarrow import parquet

    shard(tmp_path / "val.parquet", VAL)
    table = parquet.read_table(shard(tmp_path / "train.parquet", TRAIN))
    parquet.write_table(table.replace_schema_metadata({"huggingface": '{"info": null}'}), tmp_path / "train.parquet")
    assert shape(tmp_path) == (3, 5, 3)


@pytest.mark.parametrize(("numbers", "told"), [([0, 1, 3], True), ([5, 6], False), ([7], False)])
def test_a_gap_in_numbered_tar_shards_is_told(tmp_path, shard, source, numbers, told):
    for number in numbers:
        shard(tmp_path / f"set-train-{number:06}.tar", TRAIN)
    shard(tmp_path / "set-val-000000.tar", VAL)
    notes = source(tmp_path).parts()[0].notes
    missing = f"{tmp_path} has set-train-000003.tar and no set-train-000002.tar before it: is a shard missing?"
    assert notes == ([missing] if told else [])


@pytest.mark.parametrize("state", ["{", "{}", "[]"])
def test_a_saved_folder_whose_notes_are_damaged_is_named(tmp_path, shard, state):
    rows = {"image": [{"bytes": shard.encoded(label), "path": None} for label in TRAIN], "label": TRAIN}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    saved = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=saved, validation=saved).save_to_disk(tmp_path)
    (tmp_path / "train" / "state.json").write_text(state)
    assert fault(tmp_path).startswith(f"data.path: {tmp_path}/train cannot be read: ")
    assert fault(tmp_path).endswith("(copied by half?)")


def test_tar_shards_that_are_cut_off_anywhere_are_named(tmp_path, shard):
    train = shard(tmp_path / "train.tar", TRAIN)
    shard(tmp_path / "val.tar", VAL)
    whole = train.read_bytes()
    with tarfile.open(train) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    for size in (end, end - 100, end - 700, end - 1024, end // 2, 700, 100):
        train.write_bytes(whole[:size])
        message = fault(tmp_path)
        assert message.startswith(f"data.path: {train} cannot be read: "), size
        assert message.endswith(" (downloaded by half?)")
    train.write_bytes(whole)
    assert shape(tmp_path) == (3, 5, 3)


def test_shards_without_labels_or_images_are_refused(tmp_path, shard):
    shard(tmp_path / "val.tar", VAL)
    train = tmp_path / "train.tar"
    with tarfile.open(train, "w") as archive:
        archive.addfile(tarfile.TarInfo("n01440764/n01440764_1.JPEG"))
    assert fault(tmp_path) == (
        f"data.path: {train} has n01440764/n01440764_1.JPEG together; allowed: one image, and its label in .cls "
        "or .json. An archive of folders or archives has to be unpacked"
    )
    shard(train, ["cat"])
    assert fault(tmp_path) == f"data.path: {train} has a train/0000.cls without a label"
    shard(train, [1.5])
    assert fault(tmp_path) == f"data.path: {train} has the label 1.5 in train/0000.cls; allowed: whole numbers from 0"
    train.unlink()
    shard(tmp_path / "train.parquet", TRAIN, image="picture")
    shard(tmp_path / "val.parquet", VAL)
    assert fault(tmp_path) == f"data.path: {tmp_path}/train.parquet has no column image among picture, label"


def test_a_folder_without_training_images_is_refused_with_the_layouts(tmp_path):
    assert fault(tmp_path) == (
        f"data.path={tmp_path}: has no training images; wanted: train/CLASS/... and val/CLASS/...; "
        "ILSVRC/Data/CLS-LOC as unpacked; Parquet or tar shards with train and val or validation in their names; or "
        "a folder of save_to_disk"
    )


def test_digests_of_shards_are_of_names_and_sizes(tmp_path, shard, source):
    root = tmp_path / "one"
    train = shard(root / "train-0.parquet", TRAIN)
    shard(root / "val-0.parquet", VAL)
    before = local_digests("imagenet", path=str(root))
    fingerprints = [dataset._fingerprint for dataset in source(root).datasets()]
    assert list(before) == [str(train), str(root / "val-0.parquet")]
    moved = Path(shutil.move(root, tmp_path / "other"))
    assert [*local_digests("imagenet", path=str(moved)).values()] == [*before.values()]
    assert [dataset._fingerprint for dataset in source(moved).datasets()] == fingerprints
    shard(moved / "train-0.parquet", [*TRAIN, 2])
    now = [*local_digests("imagenet", path=str(moved)).values()]
    assert [one == other for one, other in zip(now, before.values(), strict=True)] == [False, True]
    assert labels(source(moved).datasets()[0]) == [*TRAIN, 2]


def test_the_hub_is_described_without_being_asked_and_scored_on_validation(monkeypatch, tmp_path):
    found = describe_data("imagenet", image_size=224)
    assert (found.num_classes, found.train_size, found.val_size) == (1000, 1281167, 50000)
    with pytest.raises(ValueError, match=r"^data\.evaluate: 'test' is not allowed without data\.path: the published"):
        describe_data("imagenet", image_size=224, evaluate="test")
    images = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["fish", "shark"])})
    rows = {"image": [Image.new("RGB", (8, 8))] * 2, "label": [0, 1]}
    both = {split: datasets.Dataset.from_dict(rows, features=images) for split in ("train", "validation")}
    asked = []
    monkeypatch.setattr(imagenet, "load_from_hub", lambda *given: asked.append(given) or both)
    train, val = ImageNet(image_size=224, cache_dir=str(tmp_path)).datasets()
    assert asked[0] == ("ILSVRC/imagenet-1k", None, "data=imagenet", str(tmp_path))
    assert train.features["label"].names == ["fish", "shark"]
    assert val[0]["image"]["bytes"].startswith(b"\x89PNG")


def test_that_the_hub_wants_a_log_in_is_said(monkeypatch):
    from nmtrain.data import hub

    def gated(*given, **options):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'ILSVRC/imagenet-1k' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", gated)
    monkeypatch.setattr(hub, "require_hub", lambda what, option: None)
    with pytest.raises(DataError) as raised:
        ImageNet(image_size=224).datasets()
    assert str(raised.value) == (
        "data=imagenet: ILSVRC/imagenet-1k cannot be loaded from the Hugging Face hub: Dataset "
        "'ILSVRC/imagenet-1k' is a gated dataset on the Hub. Accept its terms on the hub and log in (hf auth login); "
        "or where there is a local copy, give data.path=FOLDER"
    )
