"""What a model or a check needs to know of data, without any of it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataShape:
    """What a model or a check needs to know of images. Each is ``[channels, image_size, image_size]``."""

    num_classes: int
    channels: int
    image_size: int
    train_size: int
    val_size: int


@dataclass(frozen=True)
class TextShape:
    """What a model or a check needs to know of a text data set. Lengths count tokens, the end token included."""

    train_size: int
    val_size: int  # of all validation sets together
    input_length: int  # longest input; longer ones are cut
    target_length: int  # longest target; longer ones are cut
    labels: tuple[str, ...]  # the words that a target is one of; () for free text and for numbers
    is_regression: bool = False  # the targets are numbers

    @property
    def outputs(self) -> int:
        """What a classifier's head puts out: one for each label, one for a number, 0 where there is neither."""
        return 1 if self.is_regression else len(self.labels)
