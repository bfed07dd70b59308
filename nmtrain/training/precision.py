"""Half precision: what is computed in it, and the scale by which fp16 keeps small gradients from vanishing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nmtrain.errors import TrainingError

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Products inside are computed in ``precision``; weights and their gradients stay fp32."""
    return torch.autocast(device.type, _HALF.get(precision), enabled=precision in _HALF)


class LossScale:
    """The factor of the loss from which fp16's gradients are made (Micikevicius et al., 2018); 1 for other precisions.

    It is halved by gradients that overflow, whose update is skipped, and doubled after 2000 updates without such
    (torch's `GradScaler`, whose step is not used: penalty, exchanges, meters and clipping come between it and ours).
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.skipped = 0  # updates

    def scaled(self, loss: Tensor) -> Tensor:
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> bool:
        """Bring the gradients of a whole update back to their size. False where some are not finite.

        Raises:
            TrainingError: where gradients overflow without being enlarged at all.
        """
        before = self._scaler.get_scale()
        self._scaler.unscale_(optimizer)
        self._scaler.update()
        after = self._scaler.get_scale()
        if after < 1:
            raise TrainingError(
                "the gradients exceed the 65504 of half precision as they are; train.precision=bf16 or fp32 takes them"
            )
        self.skipped += after < before
        return after >= before

    def record(self) -> dict[str, Any]:
        """For a line of metrics.jsonl; nothing where nothing is scaled."""
        if not self._scaler.is_enabled():
            return {}
        return {"loss_scale": self._scaler.get_scale(), "skipped_updates": self.skipped}

    def state_dict(self) -> dict[str, Any]:
        return {"scaler": self._scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]
