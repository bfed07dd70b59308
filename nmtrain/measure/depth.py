"""How deep in a model a weight is: the number of its block, whatever the architecture calls it."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize


def blocks(model: nn.Module) -> list[str]:
    """The names of the blocks, in the model's order: of ViT ``blocks.0`` and so on, of T5 ``encoder.block.0`` to the
    last ``decoder.block``.

    A block is a module with others of its class beside it in one list, and no such list inside: not the stages of a
    Swin or a ResNet but what these consist of, and not the layers within a block of T5, whose classes differ.
    """
    stacks = {name: stack for name, stack in model.named_modules() if _is_stack(stack)}
    return [
        f"{name}.{child}"
        for name, stack in stacks.items()
        if not any(other.startswith(f"{name}.") for other in stacks)
        for child, _ in stack.named_children()
    ]


def depth_of(weight: str, blocks: list[str]) -> int | None:
    """The place, from 0, of the block that holds the weight of this name; None outside of all, as in stem and head."""
    return next((depth for depth, block in enumerate(blocks) if weight.startswith(f"{block}.")), None)


def _is_stack(module: nn.Module) -> bool:
    children = list(module.children())
    return (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and len({type(child) for child in children}) == 1
        and all(any(child.children()) and not parametrize.is_parametrized(child) for child in children)
    )
