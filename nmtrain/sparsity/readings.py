"""What a reading of a sparse weight keeps for the next one of the same forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Readings:
    """Lets a weight that one forward of the model reads several times be sparsified once.

    What is kept is the value, without a graph: each reading has a gradient of its own, and under gradient checkpointing
    saves the same tensors whether it is the first or not. A value is kept up to its last reading, as often as a forward
    was seen to read it, and never past the forward's end. So it needs no memory that autograd does not need anyway, and
    nothing that happens to weights or masks between two forwards can make it stale.
    """

    def __init__(self) -> None:
        self._most: dict[Any, int] = {}  # readings in one forward
        self._seen: dict[Any, int] | None = None  # readings in the forward that runs, if one does
        self._values: dict[Any, Tensor] = {}

    def begin(self, *_: Any) -> None:
        if not torch.compiler.is_compiling():
            self._seen = {}

    def end(self, *_: Any) -> None:
        if not torch.compiler.is_compiling():
            for key, count in (self._seen or {}).items():
                self._most[key] = max(count, self._most.get(key, 0))
            self._seen = None
            self._values.clear()

    def value(self, key: Any) -> Tensor | None:
        """The value of an earlier reading, where it is kept. A compiled forward finds equal ones by itself."""
        return None if torch.compiler.is_compiling() or self._seen is None else self._values.pop(key, None)

    def keep(self, key: Any, output: Tensor) -> None:
        """Count a reading, and keep what it gave if another one is to come."""
        if torch.compiler.is_compiling() or (seen := self._seen) is None:
            return
        seen[key] = count = seen.get(key, 0) + 1
        if count < self._most.get(key, count + 1):
            self._values[key] = output.detach()
