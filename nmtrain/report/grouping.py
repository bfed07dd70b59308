"""Which runs may be averaged: configs that differ in seed, recipe and pattern only share a group.

A *group* is what one main table shows. A *family* also takes runs of other lengths: what the comparison at equal
training FLOPs needs. Dense runs carry no pattern, so their keys leave the mask out, and every sparse run knows the key
of the dense runs that belong beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmtrain.report.headline import DEFAULT
from nmtrain.sparsity.pattern import NMPattern

Flat = dict[str, Any]

# What tables vary within one group.
VARIED = ("seed", "recipe", "sparsity")
# What changes nothing about a result: at least the keys that `nmtrain.config` keeps out of run names.
NOT_RESULT = (
    "results_dir",
    "force",
    "dry_run",
    "measure",
    "tracking",
    "model.roles",
    "data.cache_dir",
    "train.log_every",
    "train.checkpoint_every",
    "train.eval_batch_size",
)
LENGTH = ("train.epochs", "train.updates")
# What a dense run never looks at.
SPARSE_ONLY = ("mask",)

# A column names its gradient rule where it is not the recipe's default (method.md, section 2).
DEFAULT_GRADIENT = {
    "static": "masked",
    "ste": "straight_through",
    "sr_ste": "straight_through",
    "mdgf": "masked",
    "sdgf": "straight_through",
}

# The order of columns, legends and lists. Further variants follow by name.
VARIANTS = {
    "dense": "dense",
    "static": "static",
    "ste": "STE",
    "sr_ste": "SR-STE",
    "mdgf_exponential": "MDGF exponential",
    "mdgf_linear": "MDGF linear",
    "sdgf_stepwise": "SDGF stepwise",
    "sdgf_geometric": "SDGF geometric",
    "sdgf_densify": "SDGF densify",
    "sdgf_custom": "SDGF custom",
}


@dataclass(frozen=True)
class Keys:
    """Digests of what a run shares with the others of its group and family; see the module's first lines."""

    group: str
    family: str
    dense_group: str
    dense_family: str


def flatten(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """``{"train": {"epochs": 3.0}}`` to ``{"train.epochs": 3}``: 3 and 3.0 are one number. Empty mappings stay."""
    flat: Flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = int(value) if isinstance(value, float) and value.is_integer() else value
    return flat


def without(flat: Flat, keys: Iterable[str]) -> Flat:
    """``flat`` less ``keys`` and everything below them."""
    left_out = tuple(keys)
    below = tuple(f"{key}." for key in left_out)
    return {key: value for key, value in flat.items() if key not in left_out and not key.startswith(below)}


def setting_of(config: Mapping[str, Any], headline: str) -> Flat:
    """The part of a config that all runs of a group share, and the metric that they are compared by."""
    compared = {} if headline == DEFAULT else {"headline": headline}
    return without(flatten(config), VARIED + NOT_RESULT) | compared


def data_label(data: Mapping[str, Any]) -> str:
    """The data as titles name it: ``glyphs``, ``glue-mnli``, ``wmt-en-de``."""
    return "-".join([data["name"], *(data[key] for key in ("task", "pair") if data.get(key))])


def keys_of(setting: Flat, is_dense: bool) -> Keys:
    dense_group = _digest(without(setting, SPARSE_ONLY))
    dense_family = _digest(without(setting, SPARSE_ONLY + LENGTH))
    if is_dense:
        return Keys(dense_group, dense_family, dense_group, dense_family)
    return Keys(_digest(setting), _digest(without(setting, LENGTH)), dense_group, dense_family)


def _digest(flat: Flat) -> str:
    return hashlib.blake2b(json.dumps(flat, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()


def differing(flats: Sequence[Flat]) -> list[str]:
    """The keys whose values are not the same in all ``flats``, sorted."""
    keys = sorted(set().union(*flats))
    return [key for key in keys if len({_written(flat.get(key)) for flat in flats}) > 1]


def describe(flat: Flat, keys: Iterable[str]) -> str:
    """``"train.epochs=3, optim.lr=0.001"`` for the ``keys`` that ``flat`` has."""
    return ", ".join(f"{key}={_written(flat[key])}" for key in keys if key in flat)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def density_of(pattern: str | None) -> float:
    """N/M; 1 for None, which is dense."""
    return 1.0 if pattern is None else NMPattern.parse(pattern).density


def pattern_order(pattern: str) -> tuple[float, int]:
    """Sort key: densest first, then the smaller groups."""
    parsed = NMPattern.parse(pattern)
    return -parsed.density, parsed.m


def column_labels(recipes: Sequence[tuple[str, str, str, Flat]]) -> list[str]:
    """The column that each run belongs in, given (recipe, variant, gradient rule, options) of every run.

    Runs share a column only if their variant, gradient rule and options agree. The label says what is not plain: a
    gradient rule other than the recipe's default, and the options in which runs of one variant differ.
    """
    variants: dict[tuple[str, str], list[Flat]] = {}
    for _, variant, gradient, options in recipes:
        seen = variants.setdefault((variant, gradient), [])
        if options not in seen:
            seen.append(options)
    varying = {key: differing(options) for key, options in variants.items()}
    labels = []
    for recipe, variant, gradient, options in recipes:
        label = variant_label(variant)
        if recipe != "dense" and gradient != DEFAULT_GRADIENT.get(recipe):
            label += f", {gradient.replace('_', '-')} gradient"
        if keys := varying[variant, gradient]:
            label += f" ({describe(options, keys)})"
        labels.append(label)
    return labels


def variant_label(variant: str) -> str:
    """The name in tables; unknown variants keep their own."""
    structure, _, decay = variant.rpartition("_")
    if variant not in VARIANTS and structure in VARIANTS:  # SDGF that decays the mask too
        return f"{VARIANTS[structure]} + {decay} decay"
    return VARIANTS.get(variant, variant)


def column_order(column: tuple[str, str]) -> tuple[int, str, str]:
    """Sort key of (variant, label)."""
    variant, label = column
    known = list(VARIANTS)
    family = variant if variant in VARIANTS else variant.rpartition("_")[0]
    return (known.index(family) if family in known else len(known), variant, label)
