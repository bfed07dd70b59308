"""``data=digits``: 1,797 scanned handwritten digits that come with scikit-learn (UCI "Optical Recognition")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmtrain.data.shapes import DataShape
from nmtrain.data.source import ImageSource, flag_faults, whole_number_faults

if TYPE_CHECKING:
    from nmtrain.data.images.in_memory import ImageData

_IMAGES = 1797
_BRIGHTEST = 16  # the scans count the inked pixels of 4x4 cells: 0 to 16
_HELD_OUT_EVERY = 5
_FIRST = {"val": 0, "test": 2}  # of the images held out


@dataclass(frozen=True)
class Digits(ImageSource):
    """The 8x8 scans, enlarged bilinearly to ``image_size``; 1,078 for training, 360 for validation and 359 for test.

    With ``test_split=False`` no test images are held out: they are among 1,437 for training.
    """

    image_size: int = 16
    augment: bool = True
    test_split: bool = True

    splits = ("val", "test")
    held_out_by = ("test_split",)

    def faults(self) -> list[str]:
        return [
            *super().faults(),
            *whole_number_faults("image_size", self.image_size, 8, 32, multiple_of=4),
            *flag_faults("augment", self.augment),
            *flag_faults("test_split", self.test_split),
            *self._split_faults(),
        ]

    def shape(self) -> DataShape:
        held_out = {split: len(range(first, _IMAGES, _HELD_OUT_EVERY)) for split, first in self._first().items()}
        return DataShape(
            num_classes=10,
            channels=1,
            image_size=self.image_size,
            train_size=_IMAGES - sum(held_out.values()),
            val_size=held_out[self.evaluate],
        )

    def load(self, seed: int) -> ImageData:
        import torch
        import torch.nn.functional as F
        from sklearn.datasets import load_digits

        from nmtrain.data.images.in_memory import ImageData

        scans, digits = load_digits(return_X_y=True)
        labels = torch.as_tensor(digits, dtype=torch.int64)
        images = torch.as_tensor(scans, dtype=torch.float32).reshape(-1, 1, 8, 8)
        images = F.interpolate(images, size=(self.image_size, self.image_size), mode="bilinear")
        images = (images * (255 / _BRIGHTEST)).round().to(torch.uint8)

        # Every fifth of each digit, in the file's order: every writer and every digit is in all parts.
        by_digit = labels.argsort(stable=True)
        held_out = {}
        for split, first in self._first().items():
            held_out[split] = torch.zeros(len(labels), dtype=torch.bool)
            held_out[split][by_digit[first::_HELD_OUT_EVERY]] = True
        is_train, is_val = ~torch.stack([*held_out.values()]).any(0), held_out[self.evaluate]
        return ImageData(
            name="digits",
            shape=self.shape(),
            class_names=list("0123456789"),
            train=(images[is_train], labels[is_train]),
            val=(images[is_val], labels[is_val]),
            seed=seed,
            augment=self.augment,
        )

    def _first(self) -> dict[str, int]:
        """The first image of each split that is held out."""
        return _FIRST if self.test_split else {"val": _FIRST["val"]}

    def _split_faults(self) -> list[str]:
        if self.evaluate != "test" or self.test_split is not False:
            return []
        return [
            "data.evaluate: 'test' is not allowed with data.test_split=false: those images are among the training's"
        ]
