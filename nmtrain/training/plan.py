"""What a run will do, worked out on the meta device before any data is read: tensors, cost, bytes, memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nmtrain.config import Config
from nmtrain.data import TextShape
from nmtrain.errors import ConfigError
from nmtrain.faults import written
from nmtrain.measure import (
    ForwardCost,
    LengthCost,
    LengthCurve,
    Lengths,
    TrainingCurve,
    forward_cost,
    inference_flops,
    model_bytes,
)
from nmtrain.models import build_model, sparsity_rules
from nmtrain.models.indices import RealIndices
from nmtrain.models.language import new_weights
from nmtrain.sparsity import NoTensorLeft, SparseTensor, SparsityRule, resolve_rules, sparsify_model
from nmtrain.training.optim import optimizer_bytes
from nmtrain.training.text_plan import require_texts_fit, text_cost, text_inputs

# A micro-batch on the meta device: positional for images, whose argument no two libraries call the same.
Inputs = list[Tensor] | dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """The shapes of one run. ``tensors`` is empty for a dense run.

    What text costs depends on its lengths: until `with_lengths` says them, every sample counts as the longest.
    """

    config: Config
    rules: list[SparsityRule]
    tensors: list[SparseTensor]
    measured: list[SparseTensor]  # what the noise metrics look at: the same tensors, for a dense run too
    cost: ForwardCost  # of one sample; of text, of a mean validation sample
    bytes: dict[str, int]
    memory: dict[str, int]
    warnings: list[str]
    by_length: LengthCost | None = None  # of text
    moments: Tensor | None = None  # of text: moments of the lengths of all training samples before each update

    def with_lengths(self, lengths: Lengths) -> Plan:
        """The plan of a text model by the lengths that its samples have."""
        assert self.by_length is not None
        total = self.config.total_updates
        by_length = self.by_length.for_inputs(torch.cat([lengths.train, lengths.validation])[:, 0])
        moments = torch.zeros(total + 1, len(by_length.terms), dtype=torch.int64)
        for update in range(total):
            moments[update + 1] = by_length.moments(lengths.of_update(update)).sum(0)
        cost = by_length.mean(by_length.moments(lengths.validation).sum(0).tolist(), len(lengths.validation))
        return replace(self, cost=cost, by_length=by_length, moments=moments.cumsum(0))

    @cached_property
    def curve(self) -> TrainingCurve | LengthCurve:
        """Training FLOPs up to any update."""
        return self._curve(self.tensors)

    def _curve(self, tensors: list[SparseTensor]) -> TrainingCurve | LengthCurve:
        config, total = self.config, self.config.total_updates
        if self.by_length is not None and self.moments is not None:
            return LengthCurve(self.by_length, tensors, config.recipes, total, self.moments)
        return TrainingCurve(self.cost, tensors, config.recipes, total, config.train.batch_size)

    @cached_property
    def flops(self) -> dict[str, Any]:
        """The ``flops`` of summary.json: training (also by phase) and inference per sample, and their dense twins."""
        total = self.config.total_updates
        starts = self.curve.starts
        return {
            "training": self.curve.flops(total),
            "training_dense": self._curve([]).flops(total),
            "phases": [
                {"first_update": first, "flops": self.curve.phase_flops(end)[1]}
                for first, end in zip(starts, [*starts[1:], total], strict=True)
            ],
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
    model, inputs = _built(config)
    new = _new_weights(config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        targets, measured = _resolved(config, model)
    if config.is_dense:
        rules, tensors, caught = [], [], []
    else:
        rules, tensors = targets, measured
    cost, by_length = _cost(config, model, inputs, tensors)
    return Plan(
        config=config,
        rules=rules,
        tensors=tensors,
        measured=measured,
        cost=cost,
        by_length=by_length,
        bytes=model_bytes(model, tensors),
        memory=_memory(config, model, rules, inputs),
        warnings=new + [str(warning.message) for warning in caught if "stays dense" in str(warning.message)],
    )


def shape_faults(configs: Iterable[Config]) -> list[str]:
    """What `make_plan` would refuse about several runs, without the rest of its work; a model is built only once."""
    faults: dict[str, None] = {}
    built: dict[str, nn.Module | None] = {}
    for config in configs:
        train = config.train
        key = repr((config.model, config.data_shape, train.batch_size, train.micro_batches))
        try:
            if key not in built:
                built[key] = None  # stays, if it cannot be built
                built[key] = _built(config)[0]
                _new_weights(config)
            if (model := built[key]) is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # each run gives its own
                    _resolved(config, model)
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    return list(faults)


def _new_weights(config: Config) -> list[str]:
    """What to say of weights that a checkpoint does not give. A dry run downloads none for that."""
    if not isinstance(config.data_shape, TextShape):
        return []
    try:
        return new_weights(config.model, config.data_shape, download=not config.dry_run)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error


def _built(config: Config) -> tuple[nn.Module, Inputs]:
    """The model on the meta device and one micro-batch for it, which it can train on."""
    shape = config.data_shape
    samples = config.train.batch_size // config.train.micro_batches
    inputs: Inputs
    try:
        with torch.device("meta"), _values(config):
            model = build_model(config.model, shape, pretrained=False)
        if isinstance(shape, TextShape):
            require_texts_fit(config, model)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error
    if isinstance(shape, TextShape):
        inputs = text_inputs(model, samples, shape.input_length, shape.target_length)
        expected = (samples, len(shape.labels)) if config.model.kind == "text_classifier" else None
    else:
        inputs = [torch.zeros(samples, shape.channels, shape.image_size, shape.image_size, device="meta")]
        expected = (samples, shape.num_classes)
    try:
        with _values(config):
            outputs = _forward(model.train(), inputs)
        outputs = outputs if isinstance(outputs, Tensor) else outputs.logits
        fault = f"gives {tuple(outputs.shape)}" if expected and outputs.shape != expected else None
    except Exception as error:  # whatever timm, transformers or torch object to
        fault = str(error).partition("\n")[0] or type(error).__name__
    if fault:
        given = ", ".join(
            str(tuple(tensor.shape)) for tensor in (inputs.values() if isinstance(inputs, dict) else inputs)
        )
        raise ConfigError(
            [
                f"model.name={config.model.name}: with model.options={written(config.model.options)} it does not map"
                f" micro-batches {given} to {f'{expected[1]} classes' if expected else 'text'}: {fault}"
            ]
        )
    return model, inputs


def _forward(model: nn.Module, inputs: Inputs) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def _values(config: Config) -> AbstractContextManager[Any]:
    """What a model on the meta device is built and called in: one of text needs the values of indices."""
    return RealIndices() if config.model.reads_text else nullcontext()


def _cost(
    config: Config, model: nn.Module, inputs: Inputs, tensors: list[SparseTensor]
) -> tuple[ForwardCost, LengthCost | None]:
    """The cost of one sample, for text of a longest one, and of text by length."""
    shape = config.data_shape
    if not isinstance(shape, TextShape):
        return forward_cost(model, inputs, tensors, config.train.batch_size // config.train.micro_batches), None
    by_length = text_cost(config, model, tensors)
    return by_length.at(shape.input_length, shape.target_length), by_length


def _resolved(config: Config, model: nn.Module) -> tuple[list[SparsityRule], list[SparseTensor]]:
    """The rules and sparse tensors that a config asks for, each phase of each tensor tried.

    A dense run only measures these tensors; those that M does not divide are not measured.
    """
    mask = config.mask.model_copy(update={"indivisible": "skip"}) if config.is_dense else config.mask
    try:
        rules = sparsity_rules(model, mask, config.sparsity)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error
    patterns = f" mask.patterns={written(config.values['mask']['patterns'])}" if config.mask.patterns else ""
    faults = []
    try:
        tensors = resolve_rules(model, rules)
        phases = {target: recipe.phases(config.total_updates) for target, recipe in config.recipes.items()}
        for tensor in tensors if not config.is_dense else ():
            for _, state in phases[tensor.pattern]:
                if state.pattern is not None:
                    tensor.fit(state.pattern)
    except ValueError as error:
        if config.is_dense and isinstance(error, NoTensorLeft):
            return rules, []
        faults = [f"sparsity={config.sparsity}{patterns}: {line}" for line in str(error).splitlines()]
    if faults:
        if config.mask.indivisible == "error" and any("does not divide" in fault for fault in faults):
            faults.append("mask.indivisible=skip leaves tensors dense whose axis M does not divide")
        raise ConfigError(faults)
    return rules, tensors


def _memory(config: Config, model: nn.Module, rules: list[SparsityRule], inputs: Inputs) -> dict[str, int]:
    """Bytes that training holds at its peak, without what libraries and allocator add; fp32, no autocast."""
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    if rules:
        model = deepcopy(model)  # the stock one stays, for what is still to be counted
        sparsify_model(model, rules)
    masks = sum(b.numel() for b in model.buffers() if b.dtype == torch.bool)
    held = {p.untyped_storage()._cdata for p in model.parameters()}
    saved: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in held:
            saved[storage._cdata] = (storage, storage.nbytes())
        return tensor

    with _values(config), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _forward(model.train(), inputs)
    return {
        "weights": parameters,
        "gradients": parameters,
        "optimizer": optimizer_bytes(model, config.optim),
        "masks": masks,
        "activations": sum(size for _, size in saved.values()),
    }
