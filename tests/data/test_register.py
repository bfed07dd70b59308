"""Data of one's own: what `register` takes, and how it says what it does not take."""

from dataclasses import dataclass, field

import pytest

from nmtrain.data import (
    DataShape,
    ImageSource,
    TextShape,
    TextSource,
    data_names,
    default_options,
    describe_data,
    register,
)
from nmtrain.errors import PluginError

pytestmark = pytest.mark.usefixtures("registries_as_before")


@dataclass(frozen=True)
class Blobs(ImageSource):
    name = "blobs"
    size: int = 64
    colours: tuple[str, ...] = ("red", "blue")
    kinds: list[int] = field(default_factory=lambda: [1, 2])

    def faults(self):
        return super().faults()

    def shape(self):
        return DataShape(len(self.colours), 3, 16, self.size, 8)

    def load(self, seed):
        raise NotImplementedError


@dataclass(frozen=True)
class Lines(TextSource):
    name = "lines"
    headline = "accuracy"

    def faults(self):
        return super().faults()

    def shape(self):
        return TextShape(8, 8, 8, 8, ())

    def load(self, seed, tokenizer):
        raise NotImplementedError


def test_a_registered_source_is_described_by_its_name_and_options():
    assert register(Blobs) is Blobs
    assert register(Lines) is Lines
    assert "blobs" in data_names(text=False)
    assert "lines" in data_names(text=True)
    assert describe_data("blobs", size=128).train_size == 128
    with pytest.raises(
        ValueError, match=r"data.length=3: data=blobs has no such option. Available: \[evaluate, size, "
    ):
        describe_data("blobs", length=3)
    with pytest.raises(ValueError, match=r"^data.evaluate: 'train' is not allowed; allowed: val$"):
        describe_data("blobs", evaluate="train")


def test_a_source_has_the_splits_that_it_declares():
    """One that knows nothing of `evaluate` would give its validation data for the test split."""

    @register
    @dataclass(frozen=True)
    class Tested(Blobs):
        name = "tested"
        splits = ("val", "test")

        def faults(self):
            return []  # what all sources have is seen to, whatever a class makes of it

    register(Blobs)
    assert describe_data("tested", evaluate="test").val_size == 8
    with pytest.raises(ValueError, match=r"^data.evaluate: 'train' is not allowed; allowed: val, test$"):
        describe_data("tested", evaluate="train")
    told = "data.evaluate: 'test' is not allowed; allowed: val, the only split that the class declares"
    with pytest.raises(ValueError, match=rf"^{told} \(splits\)$"):
        describe_data("blobs", evaluate="test")


def test_its_default_options_are_such_as_yaml_has():
    register(Blobs)
    assert default_options("blobs") == {"evaluate": "val", "size": 64, "colours": ["red", "blue"], "kinds": [1, 2]}


def unnamed():
    @dataclass(frozen=True)
    class Mine(Blobs):
        pass

    return Mine


def abstract():
    @dataclass(frozen=True)
    class Mine(ImageSource):
        name = "mine"

    return Mine


def undecorated():
    class Mine(Blobs):
        name = "mine"
        more: int = 3

    return Mine


def without_default():
    @dataclass(frozen=True, kw_only=True)
    class Mine(Blobs):
        name = "mine"
        path: str

    return Mine


def without_validation():
    @dataclass(frozen=True)
    class Mine(Blobs):
        name = "mine"
        splits = ("test", "dev")

    return Mine


def taken():
    @dataclass(frozen=True)
    class Mine(Blobs):
        name = "digits"

    return Mine


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (DataShape, r"is no subclass of nmtrain.data.ImageSource or TextSource"),
        (unnamed(), r"data Mine: the class has no name; add the line name = 'mine'"),
        (abstract(), r"data mine: the class does not define faults, load, shape"),
        (undecorated(), r"data mine: the class is no dataclass; write @dataclass\(frozen=True\) below @register"),
        (without_default(), r"data mine: the options \['path'\] have no defaults"),
        (without_validation(), r"""splits=\('test', 'dev'\) is neither \("val",\) nor \("val", "test"\)"""),
        (taken(), r"data digits: the name is taken by nmtrain itself; choose another"),
    ],
)
def test_what_cannot_be_a_source_is_refused_at_once(given, message):
    before = data_names()
    with pytest.raises(PluginError, match=message):
        register(given)
    assert data_names() == before
