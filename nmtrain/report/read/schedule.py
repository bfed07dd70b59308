"""From which update on a run trained at its patterns."""

from __future__ import annotations

import json
from functools import lru_cache

from nmtrain.recipes import build_recipe
from nmtrain.report.read.folders import RunFolder
from nmtrain.sparsity.pattern import NMPattern


def strict_from(folder: RunFolder) -> int | None:
    """The first update after which every sparse weight was at its own pattern with D = 0; None where there is none.

    The run's records tell it of `sparsity`; for roles with patterns of their own it follows from the recipe.
    """
    recorded = folder.metrics.strict_from if folder.metrics is not None else None
    if recorded is None or folder.summary is None or folder.config["recipe"]["name"] == "dense":
        return recorded
    recipe, total = json.dumps(folder.config["recipe"], default=str), folder.summary["updates"]
    patterns = (folder.config["mask"].get("patterns") or {}).values()
    own = [_strict_from(recipe, str(pattern), int(total), folder.summary.get("switched_at")) for pattern in patterns]
    return None if None in own else max(recorded, *(first for first in own if first is not None), 0)


@lru_cache(maxsize=1024)
def _strict_from(recipe: str, pattern: str, total: int, switched_at: int | None) -> int | None:
    try:
        built, target = build_recipe(target=pattern, **json.loads(recipe)), NMPattern.parse(pattern)
        built = built if switched_at is None else built.switched(switched_at, total)
    except (ValueError, TypeError):  # of another version: its records have to do
        return 0
    first = None
    for update, state in reversed(built.phases(total)):
        if not state.strict or state.pattern != target:
            break
        first = update
    return first and first + 1  # an evaluation after update u sees the masks of that update
