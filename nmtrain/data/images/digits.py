"""``data=digits``: 1,797 scanned handwritten digits that come with scikit-learn (UCI "Optical Recognition")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmtrain.data.shapes import DataShape
from nmtrain.data.source import ImageSource, flag_faults, whole_number_faults

if TYPE_CHECKING:
    from nmtrain.data.images.in_memory import ImageData

_BRIGHTEST = 16  # the scans count the inked pixels of 4x4 cells: 0 to 16
_VAL_EVERY = 5


@dataclass(frozen=True)
class Digits(ImageSource):
    """The 8x8 scans, enlarged bilinearly to ``image_size``; 1,437 for training and 360 for validation."""

    image_size: int = 16
    augment: bool = True

    def faults(self) -> list[str]:
        return [
            *whole_number_faults("image_size", self.image_size, 8, 32, multiple_of=4),
            *flag_faults("augment", self.augment),
        ]

    def shape(self) -> DataShape:
        return DataShape(num_classes=10, channels=1, image_size=self.image_size, train_size=1437, val_size=360)

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

        # Every fifth of each digit, in the file's order: every writer and every digit is in both parts.
        by_digit = labels.argsort(stable=True)
        is_val = torch.zeros(len(labels), dtype=torch.bool)
        is_val[by_digit[::_VAL_EVERY]] = True
        return ImageData(
            name="digits",
            shape=self.shape(),
            class_names=list("0123456789"),
            train=(images[~is_val], labels[~is_val]),
            val=(images[is_val], labels[is_val]),
            seed=seed,
            augment=self.augment,
        )
