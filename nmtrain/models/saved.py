"""Weights as run folders keep them: safetensors under the stock model's names; what transformers ties, only once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

_NAMED = 3  # tensors that a message names before it counts the rest


def aliases(model: nn.Module) -> dict[str, str]:
    """The further names of tied weights, and the first name of each."""
    first: dict[int, str] = {}
    names = [(name, first.setdefault(id(p), name)) for name, p in model.named_parameters(remove_duplicate=False)]
    return {name: original for name, original in names if name != original}


def untie(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Make model and tensors agree about tied weights.

    Tensors gain the names that were left out; a weight that has values of its own is tied no more: a checkpoint can
    bring one where the architecture ties, as T5 1.1's head.
    """
    for name, original in aliases(model).items():
        if original not in tensors:
            continue
        if name not in tensors:
            tensors[name] = tensors[original]
        elif not torch.equal(tensors[name], tensors[original]):
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, nn.Parameter(tensors[name]))


def shapes_of(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the meta device: only its header is read.

    Raises:
        SafetensorError, OSError: where it cannot be.
    """
    with safe_open(file, "pt") as content:
        shapes = {name: content.get_slice(name).get_shape() for name in content.keys()}  # noqa: SIM118
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def misfits(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Names of a model that tensors lack, names that only the tensors have, and names with other shapes."""
    ours, tied = model.state_dict(), aliases(model)
    absent = [name for name in ours if name not in tensors and name not in tied]
    unknown = [name for name in tensors if name not in ours]
    return absent, unknown, [name for name in ours if name in tensors and tensors[name].shape != ours[name].shape]


def load_saved(model: nn.Module, tensors: dict[str, Tensor], leave: Collection[str] = ()) -> None:
    """Load all tensors but those named by ``leave``, in whose place the model keeps its own."""
    untie(model, tensors)
    kept = {name: tensor for name, tensor in model.state_dict().items() if name in leave}
    model.load_state_dict(tensors | kept)


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Faults inside begin with the setting that they are of."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error
