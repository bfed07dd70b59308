"""What N:M sparsity is: pattern, mask, transform, and surgery on stock models. Imports torch only.

Names are loaded on first use, so that a config can be checked without paying for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmtrain.sparsity.apply import remove_sparsity, sparsify_model, sparsity_control, verify_sparsity
    from nmtrain.sparsity.control import SparsityControl
    from nmtrain.sparsity.mask import Axis, nm_mask
    from nmtrain.sparsity.pattern import NMPattern
    from nmtrain.sparsity.rules import NoTensorLeft, SparseTensor, SparsityRule, resolve_rules
    from nmtrain.sparsity.sparsify import nm_sparsify
    from nmtrain.sparsity.state import GradientRule, SparsityState
    from nmtrain.sparsity.stock import stock_state_dict

__all__ = [
    "Axis",
    "GradientRule",
    "NMPattern",
    "NoTensorLeft",
    "SparseTensor",
    "SparsityControl",
    "SparsityRule",
    "SparsityState",
    "nm_mask",
    "nm_sparsify",
    "remove_sparsity",
    "resolve_rules",
    "sparsify_model",
    "sparsity_control",
    "stock_state_dict",
    "verify_sparsity",
]

_HOME = {
    "Axis": "mask",
    "GradientRule": "state",
    "NMPattern": "pattern",
    "NoTensorLeft": "rules",
    "SparseTensor": "rules",
    "SparsityControl": "control",
    "SparsityRule": "rules",
    "SparsityState": "state",
    "nm_mask": "mask",
    "nm_sparsify": "sparsify",
    "remove_sparsity": "apply",
    "resolve_rules": "rules",
    "sparsify_model": "apply",
    "sparsity_control": "apply",
    "stock_state_dict": "stock",
    "verify_sparsity": "apply",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
