"""Which runs may be averaged: configs that differ in seed, recipe and pattern only share a group.

A *group* is what one main table shows. A *family* also takes runs of other lengths: what the comparison at equal
training FLOPs needs. Dense runs carry no pattern, so their keys leave the mask out, and every sparse run knows the key
of the dense runs that belong beside it. What a config says is taken in one form, however it was written (as in
`nmtrain.config.check`, which names runs), and what an older config does not say has its default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from nmtrain.config.naming import teacher_name
from nmtrain.data import options_of_test_alone
from nmtrain.data.earlier import completed
from nmtrain.recipes import RECIPES, Recipe
from nmtrain.report.read.defaults import shipped_settings
from nmtrain.report.read.flat import Flat, describe, differing, flatten, without
from nmtrain.sparsity.pattern import NMPattern

TUNED = "tuned"  # what a setting says of a key whose value each recipe chose (`nmtrain.report.read.tunings`)
# What tables vary within one group.
VARIED = ("seed", "recipe", "sparsity")
# What changes nothing about a result: at least the keys that `nmtrain.config.check` keeps out of run names.
NOT_RESULT = (
    "results_dir",
    "force",
    "dry_run",
    "retry",
    "allow_changed",
    "cluster",
    "tune",
    "measure",
    "tracking",
    "launch",
    "model.roles",
    "data.cache_dir",
    "data.max_damaged",
    "data.prefetch",
    "data.workers",
    "data.download",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_after",
    "train.eval_batch_size",
    "train.gradient_checkpointing",
)
BUDGET = "train.flops"
LENGTH = ("train.epochs", "train.updates", BUDGET)
# What a dense run never looks at.
SPARSE_ONLY = ("mask",)
# What a title does not repeat: it stands elsewhere in it, or changes the way to a result and not the result.
_UNTITLED = (
    *("mask.roles", "mask.patterns", "data.task", "data.pair", "data.path", "data.evaluate", *LENGTH),
    *("train.eval_every", "train.compile", "train.device"),
    # Resolved from the model where a config leaves them open; what is shipped is null.
    *(f"data.{option}" for option in ("interpolation", "crop_pct", "crop_mode", "mean", "std")),
)

_ROLES = ("ff", "q", "k", "v", "o", "conv")  # the order in which architecture.md names them

# A column names its gradient rule where it is not the recipe's default. Whether plug-ins are loaded changes no report.
DEFAULT_GRADIENT = {
    name: str(recipe.gradient)
    for name, recipe in RECIPES.items()
    if recipe.__module__.startswith(Recipe.__module__.rpartition(".")[0])
}
# Options that the name of the variant tells.
_IN_VARIANT = ("structure", "decay")

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
    "gmp": "GMP",
    "asp": "ASP",
    "step": "STEP",
    "s_ste": "S-STE",
    "feather": "Feather",
    "rigl": "RigL",
    "top_kast": "Top-KAST",
    "ac_dc": "AC/DC",
    "maxq": "MaxQ",
}


@dataclass(frozen=True)
class Keys:
    """Digests of what a run shares with the others of its group and family; see the module's first lines."""

    group: str
    family: str
    dense_group: str
    dense_family: str


def setting_of(config: Mapping[str, Any]) -> Flat:
    """The part of a config that all runs of a group share."""
    given = without(flatten(config), VARIED + NOT_RESULT)
    default = without(shipped_settings(given), ("model.options",))  # what is not said there is up to the library
    setting = default | {key: value for key, value in given.items() if value != {}}
    setting |= flatten({"data": completed(config.get("data") or {}, setting.get("model.kind"))})
    unread = options_of_test_alone(setting.get("data.name", "")) if setting["data.evaluate"] == "val" else ()
    setting = without(setting, (*NOT_RESULT, *(f"data.{option}" for option in unread)))
    if setting.get("train.updates") is not None or setting.get(BUDGET) is not None:
        setting.pop("train.epochs", None)  # overridden
    if start := setting.pop("init_from", None):
        setting["init_from"] = PurePath(start).name  # as in run names, wherever it lies
    if teacher := setting.get("train.teacher"):
        setting["train.teacher"] = teacher_name(teacher)
    for key in ("mask.roles", "mask.names"):
        setting[key] = sorted(setting.get(key) or ())
    stacks = sorted(set(setting.get("mask.stacks") or ()))
    setting["mask.stacks"] = stacks if len(stacks) == 1 else None
    return setting | {key: pattern_text(value) for key, value in setting.items() if key.startswith("mask.patterns.")}


def pattern_text(pattern: str) -> str:
    """``"1:4"`` for ``" 1 : 4"``."""
    return str(NMPattern.parse(pattern))


def roles_text(roles: Iterable[str]) -> str:
    """``ff+q``, in one order."""
    known = [role for role in _ROLES if role in set(roles)]
    return "+".join([*known, *sorted(set(roles) - set(_ROLES))])


def unusual(setting: Flat, is_dense: bool) -> list[str]:
    """The keys of a setting that are not as shipped, and that change a result: what a title must say."""
    default = shipped_settings(setting)
    told = without(setting, _UNTITLED + (SPARSE_ONLY if is_dense else ()))
    return [
        key
        for key, value in sorted(told.items())
        if (key in default or key.startswith("model.options.") or key == "init_from" or value == TUNED)
        and value != default.get(key)
    ]


def data_label(data: Mapping[str, Any]) -> str:
    """The data as titles name it: ``glyphs``, ``glue-mnli``, ``wmt-en-de``."""
    return "-".join([data["name"], *(data[key] for key in ("task", "pair") if data.get(key))])


def keys_of(setting: Flat, is_dense: bool) -> Keys:
    return _keys(json.dumps(setting, sort_keys=True, default=str), is_dense)


@lru_cache(maxsize=1024)
def _keys(written: str, is_dense: bool) -> Keys:
    setting = json.loads(written)
    dense_group = _digest(without(setting, SPARSE_ONLY))
    dense_family = _digest(without(setting, SPARSE_ONLY + LENGTH))
    if is_dense:
        return Keys(dense_group, dense_family, dense_group, dense_family)
    return Keys(_digest(setting), _digest(without(setting, LENGTH)), dense_group, dense_family)


def _digest(flat: Flat) -> str:
    return hashlib.blake2b(json.dumps(flat, sort_keys=True).encode(), digest_size=4).hexdigest()


def density_of(pattern: str | None) -> float:
    """N/M; 1 for None, which is dense."""
    return 1.0 if pattern is None else NMPattern.parse(pattern).density


def pattern_order(pattern: str) -> tuple[float, int]:
    """Sort key: densest first, then the smaller groups."""
    parsed = NMPattern.parse(pattern)
    return -parsed.density, parsed.m


def column_labels(
    recipes: Sequence[tuple[str, str, str, Flat]], default: Mapping[str, Flat] | None = None
) -> list[str]:
    """The column that each run belongs in, given (recipe, variant, gradient rule, options) of every run.

    Runs share a column only if their variant, gradient rule and options agree. The label says what is not plain: a
    gradient rule other than the recipe's default, options other than the ``default`` ones (by recipe), and, of options
    without a default, those in which runs of one variant differ.
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
        usual = (default or {}).get(recipe, {})
        own = [key for key in usual if key in options and key not in _IN_VARIANT and options[key] != usual[key]]
        if keys := sorted({*own, *(key for key in varying[variant, gradient] if key not in usual)}):
            label += f" ({describe(options, keys)})"
        labels.append(label)
    return labels


def variant_label(variant: str) -> str:
    """The name in tables; unknown variants keep their own."""
    structure, _, decay = variant.rpartition("_")
    if variant not in VARIANTS and structure in VARIANTS and structure.startswith("sdgf"):  # decays the mask too
        return f"{VARIANTS[structure]} + {decay} decay"
    return VARIANTS.get(variant, variant)


def column_order(column: tuple[str, str]) -> tuple[int, str, str]:
    """Sort key of (variant, label)."""
    variant, label = column
    known = list(VARIANTS)
    family = variant if variant in VARIANTS else variant.rpartition("_")[0]
    return (known.index(family) if family in known else len(known), variant, label)
