"""Layer decay: lower layers of a model learn at lower rates (Clark et al., 2020; Bao et al., 2021)."""

from __future__ import annotations

from typing import Any

from torch import nn

from nmtrain.measure.depth import blocks
from nmtrain.sparsity.rules import stock_name


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied by, by its name in the stock model: ``decay`` to the power
    of the number of layers above it.

    Layers of timm's models are those of timm (``group_matcher``). Those of an encoder or an encoder-decoder of
    transformers are the embeddings, the blocks of either stack, counted from its last one, and above them all others:
    last norms, pooler and head.

    Raises:
        ValueError: where it is not known what the layers are.
    """
    names = [stock_name(name) for name, _ in model.named_parameters()]
    above = _above_in_timm(model, names) if hasattr(model, "group_matcher") else _above_in_stacks(model, names)
    return {name: decay ** above[name] for name in names}


def _above_in_timm(model: Any, names: list[str]) -> dict[str, int]:
    from timm.models._manipulate import group_with_matcher  # group_parameters, by names of our own

    named = iter([(name, None) for name in names])
    layers = group_with_matcher(named, model.group_matcher(coarse=False), reverse=True)
    highest = max(layers.values())
    return {name: highest - layers.get(name, highest) for name in names}


def _above_in_stacks(model: Any, names: list[str]) -> dict[str, int]:
    stacks: dict[str, list[str]] = {}
    for block in blocks(model):
        stacks.setdefault(block.rpartition(".")[0], []).append(block)
    config = getattr(model, "config", None)  # of transformers
    if config is None or len(stacks) != (2 if config.is_encoder_decoder else 1):
        raise ValueError("its layers are not known; allowed: models of timm, and of transformers with a row of blocks")
    above = {block: place for stack in stacks.values() for place, block in enumerate(reversed(stack), start=1)}
    deepest = max(above.values()) + 1

    def of(name: str) -> int:
        if (block := next((block for block in above if name.startswith(f"{block}.")), None)) is not None:
            return above[block]
        module = model.get_submodule(name.rpartition(".")[0])
        return deepest if isinstance(module, nn.Embedding) or "emb" in name else 0

    return {name: of(name) for name in names}
