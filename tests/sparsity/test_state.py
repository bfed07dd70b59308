"""What a recipe may ask for at an update: values that the transform has a meaning for, and no others."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import SparsityState

TARGET = NMPattern(1, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pattern": "1:4"},
        {"decay": math.nan},
        {"decay": 7.0},
        {"decay": -1e-9},
        {"decay": "0.5"},
        {"decay": True},
        {"gradient": "nonsense"},
        {"penalty": -1.0},
        {"penalty": math.inf},
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match="SparsityState: ") as refused:
        SparsityState(**{"pattern": TARGET} | wrong)
    assert f"{name}={value!r}" in str(refused.value)


def test_the_ends_of_the_range_are_allowed() -> None:
    assert not SparsityState(TARGET, decay=1).strict
    assert SparsityState(TARGET, decay=0, penalty=0).strict
