"""When a dense phase ends that training has to find the end of: AutoSwitch (Lu et al., 2023, arXiv 2302.01172)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class AutoSwitch:
    """Says when Adam's second moment v of the sparse weights is learnt, from how much it still changes.

    That is when the mean of ``|v_t - v_(t-1)|`` over their entries, averaged over the last ``1 / (1 - beta2)`` updates
    (all so far where these are fewer), is less than Adam's eps. As in the published code, v is without bias correction
    and the mean over entries arithmetic; the paper also has a geometric one. What is ours: the question is put at each
    hundredth of training, not at each update, since an answer has to wait for the device; and the change is computed
    as ``(1 - beta2) |g^2 - v_(t-1)|``, which needs no copy of v.

    Args:
        weights: those whose moments will be held, and which of their rows; the optimizer is AdamW.
        between: the first and the last update that may end the dense phase.
        total: planned updates.
    """

    def __init__(
        self,
        weights: Sequence[tuple[nn.Parameter, slice]],
        optimizer: torch.optim.Optimizer,
        between: tuple[int, int],
        total: int,
    ) -> None:
        self._weights, self._optimizer, self._device = weights, optimizer, weights[0][0].device
        self._earliest, self._latest = between
        self._every = max(1, total // 100)
        group = optimizer.param_groups[0]
        self._beta2, self._eps = group["betas"][1], group["eps"]
        self._changes: deque[Tensor] = deque(maxlen=round(1 / (1 - self._beta2)))

    @torch.no_grad()
    def see_gradients(self) -> None:
        """Take in what the optimizer's next step changes. Call once per update, right before that step."""
        changes = [torch.zeros((), device=self._device)]  # the forward may have skipped all of them
        for weight, rows in self._weights:
            if weight.grad is not None:
                change = weight.grad[rows].square()
                if (moment := self._optimizer.state[weight].get("exp_avg_sq")) is not None:
                    change -= moment[rows]
                changes.append(change.norm(1))
        entries = sum(weight[rows].numel() for weight, rows in self._weights)
        self._changes.append((1 - self._beta2) * torch.stack(changes).sum() / entries)

    @property
    def change(self) -> float:
        """How much v changed in the mean over the window."""
        return float(torch.stack(list(self._changes)).mean())

    def ends(self, done: int) -> bool:
        """Whether the dense phase ends with the first ``done`` updates."""
        if not self._earliest <= done <= self._latest or (self._latest - done) % self._every:
            return False
        return done == self._latest or (bool(self._changes) and self.change < self._eps)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to switch at the same update."""
        return {"changes": list(self._changes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._changes.extend(change.to(self._device) for change in state["changes"])
