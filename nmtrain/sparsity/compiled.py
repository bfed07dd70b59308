"""Masks on a GPU: ranked by one kernel of torch.compile, where eager operations go over the entries a hundred times.

For the FF weights of ViT-B (57 M entries) that is 0.2 to 0.5 ms in place of 12 to 80 on an H200: see
`results/gpu/README.md`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from nmtrain.sparsity.pattern import NMPattern

logger = logging.getLogger(__name__)
_GRAPHS = 1000  # one for each pattern and number of groups; torch stops at 8 unless told otherwise

Rank = Callable[[Tensor, NMPattern], Tensor]


@cache
def compiled(rank: Rank) -> Rank:
    """``rank`` by a kernel for each pattern; by itself, with one warning, once torch.compile could not make one."""
    kernel, works = torch.compile(rank, dynamic=False), True

    def ranked(groups: Tensor, pattern: NMPattern) -> Tensor:
        import torch._dynamo.config
        from torch._dynamo.exc import TorchDynamoException

        nonlocal works
        if works:
            try:
                with torch._dynamo.config.patch(recompile_limit=_GRAPHS, accumulated_recompile_limit=_GRAPHS):
                    return kernel(groups, pattern)
            except TorchDynamoException as error:
                works = False  # to try again at each update would take seconds each time
                told = " ".join(str(error).strip().splitlines()[:2])
                logger.warning(
                    "masks are ranked by eager operations, which takes longer: torch.compile fails (%s)", told
                )
        return rank(groups, pattern)

    return ranked
