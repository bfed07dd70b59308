"""What every data source offers, and the checks of options that sources share. Imports nothing heavy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nmtrain.data.digest import file_digests
from nmtrain.data.shapes import DataShape, TextShape

if TYPE_CHECKING:
    from nmtrain.data.images.batches import ImageBatches
    from nmtrain.data.text.batches import TextData
    from nmtrain.data.text.tokens import Tokenizer


SPLITS = ("val", "test")  # that a run can be evaluated on


@dataclass(frozen=True)
class DataSource(ABC):
    """Subclasses are frozen dataclasses; their fields are the options of ``conf/data/<name>.yaml``, same defaults.

    What is loaded as validation data is the split that ``evaluate`` names, one of ``splits``; training data never
    depend on it.
    """

    evaluate: str = "val"

    # What can be evaluated on; a source that does not say so has no test split, and is never asked for one.
    splits: ClassVar[tuple[str, ...]] = ("val",)
    held_out_by: ClassVar[tuple[str, ...]] = ()  # the options by which data are for test, or for training
    held_out_up_to: ClassVar[tuple[str, ...]] = ()  # the sizes beyond which those held out are drawn as training's are
    of_test_alone: ClassVar[tuple[str, ...]] = ()  # the options that say what the test split is, and nothing else

    @property
    @abstractmethod
    def headline(self) -> str:
        """The metric that tables show. Larger is better, but for "perplexity"."""

    @abstractmethod
    def faults(self) -> list[str]:
        """One line for each option whose value is not allowed. Of local files it sees at most whether they exist.

        A subclass adds its own to those of the options that all sources have.
        """
        return self.split_faults()

    def split_faults(self) -> list[str]:
        """One line if there is no such split to evaluate."""
        lines = choice_faults("evaluate", self.evaluate, self.splits)
        if lines and self.evaluate in SPLITS:
            lines[0] += ", the only split that the class declares (splits)"
        return lines

    def files(self) -> list[Path]:
        """The local files and folders that the examples of training and of the split to evaluate are read from; none
        where they are drawn, or from the hub."""
        return []

    def digests(self) -> dict[str, str]:
        """A digest of each of `files`, and of each file below a folder, by its path; here, of all content.

        Raises:
            DataError: naming the file that cannot be read.
        """
        return file_digests(self.files())

    @abstractmethod
    def shape(self) -> DataShape | TextShape:
        """The shape that the loaded data will have: from arithmetic, and for local files from counting examples.

        Raises:
            ValueError: where local files cannot be counted, or are too few; one line for each fault.
        """


class ImageSource(DataSource):
    """A source of labelled images."""

    headline = "accuracy"

    # The options that, where they are null, become what timm says of the model, or the run that is evaluated was
    # trained with: of image_size, interpolation, crop_pct, crop_mode, mean, std.
    of_model: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def shape(self) -> DataShape: ...

    @abstractmethod
    def load(self, seed: int) -> ImageBatches:
        """Read or make the data. ``seed`` orders and augments the training batches."""


class TextSource(DataSource):
    """A source of pairs of an input and a target text."""

    @abstractmethod
    def shape(self) -> TextShape: ...

    def for_classifier(self) -> TextSource:
        """The same data as a classifier is given them, where that makes a difference."""
        return self

    @abstractmethod
    def load(self, seed: int, tokenizer: Tokenizer) -> TextData:
        """Read or make the data, as tokens. ``seed`` orders the training batches.

        Raises:
            DataError: where files cannot be read or reached.
        """


def whole_number_faults(option: str, value: object, lowest: int, highest: int, multiple_of: int = 1) -> list[str]:
    """No line if ``value`` is an int in [lowest, highest] and a multiple of ``multiple_of``, else the line to show."""
    if type(value) is int and lowest <= value <= highest and value % multiple_of == 0:
        return []
    kind = "whole numbers" if multiple_of == 1 else f"multiples of {multiple_of}"
    return [fault(option, value, f"{kind} from {lowest} to {highest}")]


def fraction_faults(option: str, value: object) -> list[str]:
    """No line if ``value`` is a number in [0, 1], else the line to show."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return []
    return [fault(option, value, "numbers from 0 to 1")]


def positive_fraction_faults(option: str, value: object) -> list[str]:
    """No line if ``value`` is a number above 0 and at most 1, else the line to show."""
    if value == 0 and not isinstance(value, bool):
        return [fault(option, value, "numbers above 0, up to 1")]
    return fraction_faults(option, value)


def flag_faults(option: str, value: object) -> list[str]:
    """No line if ``value`` is a bool, else the line to show."""
    return [] if type(value) is bool else [fault(option, value, "true, false")]


def path_faults(option: str, value: object) -> list[str]:
    """No line if ``value`` is a non-empty string or None, else the line to show."""
    if value is None or (isinstance(value, str) and value):
        return []
    return [fault(option, value, "a path, or null for the default")]


def choice_faults(option: str, value: object, allowed: Iterable[str]) -> list[str]:
    """No line if ``value`` is one of the ``allowed`` words, else the line to show."""
    words = list(allowed)
    return [] if isinstance(value, str) and value in words else [fault(option, value, ", ".join(words))]


def fault(option: str, value: object, allowed: str) -> str:
    """The line to show for a value that is not allowed."""
    return f"data.{option}: {value!r} is not allowed; allowed: {allowed}"
