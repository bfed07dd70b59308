"""What launchers say in the environment, taken or refused."""

import pytest

from nmtrain.errors import ConfigError
from nmtrain.training.distribution.place import Place, place_among_ranks

WHOLE = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def place(monkeypatch):
    def found(**variables):
        for name in (*WHOLE, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return place_among_ranks()

    return found


def test_one_process_is_alone_whatever_else_is_set(place):
    assert place() is None
    assert place(WORLD_SIZE="1", RANK="0", LOCAL_RANK="0") is None
    assert place(LOCAL_RANK="1", RANK="1") is None


def test_one_of_several_knows_its_place(place):
    assert place(**WHOLE) == Place(3, 4, 3, 4)
    assert place(**WHOLE, LOCAL_RANK="1", LOCAL_WORLD_SIZE="2") == Place(3, 4, 1, 2)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"MASTER_PORT": ""}, "WORLD_SIZE=4: says that there are several processes, but MASTER_PORT, by which"),
        ({"RANK": "4"}, "RANK=4: is not below WORLD_SIZE=4"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE=four: is no whole number"),
        ({"MASTER_PORT": "a"}, "MASTER_PORT=a: is no whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(changed, told, place):
    with pytest.raises(ConfigError, match=told):
        place(**WHOLE | changed)
