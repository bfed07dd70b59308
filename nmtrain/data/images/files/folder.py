"""``data=folder``: any tree of class folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nmtrain.data.images.files.source import ImageFiles, few
from nmtrain.data.images.files.tree import TreeSplit, list_tree, subfolders
from nmtrain.data.source import fault, fraction_faults, positive_fraction_faults

_CALLED = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
LAYOUT = "train/CLASS/..., val/CLASS/... (and test/CLASS/...), or CLASS/... alone, with images in each CLASS"
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Folder(ImageFiles):
    """A folder with ``train`` and ``val`` (or ``valid``, ``validation``) and ``test``, each with a folder per class.

    Of a tree that is not divided, or has ``train`` alone, ``val_fraction`` and ``test_fraction`` are held out; where
    there is ``test`` without ``val``, ``val_fraction`` of ``train``. Which images these are depends on the name of each
    alone, from the folder of classes on.
    """

    val_fraction: float = _HELD_OUT
    test_fraction: float = _HELD_OUT

    name = "folder"
    held_out_by = ("val_fraction", "test_fraction")

    def option_faults(self) -> list[str]:
        lines = [
            *positive_fraction_faults("val_fraction", self.val_fraction),
            *fraction_faults("test_fraction", self.test_fraction),
        ]
        if not lines and self.val_fraction + self.test_fraction >= 1:
            lines = [fault("val_fraction", self.val_fraction, f"below 1 with data.test_fraction={self.test_fraction}")]
        return [*super().option_faults(), *lines]

    def folder_faults(self) -> list[str]:
        if self.path is None:
            return [f"data.path: null is not allowed with data=folder; give the folder, with {LAYOUT}"]
        return super().folder_faults()

    def parts(self) -> tuple[TreeSplit, TreeSplit]:
        folders = split_folders(self.folder)
        train = list_tree(folders.get("train", self.folder))
        if not train.names:
            raise ValueError(f"data.path={self.path}: there are no images in class folders; wanted: {LAYOUT}")
        if faults := self._fraction_faults(folders):
            raise ValueError("\n".join(faults))
        if self.evaluate in folders:
            held_out = TreeSplit(list_tree(folders[self.evaluate]))
            if not len(held_out):
                raise ValueError(
                    f"data.path={self.path}: there are no images in {held_out.tree.folder}; wanted: {LAYOUT}"
                )
        elif self.evaluate == "val":
            held_out = TreeSplit(train, 1 - self.val_fraction)
        else:
            held_out = TreeSplit(train, 0.0, self.test_fraction)
        if "val" in folders:
            return TreeSplit(train), held_out
        rest = TreeSplit(train, 0.0 if "test" in folders else self.test_fraction, 1 - self.val_fraction)
        if bare := rest.bare_classes:
            raise ValueError(
                f"data.path={self.path}: all images of {few(bare)} are held out, and none is left for training; "
                "lower data.val_fraction or data.test_fraction, or add images"
            )
        if not len(held_out):
            option = f"{self.evaluate}_fraction"
            told = (
                f"{getattr(self, option)} of {len(train.names)} images holds out none; give a larger one, or add images"
            )
            raise ValueError(f"data.{option}: {told}")
        return rest, held_out

    def _fraction_faults(self, folders: dict[str, Path]) -> list[str]:
        """Lines for fractions that have no effect on this tree, and for a split that it does not have."""
        lines = [
            f"data.{split}_fraction: {value} has no effect, since {self.path} has a folder {folders[other].name}"
            for split, value, other in (
                ("val", self.val_fraction, "val"),
                ("test", self.test_fraction, "val"),
                ("test", self.test_fraction, "test"),
            )
            if other in folders and value not in (_HELD_OUT, 0)
        ]
        if self.evaluate == "test" and "test" not in folders and ("val" in folders or not self.test_fraction):
            why = "data.test_fraction is 0" if "val" not in folders else "there is a val and no test folder"
            lines.append(f"data.evaluate: 'test' is not allowed here, since in {self.path} {why}; allowed: val")
        return list(dict.fromkeys(lines))


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits, by split; none where the folders in ``folder`` are classes.

    They are splits where one of them has folders: a class may be called train.

    Raises:
        ValueError: where a split has two folders, or there is one to evaluate on and none to train on.
    """
    found: dict[str, list[Path]] = {}
    for name in subfolders(folder):
        for split, names in _CALLED.items():
            if name.casefold() in names:
                found.setdefault(split, []).append(folder / name)
    if not any(subfolders(place) for places in found.values() for place in places):
        if found and len(subfolders(folder)) == sum(map(len, found.values())):
            raise ValueError(
                f"data.path={folder}: there are no class folders in {few(_names(found))}; wanted: {LAYOUT}"
            )
        return {}
    for split, places in found.items():
        if len(places) > 1:
            both = few([place.name for place in places])
            raise ValueError(f"data.path={folder}: {both} are all the {split} split; leave one of them")
    if "train" not in found:
        raise ValueError(f"data.path={folder}: has {few(_names(found))} and no train; wanted: {LAYOUT}")
    return {split: places[0] for split, places in found.items()}


def _names(found: dict[str, list[Path]]) -> list[str]:
    return [place.name for places in found.values() for place in places]
