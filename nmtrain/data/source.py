"""What every data source offers, and the checks of options that sources share. Imports nothing heavy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmtrain.data.images import ImageData


@dataclass(frozen=True)
class DataShape:
    """All that a model or a check needs to know of a data set. Images are ``[channels, image_size, image_size]``."""

    num_classes: int
    channels: int
    image_size: int
    train_size: int
    val_size: int


@dataclass(frozen=True)
class DataSource(ABC):
    """Subclasses are frozen dataclasses; their fields are the options of ``conf/data/<name>.yaml``, same defaults."""

    @abstractmethod
    def faults(self) -> list[str]:
        """One line for each option whose value is not allowed; reads nothing."""

    @abstractmethod
    def shape(self) -> DataShape:
        """The shape that :meth:`load` will have, from arithmetic alone; reads nothing."""

    @abstractmethod
    def load(self, seed: int) -> ImageData:
        """Read or make the data. ``seed`` orders and augments the training batches."""


def whole_number_faults(option: str, value: object, lowest: int, highest: int, multiple_of: int = 1) -> list[str]:
    """No line if ``value`` is an int in [lowest, highest] and a multiple of ``multiple_of``, else the line to show."""
    if type(value) is int and lowest <= value <= highest and value % multiple_of == 0:
        return []
    kind = "whole numbers" if multiple_of == 1 else f"multiples of {multiple_of}"
    return [_line(option, value, f"{kind} from {lowest} to {highest}")]


def fraction_faults(option: str, value: object) -> list[str]:
    """No line if ``value`` is a number in [0, 1], else the line to show."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return []
    return [_line(option, value, "numbers from 0 to 1")]


def flag_faults(option: str, value: object) -> list[str]:
    """No line if ``value`` is a bool, else the line to show."""
    return [] if type(value) is bool else [_line(option, value, "true, false")]


def path_faults(option: str, value: object) -> list[str]:
    """No line if ``value`` is a non-empty string or None, else the line to show."""
    if value is None or (isinstance(value, str) and value):
        return []
    return [_line(option, value, "a path, or null for the default")]


def _line(option: str, value: object, allowed: str) -> str:
    return f"data.{option}: {value!r} is not allowed; allowed: {allowed}"
