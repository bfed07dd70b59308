"""What a run started from (``init_from``), as far as runs share it that did so alike: its setting, not its seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from nmtrain.report.read.flat import Flat, flatten, without
from nmtrain.report.read.folders import RunFolder
from nmtrain.report.read.grouping import SPARSE_ONLY, pattern_text, setting_of


class Starts:
    """What the runs of a report started from; a run of the report itself is known by its name, wherever it was."""

    def __init__(self, folders: Sequence[RunFolder]) -> None:
        trained = [folder for folder in folders if folder.config and not folder.afterwards]
        self._configs = {folder.path.name: folder.config for folder in trained}
        self._names: dict[str, set[str]] = {}  # of the runs of each kind that something started from
        for folder in trained:
            if (kind := self._kind_of_start(folder.config)) is not None:
                self._names.setdefault(kind, set()).add(Path(folder.config["init_from"]).name)

    def setting(self, config: Mapping[str, Any]) -> Flat:
        """`setting_of`, in which ``init_from`` is the name of a run, or what several have in common but for the seed.

        Where the run is gone its name stands alone.
        """
        kind = self._kind_of_start(config)
        several = kind is not None and len(self._names.get(kind, ())) > 1
        return setting_of(config) | ({"init_from": kind} if several else {})

    def _kind_of_start(self, config: Mapping[str, Any]) -> str | None:
        start = config.get("init_from")
        began = (self._configs.get(Path(start).name) or _config_in(start)) if start else None
        return self._kind(began) if began else None

    def _kind(self, config: Mapping[str, Any]) -> str:
        """``vit-glyphs-dense-0123abcd``: model, data and recipe, and a digest of all that changes a result."""
        recipe, setting = config["recipe"], setting_of(config)
        if (start := self._kind_of_start(config)) is not None:
            setting["init_from"] = start
        if recipe["name"] == "dense":
            setting = without(setting, SPARSE_ONLY)
        else:
            setting |= flatten({"recipe": recipe}) | {"sparsity": pattern_text(config["sparsity"])}
        content = json.dumps(setting | {"recipe.name": recipe["name"]}, sort_keys=True, default=str)
        digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
        return f"{config['model']['name']}-{config['data']['name']}-{recipe['name']}-{digest}"


@lru_cache(maxsize=256)
def _config_in(folder: str) -> dict[str, Any] | None:
    """What the config.yaml of a run folder says, if there is one that can be read."""
    try:
        config = yaml.safe_load((Path(folder) / "config.yaml").read_bytes())
        return config if all(key in config for key in ("model", "data", "recipe", "sparsity")) else None
    except (OSError, yaml.YAMLError, TypeError):
        return None
