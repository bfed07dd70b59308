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
    """The runs of a report, by name: one of them that another started from may have moved here from elsewhere."""

    def __init__(self, folders: Sequence[RunFolder]) -> None:
        self._configs = {folder.path.name: folder.config for folder in folders if folder.config}

    def setting(self, config: Mapping[str, Any]) -> Flat:
        """`setting_of`, in which ``init_from`` says what run it was but for its seed; its name where it is gone."""
        setting = setting_of(config)
        start = config.get("init_from")
        if not start:
            return setting
        began = self._configs.get(Path(start).name) or _config_in(start)
        return setting | {"init_from": self._said(began)} if began else setting

    def _said(self, config: Mapping[str, Any]) -> str:
        """``vit-glyphs-dense-0123abcd``: model, data and recipe, and a digest of all that changes a result."""
        recipe, setting = config["recipe"], self.setting(config)
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
