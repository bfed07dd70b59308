"""Options of data that came later: what a config means that does not have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABSENT: dict[str, dict[str, Any]] = {"digits": {"test_split": False}, "text": {"test_fraction": 0.0}}


def completed(data: Mapping[str, Any], model_kind: object) -> dict[str, Any]:
    """The data section of a run's config.yaml, with what the absence of an option meant when it was written.

    No test data were held out, and classifiers were given T5's string and words.
    """
    meant = {"evaluate": "val"} | _ABSENT.get(str(data.get("name")), {})
    if data.get("name") == "glue" and model_kind == "text_classifier":
        meant["form"] = "t5"
    return {**meant, **data}
