"""Configs as flat mappings from dotted keys to values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Flat = dict[str, Any]


def flatten(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """``{"train": {"epochs": 3.0}}`` to ``{"train.epochs": 3}``: 3 and 3.0 are one number. Empty mappings stay."""
    flat: Flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def without(flat: Flat, keys: Iterable[str]) -> Flat:
    """``flat`` less ``keys`` and everything below them."""
    left_out = tuple(keys)
    below = tuple(f"{key}." for key in left_out)
    return {key: value for key, value in flat.items() if key not in left_out and not key.startswith(below)}


def below(flat: Flat, prefix: str) -> Flat:
    """The part of ``flat`` below ``prefix``, under its shorter names."""
    return {key.removeprefix(prefix): value for key, value in flat.items() if key.startswith(prefix)}


def differing(flats: Sequence[Flat]) -> list[str]:
    """The keys whose values are not the same in all ``flats``, sorted."""
    keys = sorted(set().union(*flats))
    return [key for key in keys if len({_written(flat.get(key)) for flat in flats}) > 1]


def describe(flat: Flat, keys: Iterable[str]) -> str:
    """``"train.epochs=3, optim.lr=0.001"`` for the ``keys`` that ``flat`` has."""
    return ", ".join(f"{key}={_shown(flat[key])}" for key in keys if key in flat)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any) -> str:
    """As a config has it; of a folder on some machine, its name. A large number is short where that loses nothing."""
    if isinstance(value, int | float) and abs(value) >= 1e9 and float(short := f"{value:g}") == value:
        return short
    written = _written(value)
    is_path = isinstance(value, str) and value.startswith(("/", "~", "."))
    return written.rstrip("/").rsplit("/", 1)[-1] if is_path else written
