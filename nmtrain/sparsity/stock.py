"""A sparsified model's weights as they are used, under the names of the stock model."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nmtrain.sparsity.control import SparseWeight


@torch.no_grad()
def stock_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the stock model, each sparse weight as the forward now uses it.

    Where the state in force is strict, that is exactly N:M, with exact zeros. The model stays as it is, and shares the
    tensors that are not sparse.
    """
    state = dict(model.state_dict())
    for name, module in model.named_modules(remove_duplicate=False):
        if not parametrize.is_parametrized(module):
            continue
        for attribute, registered in cast(nn.ModuleDict, module.parametrizations).items():
            if isinstance(cast(nn.ModuleList, registered)[0], SparseWeight):
                prefix = f"{name}." if name else ""
                inner = f"{prefix}parametrizations.{attribute}."
                state = {key: tensor for key, tensor in state.items() if not key.startswith(inner)}
                state[prefix + attribute] = getattr(module, attribute)
    return state
