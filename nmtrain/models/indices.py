"""Language models on the meta device that see real token ids, positions and masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class RealIndices(TorchDispatchMode):
    """Keeps integers and bools on the CPU where the model is on the meta device, whose tensors have no values.

    The code of transformers asks for values: whether a mask hides anything, which tokens are attended to globally, how
    many positions a text takes. With real ones it does what it does in training, and a position that the model's table
    has not is found, which the meta device would look up without a word.

    Build the model inside, on the meta device, and call it inside, with ids and masks on the CPU.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.embedding.default:
            _require_rows(*args[:2])
        if any(_is_meta(value) for value in tree_leaves((args, kwargs))):
            args, kwargs = tree_map(_to_meta, (args, kwargs))
            return func(*args, **kwargs)
        if torch.device(kwargs.get("device") or "cpu").type != "meta":
            return func(*args, **kwargs)
        made: Tensor = func(*args, **kwargs)
        return made if made.is_floating_point() else func(*args, **(kwargs | {"device": torch.device("cpu")}))


def _require_rows(table: Tensor, indices: Tensor) -> None:
    """What `torch.nn.functional.embedding` checks by itself where ``table`` has values."""
    if not indices.is_meta and indices.numel() and (largest := int(indices.max())) >= len(table):
        raise IndexError(f"row {largest} of a table with {len(table)} rows is looked up")


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _to_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value
