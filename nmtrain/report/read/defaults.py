"""What a run's settings are unless someone says otherwise: the values in the files of conf/ that its config chose.

Read as plain YAML: composing them as a run does takes longer than a whole report on a few runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

import nmtrain.conf
from nmtrain.config.small_models import SMALL_MODEL_OPTIONS
from nmtrain.report.read.flat import Flat, flatten, without

_CONF = Path(next(iter(nmtrain.conf.__path__)))


def shipped_settings(setting: Flat) -> Flat:
    """The defaults of the sections model, data, mask, optim and train, for the model, data and optimizer chosen."""
    shipped = _shipped(*(setting.get(key) for key in ("model.name", "model.kind", "data.name", "optim.name")))
    if setting.get("model.pretrained"):
        return shipped
    own = SMALL_MODEL_OPTIONS.get(setting.get("model.name") or "", {})
    return flatten({"model": {"options": own}}) | shipped if own else shipped


def shipped_options(recipe: str) -> Flat:
    """The defaults of a recipe's options; empty for one that is not ours."""
    return flatten(_read("recipe", recipe))


@lru_cache(maxsize=256)
def _shipped(model: str | None, kind: str | None, data: str | None, optim: str | None) -> Flat:
    chosen = _model(model, kind)
    sections = {
        "model": chosen,
        "data": _read("data", data),
        "mask": _read("mask", "default"),
        "optim": _read("optim", optim),
        "train": _read("train", chosen.get("defaults", {}).get("train", "default")),
    }
    flat = without(flatten(sections), ("model.defaults", "model.name", "model.roles", "mask.roles"))
    return {key: value for key, value in flat.items() if value != {}}


def _model(name: str | None, kind: str | None) -> dict[str, Any]:
    """The file of that model; of one that has none (``model.name=``), the first file of its kind."""
    files = [_read("model", path.stem) for path in sorted((_CONF / "model").glob("*.yaml"))]
    named = [content for content in files if content.get("name") == name]
    alike = [content for content in files if content.get("kind") == kind]
    return next(iter(named + alike), {})


@lru_cache(maxsize=256)
def _read(group: str, option: str | None) -> dict[str, Any]:
    """A file with what it builds on. Its ``defaults`` are left as {group: choice of its own}."""
    file = _CONF / group / f"{option}.yaml"
    if option is None or not file.is_file():
        return {}
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    merged: dict[str, Any] = {}
    chosen: dict[str, str] = {}
    for entry in content.pop("defaults", ()):
        if isinstance(entry, Mapping):  # "override /train@_global_.train": "text"
            chosen |= {key.split("/")[-1].split("@")[0]: choice for key, choice in entry.items()}
        elif entry != "_self_":
            merged |= _read(group, entry)
    return merged | content | ({"defaults": chosen} if chosen else {})
