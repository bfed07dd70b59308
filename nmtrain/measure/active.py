"""How many of a model's parameters take part in training, on average over its updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import prod

from nmtrain.measure.flops import phase_starts, pieces
from nmtrain.recipes import Recipe
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityState


def active_share(
    tensors: Sequence[SparseTensor], recipes: Mapping[NMPattern, Recipe], total: int, parameters: int
) -> float:
    """The share of the model's parameters that the forward uses, averaged over the ``total`` updates; 1 when dense.

    Used are all parameters outside of the sparse tensors, and of a sparse tensor the entries that are not zeroed: all
    of them while it is dense or D > 0, else N of every M by the pattern in force, and all of a group that is kept
    whole. Jin et al., 2025 (arXiv 2501.12486) find that the average parameter count over training predicts the loss of
    sparse pre-training; they count the parameters that have not been pruned yet.

    Args:
        recipes: one for each target pattern among ``tensors``.
        parameters: of the whole model; one that is shared counts once.
    """
    zeroed = 0
    starts = pieces(phase_starts(recipes, total), recipes, total)
    for start, end in zip(starts, [*starts[1:], total], strict=True):
        for target in dict.fromkeys(tensor.pattern for tensor in tensors):
            own = [tensor for tensor in tensors if tensor.pattern == target]
            state = recipes[target].at(start, total)
            if state.projection.whole_groups:  # their number changes inside a piece
                zeroed += sum(_zeroed(own, recipes[target].at(update, total)) for update in range(start, end))
            else:
                zeroed += (end - start) * _zeroed(own, state)
    return float(1 - Fraction(zeroed, total * parameters))


def _zeroed(tensors: Sequence[SparseTensor], state: SparsityState) -> int:
    """Entries of the tensors, all of one target, that the forward reads as zero."""
    if state.pattern is None or state.decay > 0:
        return 0
    found = 0
    for tensor in tensors:
        pattern = tensor.fit(state.pattern, state.exact)
        groups = prod(tensor.shape) // pattern.m
        found += (groups - round(state.projection.whole_groups * groups)) * (pattern.m - pattern.n)
    return found
