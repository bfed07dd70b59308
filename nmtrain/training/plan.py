"""What a run will do, worked out on the meta device before any data is read: tensors, cost, bytes, memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nmtrain.config import Config, ConfigError
from nmtrain.measure import ForwardCost, TrainingCurve, forward_cost, inference_flops, model_bytes
from nmtrain.models import build_model, sparsity_rules
from nmtrain.sparsity import SparseTensor, SparsityRule, resolve_rules, sparsify_model


@dataclass(frozen=True)
class Plan:
    """The shapes of one run. ``tensors`` is empty for a dense run."""

    config: Config
    rules: list[SparsityRule]
    tensors: list[SparseTensor]
    cost: ForwardCost
    bytes: dict[str, int]
    memory: dict[str, int]
    warnings: list[str]

    @cached_property
    def curve(self) -> TrainingCurve:
        """Training FLOPs up to any update."""
        config = self.config
        return TrainingCurve(self.cost, self.tensors, config.recipes, config.total_updates, config.train.batch_size)

    @cached_property
    def flops(self) -> dict[str, float]:
        """The ``flops`` of summary.json: training in all, inference per sample, each beside its dense twin."""
        total = self.config.total_updates
        return {
            "training": self.curve.flops(total),
            "training_dense": 6 * self.cost.total * total * self.config.train.batch_size,
            "inference": inference_flops(self.cost, self.tensors),
            "inference_dense": inference_flops(self.cost, []),
        }

    @property
    def density(self) -> float:
        """Kept entries over all entries of the sparse tensors; 1 where there are none."""
        entries = sum(prod(tensor.shape) for tensor in self.tensors)
        return sum(prod(t.shape) * t.pattern.density for t in self.tensors) / entries if entries else 1.0

    def phases_of(self, tensor: SparseTensor) -> list[tuple[int, str]]:
        """What this tensor gets: (first update, pattern or "dense"), as far as its axis can carry a phase."""
        phases: list[tuple[int, str]] = []
        for first, state in self.config.recipes[tensor.pattern].phases(self.config.total_updates):
            got = "dense" if state.pattern is None else str(tensor.fit(state.pattern))
            if not phases or phases[-1][1] != got:
                phases.append((first, got))
        return phases

    def sparse_tensors_json(self) -> list[dict[str, Any]]:
        return [
            {
                "name": tensor.name,
                "rows": tensor.rows,
                "role": tensor.role,
                "shape": tensor.shape,
                "axis": tensor.axis,
                "pattern": str(tensor.pattern),
                "density": tensor.pattern.density,
                "phases": self.phases_of(tensor),
            }
            for tensor in self.tensors
        ]


def make_plan(config: Config) -> Plan:
    """Build the model on the meta device and resolve everything that needs shapes.

    Raises:
        ConfigError: for an unknown model, roles that it lacks, names that match nothing, axes that M does not divide.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with torch.device("meta"):
                model = build_model(config.model.name, config.data_shape, config.model.options)
            rules = [] if config.is_dense else sparsity_rules(model, config.mask, config.sparsity)
            tensors = resolve_rules(model, rules)
            for tensor in tensors:
                for _, state in config.recipes[tensor.pattern].phases(config.total_updates):
                    if state.pattern is not None:
                        tensor.fit(state.pattern)
        except ValueError as error:
            raise ConfigError(str(error).splitlines()) from error
    shape = config.data_shape
    samples = config.train.batch_size // config.train.micro_batches
    inputs = torch.zeros(samples, shape.channels, shape.image_size, shape.image_size, device="meta")
    return Plan(
        config=config,
        rules=rules,
        tensors=tensors,
        cost=forward_cost(model, (inputs,), tensors, samples),
        bytes=model_bytes(model, tensors),
        memory=_memory(model, rules, inputs),
        warnings=[str(warning.message) for warning in caught if "stays dense" in str(warning.message)],
    )


def _memory(model: nn.Module, rules: list[SparsityRule], inputs: Tensor) -> dict[str, int]:
    """Bytes that training holds at its peak, without what libraries and allocator add; fp32, no autocast."""
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    if rules:
        sparsify_model(model, rules)
    masks = sum(b.numel() for b in model.buffers() if b.dtype == torch.bool)
    held = {p.untyped_storage()._cdata for p in model.parameters()}
    saved: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in held:
            saved[storage._cdata] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(inputs)
    return {
        "weights": parameters,
        "gradients": parameters,
        "optimizer": 2 * parameters,
        "masks": masks,
        "activations": sum(size for _, size in saved.values()),
    }
