"""Options of our small language models, where the user sets none.

They stand here and not in the YAML of these models, since a checkpoint or another architecture under the same YAML
keeps the dropout that it has.
"""

from typing import Any

SMALL_MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "t5": {"dropout_rate": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
