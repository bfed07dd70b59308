"""What a sparse model weighs in bytes: kept values and their places within the groups (method, section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, prod

from torch import Tensor, nn

from nmtrain.sparsity import NMPattern, SparseTensor
from nmtrain.sparsity.control import SparseWeight
from nmtrain.sparsity.rules import stock_names


def index_bits(pattern: NMPattern) -> int:
    """Bits per group that say which entries are kept: ``N * ceil(log2 M)``. N = M needs none."""
    return 0 if pattern.n == pattern.m else pattern.n * (pattern.m - 1).bit_length()


def index_floor_bits(pattern: NMPattern) -> int:
    """The fewest bits per group that could say it: ``ceil(log2 C(M, N))``."""
    return (comb(pattern.m, pattern.n) - 1).bit_length()


def sparse_bytes(tensors: Sequence[SparseTensor], value_bits: int = 32, floor: bool = False) -> int:
    """Bytes of sparse tensors at their targets: N values and their index for each group, whole bytes per tensor.

    ``floor`` counts `index_floor_bits` in place of `index_bits`.
    """
    size = 0
    for tensor in tensors:
        pattern = tensor.pattern
        index = index_floor_bits(pattern) if floor else index_bits(pattern)
        groups = prod(tensor.shape) // pattern.m
        size += _whole_bytes(groups * (pattern.n * value_bits + index))
    return size


def model_bytes(model: nn.Module, tensors: Sequence[SparseTensor]) -> dict[str, int]:
    """``{"dense": ..., "sparse": ...}``: bytes of what a saved stock model holds, plain and with ``tensors`` sparse.

    That is every parameter, in its own dtype, and every persistent buffer (batch-norm statistics); what is shared
    counts once; masks never count. The model may be stock or sparsified, on the meta device too.
    """
    by_weight: dict[int, list[SparseTensor]] = {}
    weights = stock_names(model)
    for tensor in tensors:
        by_weight.setdefault(id(weights[tensor.name]), []).append(tensor)
    masks = {id(mask) for module in model.modules() if isinstance(module, SparseWeight) for mask in module.buffers()}
    dense = sparse = 0
    entries: dict[int, Tensor] = {id(entry): entry for entry in model.state_dict(keep_vars=True).values()}
    for key, entry in entries.items():
        if key in masks:
            continue
        parts = by_weight.get(key, [])
        rest = entry.numel() - sum(prod(part.shape) for part in parts)
        dense += entry.numel() * entry.element_size()
        sparse += rest * entry.element_size() + sparse_bytes(parts, value_bits=8 * entry.element_size())
    return {"dense": dense, "sparse": sparse}


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)
