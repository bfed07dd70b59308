"""The weights of the best evaluation so far, kept beside those of the last update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nmtrain.runs.metrics import gain
from nmtrain.sparsity import stock_state_dict


class BestWeights:
    """What scored best by one metric; the first of equals.

    Only an evaluation at which every sparse weight shows its strict target counts: during a dense or a decay phase the
    model is not N:M yet, and pruning it then would give another model than the one that was scored.

    Args:
        metric: as evaluations name it; whether more is better is known of the metric.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.value = math.nan
        self.update = 0
        self.weights: dict[str, Tensor] = {}  # on the CPU, exactly N:M, under the stock model's names; none yet

    def see(self, update: int, value: float, at_target: bool, model: Callable[[], nn.Module]) -> None:
        """Take in an evaluation.

        Args:
            at_target: whether every sparse weight shows its strict target.
            model: gives what was evaluated, with its sparsity in force.
        """
        better = math.isnan(self.value) or gain(self.metric, value) > gain(self.metric, self.value)
        if better and math.isfinite(value) and at_target:
            self.update, self.value = update, value
            state = stock_state_dict(model())
            self.weights = {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def record(self, split: str) -> dict[str, Any]:
        """What summary.json says of it."""
        return {"update": self.update, "metric": f"{split}/{self.metric}", "value": self.value}

    def state_dict(self) -> dict[str, Any]:
        return {"update": self.update, "value": self.value, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.update, self.value, self.weights = state["update"], state["value"], state["weights"]
