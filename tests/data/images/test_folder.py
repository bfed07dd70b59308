import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image
from timm.data import create_transform

from nmtrain.data import describe_data, local_digests, local_files
from nmtrain.data.images.files import tree
from nmtrain.data.images.files.folder import Folder
from nmtrain.errors import DataError

TWO = ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/3.jpg", "val/cat/4.jpg", "val/dog/5.jpg", "test/cat/6.jpg"]
TWO += ["test/dog/7.jpg"]


def many(*classes: str, count: int = 40) -> list[str]:
    return [f"{name}/{number:03}.png" for name in classes for number in range(count)]


def read(path, **options) -> tuple[dict[str, str], dict[str, str]]:
    """The class of each image that is trained on, and of each that is evaluated on, by name below the folder."""
    datasets = Folder(path=str(path), **options).datasets()
    root = Path(path).expanduser().absolute()
    return tuple(
        {
            str(Path(row["image"]["path"]).relative_to(root)): dataset.features["label"].names[row["label"]]
            for row in dataset
        }
        for dataset in datasets
    )


def fault(path, **options) -> str:
    with pytest.raises(ValueError, match=r"^data\.") as raised:
        describe_data("folder", path=str(path), image_size=32, **options)
    return str(raised.value)


def test_a_tree_with_three_splits_is_read_as_it_is_divided(grow):
    root = grow(*TWO)
    train, val = read(root)
    assert train == {"train/cat/1.jpg": "cat", "train/cat/2.jpg": "cat", "train/dog/3.jpg": "dog"}
    assert val == {"val/cat/4.jpg": "cat", "val/dog/5.jpg": "dog"}
    assert read(root, evaluate="test") == (train, {"test/cat/6.jpg": "cat", "test/dog/7.jpg": "dog"})
    shape = describe_data("folder", path=str(root), image_size=32, channels=1)
    assert (shape.num_classes, shape.channels, shape.image_size) == (2, 1, 32)
    assert (shape.train_size, shape.val_size) == (3, 2)
    (row, *_) = Folder(path=str(root)).datasets()[0]
    assert row["image"]["bytes"] is None
    assert Image.open(row["image"]["path"]).size == (8, 6)


@pytest.mark.parametrize("called", ["val", "valid", "validation", "Valid", "VALIDATION"])
def test_the_folder_to_validate_on_has_several_names(grow, called):
    train, val = read(grow(*[name.replace("val/", f"{called}/") for name in TWO]))
    assert (len(train), len(val)) == (3, 2)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_of_a_tree_that_is_not_divided_parts_are_held_out_by_name_alone(grow, prefix):
    root = grow(*[prefix + name for name in many("cat", "dog", count=300)])
    train, val = read(root)
    again, test = read(root, evaluate="test")
    assert train == again
    assert len(train) + len(val) + len(test) == 600
    assert not val.keys() & test.keys()
    assert not train.keys() & (val.keys() | test.keys())
    assert 40 < len(val) < 80
    assert 40 < len(test) < 80
    assert f"{prefix}cat/007.png" in train  # known numbers: another rule would score old runs on their training images
    assert sorted(val)[:3] == [prefix + name for name in KNOWN_VAL]


KNOWN_VAL = ["cat/001.png", "cat/040.png", "cat/053.png"]


def test_a_new_image_and_another_test_fraction_move_none_of_those_held_out(grow):
    names = many("cat", "dog")
    root = grow(*names)
    before = [read(root), read(root, evaluate="test")]
    grow("cat/new.png", "dog/deeper/new.png")
    after = [read(root), read(root, evaluate="test")]
    for (old, old_held), (new, new_held) in zip(before, after, strict=True):
        assert old.items() <= new.items()
        assert old_held.items() <= new_held.items()
    assert read(root, test_fraction=0.3)[1] == after[0][1]
    assert read(root, test_fraction=0)[0].keys() == after[0][0].keys() | after[1][1].keys()


def test_the_same_names_are_held_out_whether_composed_or_not(grow):
    one = read(grow(*many("b\u00e4r", "dog"), folder="one"))[1]
    other = read(grow(*many("ba\u0308r", "dog"), folder="other"))[1]
    assert {name.replace("a\u0308", "\u00e4") for name in other} == set(one)
    assert set(other.values()) == {"b\u00e4r", "dog"}


def test_test_without_val_holds_out_of_train(grow):
    names = [f"train/{name}" for name in many("cat", "dog")]
    root = grow(*names, "test/cat/1.png", "test/dog/1.png")
    train, val = read(root)
    assert len(train) + len(val) == 80
    assert read(root, evaluate="test") == (train, {"test/cat/1.png": "cat", "test/dog/1.png": "dog"})
    assert "data.test_fraction: 0.2 has no effect" in fault(root, test_fraction=0.2)


def test_val_without_test_leaves_train_whole_and_says_so_of_test(grow):
    root = grow(*[name for name in TWO if not name.startswith("test")])
    assert len(read(root)[0]) == 3
    assert fault(root, evaluate="test").endswith("there is a val and no test folder; allowed: val")
    assert "data.val_fraction: 0.2 has no effect" in fault(root, val_fraction=0.2)


def test_folders_in_a_class_suffixes_in_capitals_and_signs_in_names(grow):
    names = [
        "train/cat/old ones/[1] *.JPEG",
        "train/cat/x::y.PNG",
        "train/dög/ä b.jpg",
        "val/cat/a.b.jpg",
        "val/dög/1.jpg",
    ]
    train, val = read(grow(*names))
    assert train == {names[0]: "cat", names[1]: "cat", names[2]: "dög"}
    assert val == {names[3]: "cat", names[4]: "dög"}


def test_what_is_hidden_or_no_image_is_left_out_and_the_latter_told(grow, caplog):
    hidden = [
        "train/.DS_Store",
        "train/cat/._1.jpg",
        "train/.cache/x.jpg",
        "train/__MACOSX/cat/._1.jpg",
        ".git/train/a",
    ]
    told = ["train/cat/readme.txt", "train/metadata.csv", "train/loose.jpg"]
    root = grow(*TWO, *hidden, *told)
    assert len(read(root)[0]) == 3
    (line,) = caplog.messages
    assert line == (
        f"data.path: in {root / 'train'} 3 files are left out, which are no image of a class by name and place: "
        "cat/readme.txt, metadata.csv, loose.jpg"
    )


def test_links_are_followed_and_circles_end(grow, tmp_path):
    elsewhere = grow("1.jpg", "2.jpg", folder="elsewhere")
    root = grow("train/dog/3.jpg", "val/cat/4.jpg", "val/dog/5.jpg")
    (root / "train/cat").symlink_to(elsewhere)
    (root / "train/dog/again").symlink_to(root / "train")
    (root / "train/dog/6.jpg").symlink_to(elsewhere / "1.jpg")
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    train, _ = read(linked)
    assert {"train/cat/1.jpg", "train/cat/2.jpg", "train/dog/3.jpg", "train/dog/6.jpg"} <= train.keys()
    assert train["train/dog/6.jpg"] == "dog"
    (root / "train/dog/7.jpg").symlink_to(tmp_path / "gone.jpg")
    assert fault(root) == f"data.path: {root}/train/dog/7.jpg is a link to nothing"


def test_paths_may_be_relative_from_home_or_end_in_a_slash(grow, monkeypatch, tmp_path):
    root = grow(*TWO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (root.name, f"./{root.name}/", f"~/{root.name}", f"{root}/"):
        assert len(read(path)[0]) == 3
        given = Path(path.replace("~", str(tmp_path)))
        assert local_files("folder", path=path) == [given / "train", given / "val"]


def test_a_class_may_be_called_train(grow):
    train, val = read(grow(*many("train", "car", "test")))
    assert set(train.values()) == {"train", "car", "test"}
    assert len(train) + len(val) < 120


LAYOUT = "wanted: train/CLASS/..., val/CLASS/... (and test/CLASS/...), or CLASS/... alone, with images in each CLASS"


SAME = "allowed: the same classes in both"
DIFFER = "differ only in upper and lower case; give them other names"
BARE = "no images (.jpg, .jpeg, .png, .webp, .gif ...); fill or remove what is empty"
GONE = "are held out, and none is left for training; lower data.val_fraction or data.test_fraction, or add images"
TEST = {"evaluate": "test"}
ONE_EACH = ["train/cat/1.jpg", "train/dog/2.jpg"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, f"=ROOT: there are no images in class folders; {LAYOUT}"),
        (["1.jpg", "2.jpg"], {}, f"=ROOT: there are no images in class folders; {LAYOUT}"),
        (["train/1.jpg", "val/2.jpg"], {}, f"=ROOT: there are no class folders in train, val; {LAYOUT}"),
        (["val/cat/1.jpg", "val/dog/2.jpg"], {}, f"=ROOT: has val and no train; {LAYOUT}"),
        ([*ONE_EACH, "val/x.txt"], {}, f"=ROOT: there are no images in ROOT/val; {LAYOUT}"),
        ([*TWO, "valid/cat/1.jpg"], {}, "=ROOT: val, valid are all the val split; leave one of them"),
        ([*TWO, "train/Cat/1.jpg"], {}, f": the class folders Cat and cat of ROOT/train {DIFFER}"),
        ([*TWO, "train/owl/x.txt"], {}, f": the class folder owl of ROOT/train has {BARE}"),
        ([*TWO, "val/owl/1.jpg"], {}, f"=ROOT: owl is a class of val and not of train; {SAME}"),
        ([*TWO, "train/owl/1.jpg"], {}, f"=ROOT: owl is a class of train and not of val; {SAME}"),
        ([*TWO, "val/owl/1.jpg", "val/a/1.jpg"], {}, f"=ROOT: a, owl are classes of val and not of train; {SAME}"),
        ([*TWO, "test/owl/1.jpg"], TEST, f"=ROOT: owl is a class of test and not of train; {SAME}"),
        (["train/a/1.jpg", "val/a/1.jpg"], {}, "=ROOT: has one class only, a; allowed: two or more to tell apart"),
        (many("a", "b", count=1), {"val_fraction": 0.98, "test_fraction": 0}, f"=ROOT: all images of a, b {GONE}"),
    ],
)
def test_trees_that_are_not_as_wanted_are_refused_in_one_line(grow, names, options, message):
    root = grow(*names)
    assert fault(root, **options) == "data.path" + message.replace("ROOT", str(root))


def test_fractions_that_hold_out_nothing_are_refused(grow):
    root = grow(*many("cat", "dog", count=2))
    assert fault(root, val_fraction=0.001) == (
        "data.val_fraction: 0.001 of 4 images holds out none; give a larger one, or add images"
    )
    assert fault(root, test_fraction=0, evaluate="test") == (
        f"data.evaluate: 'test' is not allowed here, since in {root} data.test_fraction is 0; allowed: val"
    )


def test_a_path_that_is_no_folder_is_refused(tmp_path, grow):
    file = grow("1.jpg") / "1.jpg"
    assert fault(tmp_path / "gone") == f"data.path={tmp_path}/gone: there is no such folder"
    assert fault(file) == f"data.path={file}: is a file; allowed: a folder"
    with pytest.raises(ValueError, match=r"^data\.path: null is not allowed with data=folder; give the folder, with"):
        describe_data("folder", image_size=32)


def test_names_that_are_no_text_are_refused(grow):
    root = grow(*TWO)
    (root / "train/cat" / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    assert "has names that are no UTF-8: 'cat/\\udcff.jpg'" in fault(root)


def test_folders_and_files_without_permission_are_named(grow, monkeypatch):
    root = grow(*TWO)
    scandir = os.scandir

    def forbidden(place):
        if str(place).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(tree.os, "scandir", forbidden)
    assert fault(root) == f"data.path: {root}/train/dog cannot be read: Permission denied"
    monkeypatch.undo()
    monkeypatch.setattr(tree.os, "access", lambda path, mode: not str(path).endswith("3.jpg"))
    with pytest.raises(DataError, match=r"train/dog/3\.jpg cannot be read: Permission denied$"):
        local_digests("folder", path=str(root))


def test_digests_know_a_folder_that_moved_and_see_what_changed(grow, tmp_path):
    root = grow(*TWO)
    before = local_digests("folder", path=str(root))
    fingerprints = [dataset._fingerprint for dataset in Folder(path=str(root)).datasets()]
    assert list(before) == [str(root / "train"), str(root / "val")]
    assert len(set(before.values())) == 2
    moved = Path(shutil.move(root, tmp_path / "moved"))
    assert [*local_digests("folder", path=str(moved)).values()] == [*before.values()]
    assert [dataset._fingerprint for dataset in Folder(path=str(moved)).datasets()] == fingerprints

    def after(change) -> list[bool]:
        change()
        now = local_digests("folder", path=str(moved)).values()
        return [one == other for one, other in zip(now, before.values(), strict=True)]

    image = moved / "train/cat/1.jpg"
    content = image.read_bytes()
    assert after(lambda: image.write_bytes(content + b"x")) == [False, True]
    assert after(lambda: image.write_bytes(content)) == [True, True]
    assert after(lambda: image.rename(moved / "train/dog/1.jpg")) == [False, True]
    assert Folder(path=str(moved)).datasets()[0]._fingerprint != fingerprints[0]


def test_a_tree_is_listed_once_until_a_folder_of_it_changes(grow, monkeypatch):
    root = grow(*TWO)
    long_ago = time.time() - 60
    for folder in (root, *root.rglob("*/")):
        os.utime(folder, (long_ago, long_ago))
    listed = []
    monkeypatch.setattr(tree, "_list", lambda folder, list=tree._list: listed.append(folder) or list(folder))
    for _ in range(3):
        assert describe_data("folder", path=str(root), image_size=32).train_size == 3
    assert listed == [root / "train", root / "val"]
    grow("train/cat/new.jpg")
    assert describe_data("folder", path=str(root), image_size=32).train_size == 4
    assert listed == [root / "train", root / "val", root / "train"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "data.channels: 4 is not allowed; allowed: 1, 3"),
        ({"channels": True}, "data.channels: True is not allowed; allowed: 1, 3"),
        ({"image_size": 4}, "data.image_size: 4 is not allowed; allowed: whole numbers from 8 to 4096"),
        ({"interpolation": "cubic"}, "data.interpolation: 'cubic' is not allowed; allowed: bilinear, bicubic"),
        ({"crop_pct": 0}, "data.crop_pct: 0 is not allowed; allowed: numbers above 0, up to 1"),
        ({"crop_mode": "left"}, "data.crop_mode: 'left' is not allowed; allowed: center, squash, border"),
        ({"mean": [0.5]}, "data.mean: [0.5] is not allowed; allowed: a list of numbers, one for each"),
        ({"std": [0.5, 0.5, 0]}, "data.std: [0.5, 0.5, 0] is not allowed; allowed: a list of numbers above 0"),
        ({"auto_augment": "random"}, "data.auto_augment: 'random' is not allowed; allowed: a policy of timm"),
        ({"auto_augment": 5}, "data.auto_augment: 5 is not allowed; allowed: a policy of timm"),
        ({"auto_augment": "rand-m9-zzz"}, "data.auto_augment: 'rand-m9-zzz' is not allowed; allowed: after rand"),
        ({"auto_augment": "rand-m9.5"}, "data.auto_augment: 'rand-m9.5' is not allowed; allowed: after rand"),
        ({"auto_augment": "rand-p1.5"}, "data.auto_augment: 'rand-p1.5' is not allowed; allowed: after rand"),
        ({"auto_augment": "augmix-w0"}, "data.auto_augment: 'augmix-w0' is not allowed; allowed: after augmix"),
        ({"auto_augment": "augmix-a0"}, "data.auto_augment: 'augmix-a0' is not allowed; allowed: after augmix"),
        ({"auto_augment": "v0-m9"}, "data.auto_augment: 'v0-m9' is not allowed; allowed: after v0"),
        ({"crop_scale": [0.5]}, "data.crop_scale: [0.5] is not allowed; allowed: a list of the smallest"),
        ({"crop_scale": [0.5, 1.5]}, "data.crop_scale: [0.5, 1.5] is not allowed; allowed: a list"),
        ({"crop_ratio": [2, 1]}, "data.crop_ratio: [2, 1] is not allowed; allowed: a list"),
        ({"hflip": 1.5}, "data.hflip: 1.5 is not allowed; allowed: numbers from 0 to 1"),
        ({"color_jitter": -1}, "data.color_jitter: -1 is not allowed; allowed: numbers from 0 to 1"),
        ({"erase": 2}, "data.erase: 2 is not allowed; allowed: numbers from 0 to 1"),
        ({"repeats": 0}, "data.repeats: 0 is not allowed; allowed: whole numbers from 1 to 16"),
        ({"max_damaged": -1}, "data.max_damaged: -1 is not allowed; allowed: whole numbers from 0 to"),
        ({"workers": 1.5}, "data.workers: 1.5 is not allowed; allowed: whole numbers from 0 to 256"),
        ({"prefetch": 0}, "data.prefetch: 0 is not allowed; allowed: whole numbers from 1 to 256"),
        ({"val_fraction": 0}, "data.val_fraction: 0 is not allowed; allowed: numbers above 0, up to 1"),
        ({"test_fraction": -0.1}, "data.test_fraction: -0.1 is not allowed; allowed: numbers from 0 to 1"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "data.val_fraction: 0.6 is not allowed; allowed: below 1 with"),
    ],
)
def test_options_that_are_not_allowed_are_refused_before_a_folder_is_looked_at(options, message):
    with pytest.raises(ValueError, match=r"^data\.") as raised:
        describe_data("folder", path="/nowhere", **options)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("policy", ["rand", "rand-m9-n3-p0.5-mstd101-mmax20-inc1-t3a", "rand-tweights", "augmix",
                                    "augmix-m5-w4-d2-a0.5-b1-mstd0.5", "original-mstd0.5", "v0r", "3a"])  # fmt: skip
def test_policies_that_timm_reads_are_allowed(grow, policy):
    create_transform(32, is_training=True, auto_augment=policy)
    assert describe_data("folder", path=str(grow(*TWO)), image_size=32, auto_augment=policy).num_classes == 2


def test_a_size_that_no_model_gave_has_to_be_said(grow):
    with pytest.raises(ValueError, match=r"^data\.image_size: null is not allowed here"):
        describe_data("folder", path=str(grow(*TWO)))
    assert describe_data("folder", path=str(grow(*TWO)), image_size=8, mean=[0, 0, 0], std=[1, 1, 1]).image_size == 8
