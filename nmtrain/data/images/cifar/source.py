"""``data=cifar10`` and ``data=cifar100``: 60,000 colour photographs of 32x32 pixels (Krizhevsky, 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nmtrain.data.images.cifar import names
from nmtrain.data.images.cifar.published import CIFAR10, CIFAR100, Kept, Published, find_local
from nmtrain.data.shapes import DataShape
from nmtrain.data.source import ImageSource, flag_faults, path_faults
from nmtrain.data.splits import find_split

if TYPE_CHECKING:
    from nmtrain.data.images.in_memory import ImageData

_HELD_OUT_EVERY = 10


@dataclass(frozen=True)
class _Cifar(ImageSource):
    """``path`` is what :func:`nmtrain.data.images.cifar.published.find_local` finds data in. Null is the archive that
    ``download=True`` left in ``cache_dir``, else the hub.

    Of the 50,000 training images every tenth is for validation (see :func:`nmtrain.data.images.cifar.read.in_order`);
    test is the official test set of 10,000. With ``hold_out=False``, as in most papers, all 50,000 are for training,
    and the test set is the only split to evaluate on. What an image is for does not depend on where it was read from.
    """

    path: str | None = None
    download: bool = False
    hold_out: bool = True
    augment: bool = True
    cache_dir: str | None = None

    splits = ("val", "test")
    held_out_by = ("hold_out",)
    published: ClassVar[Published]
    class_names: ClassVar[tuple[str, ...]]

    def faults(self) -> list[str]:
        lines = [
            *super().faults(),
            *path_faults("path", self.path),
            *flag_faults("download", self.download),
            *flag_faults("hold_out", self.hold_out),
            *flag_faults("augment", self.augment),
            *path_faults("cache_dir", self.cache_dir),
        ]
        if not lines and self.evaluate == "val" and not self.hold_out:
            lines.append(
                "data.evaluate: 'val' is not allowed with data.hold_out=false: those images are among the training's;"
                " allowed: test"
            )
        if not lines:
            try:
                self._local()
            except ValueError as error:
                lines.append(str(error))
        return lines

    def files(self) -> list[Path]:
        """Of a copy in Parquet. What the authors published is checked by its MD5 whenever it is read."""
        kept = self._local()
        splits = ("train", "test") if self.evaluate == "test" else ("train",)
        tables = [find_split(kept.place, split) for split in splits] if kept and kept.form == "table" else []
        return [file for table in tables for file in table.files]

    def shape(self) -> DataShape:
        train_size, test_size = self.published.sizes
        if (kept := self._local()) and kept.form == "table":
            train_size = find_split(kept.place, "train").count()
            test_size = find_split(kept.place, "test").count() if self.evaluate == "test" else test_size
        val_size = len(range(0, train_size, _HELD_OUT_EVERY)) if self.hold_out else 0
        return DataShape(
            num_classes=len(self.class_names),
            channels=3,
            image_size=32,
            train_size=train_size - val_size,
            val_size=val_size if self.evaluate == "val" else test_size,
        )

    def load(self, seed: int) -> ImageData:
        from nmtrain.data.images.cifar.read import archive_in, read_split
        from nmtrain.data.images.in_memory import ImageData, cropped_and_flipped

        kept = self._local() or archive_in(self.path or self.cache_dir, self.published, self.download)
        read = partial(read_split, self.published, len(self.class_names), kept, self.cache_dir)
        images, labels = read("train")
        held_out = slice(None, None, _HELD_OUT_EVERY)
        val = images[held_out], labels[held_out]
        if self.hold_out:
            rest = [place for place in range(len(labels)) if place % _HELD_OUT_EVERY]
            images, labels = images[rest], labels[rest]
        return ImageData(
            name=self.published.name,
            shape=self.shape(),
            class_names=list(self.class_names),
            train=(images, labels),
            val=val if self.evaluate == "val" else read("test"),
            seed=seed,
            augment=self.augment,
            augmentation=cropped_and_flipped,
        )

    def _local(self) -> Kept | None:
        """What ``path`` holds; None without one, and where it is still to be downloaded to.

        Raises:
            ValueError: where it holds no such data.
        """
        if self.path is None:
            return None
        try:
            return find_local(Path(self.path).expanduser(), self.published)
        except FileNotFoundError as error:
            if self.download:
                return None
            raise ValueError(f"data.path={self.path}: {error}; data.download=true puts it there") from None
        except OSError as error:
            raise ValueError(f"data.path={self.path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Cifar10(_Cifar):
    """Ten classes of 5,000 training and 1,000 test images each."""

    published = CIFAR10
    class_names = names.CIFAR10


@dataclass(frozen=True)
class Cifar100(_Cifar):
    """A hundred classes (the fine ones) of 500 training and 100 test images each."""

    published = CIFAR100
    class_names = names.CIFAR100
