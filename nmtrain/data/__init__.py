"""Data sets turned into batches. A new source is one class, one line in ``_SOURCES``, one YAML file, one test.

One from outside calls `register` instead of the line.

Importing this package, and describing a data set, imports neither torch nor any imaging library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nmtrain.data.images.cifar.source import Cifar10, Cifar100
from nmtrain.data.images.digits import Digits
from nmtrain.data.images.files.folder import Folder
from nmtrain.data.images.files.imagenet import ImageNet
from nmtrain.data.images.glyphs import Glyphs
from nmtrain.data.shapes import DataShape, TextShape
from nmtrain.data.source import SPLITS, DataSource, ImageSource, TextSource
from nmtrain.data.text.corpus import Corpus
from nmtrain.data.text.g2p import G2P
from nmtrain.data.text.glue import Glue
from nmtrain.data.text.listops import ListOps
from nmtrain.data.text.wmt import WMT
from nmtrain.errors import PluginError
from nmtrain.runs.loaded import enter

if TYPE_CHECKING:
    from nmtrain.data.images.batches import ImageBatches
    from nmtrain.data.text.batches import TextData
    from nmtrain.data.text.tokens import Tokenizer

__all__ = [
    "DataShape",
    "DataSource",
    "ImageSource",
    "TextShape",
    "TextSource",
    "data_names",
    "default_options",
    "describe_data",
    "headline",
    "load_data",
    "local_digests",
    "local_files",
    "options_not_held_out",
    "options_of_model",
    "options_of_test_alone",
    "register",
]

_SOURCES: dict[str, type[ImageSource | TextSource]] = {
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "digits": Digits,
    "folder": Folder,
    "g2p": G2P,
    "glue": Glue,
    "glyphs": Glyphs,
    "imagenet": ImageNet,
    "listops": ListOps,
    "text": Corpus,
    "wmt": WMT,
}


_New = TypeVar("_New", bound=type[ImageSource | TextSource])


def register(source: _New) -> _New:
    """Make a data source of one's own known under its ``name``, a plain class attribute: a decorator of the class.

    Raises:
        PluginError: saying what the class lacks, or who has its name already.
    """
    if not isinstance(source, type) or not issubclass(source, ImageSource | TextSource):
        raise PluginError(f"data {source!r}: is no subclass of nmtrain.data.ImageSource or TextSource")
    name = source.__dict__.get("name")
    called = f"data {name or source.__name__}"
    if name is None:
        raise PluginError(f"{called}: the class has no name; add the line name = {source.__name__.lower()!r}")
    if lacking := sorted(source.__abstractmethods__):
        raise PluginError(f"{called}: the class does not define {', '.join(lacking)}")
    if "__dataclass_fields__" not in source.__dict__:
        raise PluginError(f"{called}: the class is no dataclass; write @dataclass(frozen=True) below @register")
    if bare := [f.name for f in fields(source) if f.default is MISSING and f.default_factory is MISSING]:
        raise PluginError(f"{called}: the options {bare} have no defaults")
    if isinstance(source.splits, str) or "val" not in source.splits or not set(source.splits) <= set(SPLITS):
        raise PluginError(f'{called}: splits={source.splits!r} is neither ("val",) nor ("val", "test")')
    enter("data", name, source, _SOURCES)
    return source


def data_names(text: bool | None = None) -> list[str]:
    """The names that :func:`describe_data` and :func:`load_data` know: all, those of text, or those of images."""
    return sorted(name for name, kind in _SOURCES.items() if text is None or issubclass(kind, TextSource) == text)


def describe_data(name: str, for_classifier: bool = False, /, **options: Any) -> DataShape | TextShape:
    """Check ``options`` and say what the data will look like; at most, the examples of local files are counted.

    Args:
        for_classifier: as an encoder with a classifier's head is given text; not as text to text.

    Raises:
        ValueError: for an unknown name, unknown options or values that are not allowed; one line for each fault.
    """
    return _source(name, options, for_classifier).shape()


def headline(name: str, **options: Any) -> str:
    """The metric that tables show of this data set, such as "accuracy"; no file is looked at, no value is checked.

    Raises:
        ValueError: for an unknown name.
    """
    return _unchecked(name, options).headline


def default_options(name: str) -> dict[str, Any]:
    """The options of a data source that a config need not say, as YAML has them; none of an unknown name."""
    options = asdict(_SOURCES[name]()) if name in _SOURCES else {}
    return {option: list(value) if isinstance(value, tuple) else value for option, value in options.items()}


def options_not_held_out(trained: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The options by whose values now a run may be scored on what it was trained on.

    Args:
        trained, now: sections ``data`` of one name, that of the run and that to score by.
    """
    if trained["name"] not in _SOURCES:
        return []
    source = _SOURCES[trained["name"]]
    changed = [option for option in source.held_out_by if now.get(option) != trained.get(option)]
    sizes = [(option, now.get(option), trained.get(option)) for option in source.held_out_up_to]
    return changed + [option for option, size, before in sizes if size != before and not _is_less(size, before)]


def _is_less(size: object, before: object) -> bool:
    return isinstance(size, int) and isinstance(before, int) and size < before


def options_of_test_alone(name: str) -> tuple[str, ...]:
    """The options that say what the test split is, and change nothing where that is not evaluated on."""
    return _SOURCES[name].of_test_alone if name in _SOURCES else ()


def options_of_model(name: str) -> tuple[str, ...]:
    """The options that are the model's to say where they are null."""
    kind = _SOURCES.get(name)
    return kind.of_model if kind is not None and issubclass(kind, ImageSource) else ()


def local_files(name: str, **options: Any) -> list[Path]:
    """The local files and folders that the examples of training and of the split to evaluate are read from; none
    where they are drawn, or from the hub.

    Raises:
        ValueError: as :func:`describe_data`.
    """
    return _source(name, options).files()


def local_digests(name: str, **options: Any) -> dict[str, str]:
    """A digest of each of `local_files`, by its path, which is another one where the examples may be others.

    Raises:
        ValueError: as :func:`describe_data`.
        DataError: naming the file that cannot be read.
    """
    return _source(name, options).digests()


def load_data(
    name: str, *, seed: int, tokenizer: Tokenizer | None = None, for_classifier: bool = False, **options: Any
) -> ImageBatches | TextData:
    """Load a data set, on the CPU. ``seed`` is the run's: it fixes the order and the augmentation of the batches.

    What the examples are depends on ``options`` alone, never on ``seed``.

    Args:
        tokenizer: makes text into ids; needed for text, and for nothing else.
        for_classifier: see :func:`describe_data`.

    Raises:
        ValueError: as :func:`describe_data`.
        DataError: where files cannot be read or reached.
    """
    source = _source(name, options, for_classifier)
    if isinstance(source, TextSource):
        if tokenizer is None:
            raise ValueError(f"data={name} is text, which needs a tokenizer")
        return source.load(seed, tokenizer)
    if tokenizer is not None:
        raise ValueError(f"data={name} has no text for a tokenizer")
    return source.load(seed)


def _source(name: str, options: dict[str, Any], for_classifier: bool = False) -> ImageSource | TextSource:
    source = _unchecked(name, options)
    known = [field.name for field in fields(source)]
    lines = [
        f"data.{option}={options[option]!r}: data={name} has no such option. Available: [{', '.join(known)}]"
        for option in options
        if option not in known
    ]
    lines += source.faults()
    lines += [line for line in source.split_faults() if line not in lines]  # of a class that leaves these out
    if lines:
        raise ValueError("\n".join(lines))
    return source.for_classifier() if for_classifier and isinstance(source, TextSource) else source


def _unchecked(name: str, options: dict[str, Any]) -> ImageSource | TextSource:
    """The source with those options that it has."""
    if name not in _SOURCES:
        raise ValueError(f"data.name: {name!r} is not a data source. Available: [{', '.join(data_names())}]")
    known = {field.name for field in fields(_SOURCES[name])}
    return _SOURCES[name](**{option: value for option, value in options.items() if option in known})
