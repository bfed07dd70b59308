"""Data sets turned into batches. A new source is one class, one line in ``_SOURCES``, one YAML file, one test.

Importing this package, and describing a data set, imports neither torch nor any imaging library.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from nmtrain.data.digits import Digits
from nmtrain.data.glyphs import Glyphs
from nmtrain.data.source import DataShape, DataSource

if TYPE_CHECKING:
    from nmtrain.data.images import ImageData

__all__ = ["DataShape", "DataSource", "data_names", "describe_data", "load_data"]

_SOURCES: dict[str, type[DataSource]] = {
    "digits": Digits,
    "glyphs": Glyphs,
}


def data_names() -> list[str]:
    """The names that :func:`describe_data` and :func:`load_data` know."""
    return sorted(_SOURCES)


def describe_data(name: str, **options: Any) -> DataShape:
    """Check ``options`` and say what the data will look like; nothing is read, drawn or downloaded.

    Raises:
        ValueError: for an unknown name, unknown options or values that are not allowed; one line for each fault.
    """
    return _source(name, options).shape()


def load_data(name: str, *, seed: int, **options: Any) -> ImageData:
    """Load a data set, on the CPU. ``seed`` is the run's: it fixes the order and the augmentation of the batches.

    What the images are depends on ``options`` alone, never on ``seed``.

    Raises:
        ValueError: as :func:`describe_data`.
    """
    return _source(name, options).load(seed)


def _source(name: str, options: dict[str, Any]) -> DataSource:
    if name not in _SOURCES:
        raise ValueError(f"data.name: {name!r} is not a data source. Available: [{', '.join(data_names())}]")
    known = [field.name for field in fields(_SOURCES[name])]
    source = _SOURCES[name](**{option: value for option, value in options.items() if option in known})
    lines = [
        f"data.{option}={options[option]!r}: data={name} has no such option. Available: [{', '.join(known)}]"
        for option in options
        if option not in known
    ]
    lines += source.faults()
    if lines:
        raise ValueError("\n".join(lines))
    return source
