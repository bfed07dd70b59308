"""Shipped configs as plain values, and a way to change them."""

import copy

import pytest

from nmtrain.config.compose import compose_values


@pytest.fixture(scope="module")
def shipped():
    """Resolved values of the shipped configs, by their overrides; composed once."""
    composed = {}

    def values(*overrides):
        if overrides not in composed:
            composed[overrides] = compose_values(list(overrides))
        return copy.deepcopy(composed[overrides])

    return values


def put(values, **changes):
    """Values with dotted keys (``train__epochs``) replaced; the parts between must exist."""
    for dotted, value in changes.items():
        *sections, key = dotted.split("__")
        place = values
        for section in sections:
            place = place[section]
        place[key] = value
    return values
