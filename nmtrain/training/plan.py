"""What a run will do, worked out on the meta device before any data is read: tensors, cost, bytes, memory."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, floor, log10, prod
from typing import Any

import torch
from torch import Tensor, nn

from nmtrain.config.check import Config
from nmtrain.config.schema import MOST_UPDATES
from nmtrain.data import TextShape
from nmtrain.errors import ConfigError
from nmtrain.measure import (
    ForwardCost,
    LengthCost,
    LengthCurve,
    Lengths,
    TrainingCurve,
    active_share,
    forward_cost,
    inference_flops,
    model_bytes,
    training_flops,
    updates_within,
)
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityRule
from nmtrain.training.layer_decay import layer_scales
from nmtrain.training.memory import parameter_bytes, training_memory
from nmtrain.training.on_meta import Inputs, built, forward, rates_of_skipping, values
from nmtrain.training.start import goes_on, start_told
from nmtrain.training.teacher import planned_teacher
from nmtrain.training.tensors import measured_tensors
from nmtrain.training.text_plan import text_cost


@dataclass(frozen=True)
class Plan:
    """The shapes of one run. ``tensors`` is empty for a dense run.

    What text costs depends on its lengths: until `with_lengths` says them, every sample counts as the longest, and
    `train.flops` pays for no fewer updates than here.
    """

    config: Config
    rules: list[SparsityRule]
    tensors: list[SparseTensor]
    measured: dict[NMPattern, list[SparseTensor]]  # what the noise metrics look at, by sparsity; of a dense run too
    cost: ForwardCost  # of one sample in eval mode; of text, of a mean validation sample
    training_cost: ForwardCost  # of one sample in train mode
    parameters: int  # of the whole model
    bytes: dict[str, int]
    memory: dict[str, int]
    spared: int  # bytes of activations that gradient checkpointing spares
    warnings: list[str]
    by_length: LengthCost | None = None  # of text
    teacher: ForwardCost | None = None  # of images: what one costs that teaches, which is no part of training
    moments: Tensor | None = None  # of text: moments of the lengths of all training samples before each update

    def with_lengths(self, lengths: Lengths) -> Plan:
        """The plan of a text model by the lengths that its samples have."""
        assert self.by_length is not None
        occurring = [part[:, 0].bincount().nonzero() for part in (lengths.train, lengths.validation)]
        by_length = self.by_length.for_inputs(torch.cat(occurring).flatten())
        cost = by_length.mean(by_length.moments(lengths.validation).sum(0).tolist(), len(lengths.validation))
        plan = replace(self, cost=cost, training_cost=cost, by_length=by_length)
        before = [torch.zeros(len(by_length.terms), dtype=torch.int64)]  # each update

        def lasting(total: int) -> Plan:
            for update in range(len(before) - 1, total):
                before.append(before[-1] + by_length.moments(lengths.of_update(update)).sum(0))
            return replace(plan, config=self.config.lasting(total), moments=torch.stack(before[: total + 1]))

        if (budget := self.config.train.flops) is None:
            return lasting(self.config.total_updates)
        return lasting(updates_within(budget, lambda total: lasting(total).curve.flops(total)))

    def switched(self, update: int) -> Plan:
        """The plan of a run that found at this update where its recipe's dense phase ends."""
        config = self.config
        recipes = {target: recipe.switched(update, config.total_updates) for target, recipe in config.recipes.items()}
        return replace(self, config=replace(config, recipes=recipes))

    @cached_property
    def curve(self) -> TrainingCurve | LengthCurve:
        """Training FLOPs up to any update."""
        return self._curve(self.tensors)

    def _curve(self, tensors: list[SparseTensor]) -> TrainingCurve | LengthCurve:
        config, total = self.config, self.config.total_updates
        if self.by_length is not None and self.moments is not None:
            return LengthCurve(self.by_length, tensors, config.recipes, total, self.moments)
        return TrainingCurve(self.training_cost, tensors, config.recipes, total, config.train.batch_size)

    @cached_property
    def flops(self) -> dict[str, Any]:
        """The ``flops`` of summary.json: training (also by phase) and inference per sample, and their dense twins."""
        total = self.config.total_updates
        starts, samples = self.curve.starts, total * self.config.train.batch_size
        return {
            "training": self.curve.flops(total),
            "training_dense": self._curve([]).flops(total),
            "phases": [
                {"first_update": first, "flops": self.curve.phase_flops(end)[1]}
                for first, end in zip(starts, [*starts[1:], total], strict=True)
            ],
            "inference": inference_flops(self.cost, self.tensors),
            "inference_dense": inference_flops(self.cost, []),
            **({} if self.teacher is None else {"teacher": samples * inference_flops(self.teacher, [])}),
        }

    @cached_property
    def active_share(self) -> float:
        """The average over training of the share of parameters that the forward uses."""
        return active_share(self.tensors, self.config.recipes, self.config.total_updates, self.parameters)

    @property
    def density(self) -> float:
        """Kept entries over all entries of the sparse tensors; 1 where there are none."""
        entries = sum(prod(tensor.shape) for tensor in self.tensors)
        return sum(prod(t.shape) * t.pattern.density for t in self.tensors) / entries if entries else 1.0

    def phases_of(self, tensor: SparseTensor) -> list[tuple[int, str]]:
        """What this tensor gets: (first update, pattern or "dense"), as far as its axis can carry a phase."""
        phases: list[tuple[int, str]] = []
        for first, state in self.config.recipes[tensor.pattern].phases(self.config.total_updates):
            got = "dense" if state.pattern is None else str(tensor.fit(state.pattern, state.exact))
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


def make_plan(config: Config, shared: dict[str, Any] | None = None) -> Plan:
    """Build the model on the meta device and resolve everything that needs shapes.

    Args:
        shared: what plans have worked out that runs of one model share; the plans of a sweep pass one dict on.

    Raises:
        ConfigError: for an unknown model, roles that it lacks, names that match nothing, axes that M does not divide.
    """
    shared = {} if shared is None else shared
    key = _model_key(config)
    if key not in shared:
        shared[key] = built(config)
    model, inputs, multiplied = shared[key]
    teacher, of_teacher = planned_teacher(config)
    told = [*_also_needed(config, model), *of_teacher]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rules, measured = measured_tensors(config, model, multiplied)
    if config.is_dense:
        rules, tensors, caught = [], [], []
    else:
        tensors = measured[config.sparsity]
    # Of tensors, these depend on which they are and not on their patterns.
    key = repr((key, [tensor.label for tensor in tensors], config.optim, config.train.ema))
    if key not in shared:
        shared[key] = _costs_and_memory(config, model, inputs, rules, tensors)
    (cost, training_cost, by_length), (memory, spared) = shared[key]
    return Plan(
        config=_lasting(config, training_cost, tensors),
        rules=rules,
        tensors=tensors,
        measured=measured,
        cost=cost,
        training_cost=training_cost,
        by_length=by_length,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=model_bytes(model, tensors),
        memory=memory | ({"teacher": parameter_bytes(teacher)} if teacher else {}),
        spared=spared,
        teacher=_teacher_cost(config, teacher, inputs),
        warnings=[
            *told,
            *(str(warning.message) for warning in caught if "stays dense" in str(warning.message)),
            *_batch_norm_warning(config, model),
        ],
    )


def _model_key(config: Config) -> str:
    """Runs of one key build the same model, for the same micro-batches, and refuse the same of it."""
    train = config.train
    needed = (config.init_from, goes_on(config), config.optim.layer_decay, train.teacher, config.launch.strategy)
    sizes = (train.batch_size, train.micro_batches)
    return repr((config.model, needed, config.data_shape, sizes, train.gradient_checkpointing))


def _costs_and_memory(
    config: Config, model: nn.Module, inputs: Inputs, rules: list[SparsityRule], tensors: list[SparseTensor]
) -> tuple[tuple[ForwardCost, ForwardCost, LengthCost | None], tuple[dict[str, int], int]]:
    with values(config):
        model = deepcopy(model)  # some change for good with what goes through them
    costs = _costs(config, model, inputs, tensors)
    uncached = {"use_cache": False} if config.model.kind == "text_to_text" else {}  # as in training
    with values(config):
        memory = training_memory(config, model, rules, lambda model: forward(model, inputs, **uncached))
    return costs, memory


def _batch_norm_warning(config: Config, model: nn.Module) -> list[str]:
    """Everything else adds up over micro-batches; what batch norm makes of a sample depends on those beside it."""
    parts = config.train.micro_batches
    if parts == 1 or not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return []
    return [
        f"train.micro_batches={parts}: batch norm takes its statistics from micro-batches of"
        f" {config.train.batch_size // parts} samples, so this is another training than with train.micro_batches=1"
    ]


def shape_faults(configs: Iterable[Config]) -> list[str]:
    """What `make_plan` would refuse about several runs, without the rest of its work; a model is built only once."""
    faults: dict[str, None] = {}
    found: dict[str, tuple[nn.Module, Inputs, Collection[str]] | None] = {}
    costs: dict[str, ForwardCost] = {}
    for config in configs:
        key = _model_key(config)
        try:
            if key not in found:
                found[key] = None  # stays, if it cannot be built
                found[key] = one = built(config)
                _also_needed(config, one[0])
                planned_teacher(config)
            if (parts := found[key]) is None:
                continue
            model, inputs, multiplied = parts
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # each run gives its own
                _, measured = measured_tensors(config, model, multiplied)
            if config.train.flops is not None:
                tensors = [] if config.is_dense else measured[config.sparsity]
                counted = key + repr(tensors)
                if counted not in costs:
                    costs[counted] = _costs(config, model, inputs, tensors)[1]
                _lasting(config, costs[counted], tensors)
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    return list(faults)


def _also_needed(config: Config, model: nn.Module) -> list[str]:
    """Refuse what a run needs beside its model and cannot have; a line where it will not be taken as it is."""
    if config.launch.strategy == "fsdp" and (rates := rates_of_skipping(model)):
        told = "processes skip layers of their own, and a layer's weights take all of them to gather"
        raise ConfigError(
            [
                f"launch.strategy=fsdp: not with model.options.{name}={rate} ({told}); allowed: 0.0, or ddp"
                for name, rate in rates.items()
            ]
        )
    if (decay := config.optim.layer_decay) is not None:
        try:
            layer_scales(model, decay)
        except ValueError as error:
            raise ConfigError([f"optim.layer_decay={decay}: model.name={config.model.name}: {error}"]) from error
    return start_told(config, model)


def _costs(
    config: Config, model: nn.Module, inputs: Inputs, tensors: list[SparseTensor]
) -> tuple[ForwardCost, ForwardCost, LengthCost | None]:
    """The cost of one sample in eval mode and in train mode, for text of a longest one, and of text by length."""
    shape = config.data_shape
    if not isinstance(shape, TextShape):
        samples = config.train.batch_size // config.train.micro_batches
        in_eval, in_training = (forward_cost(model, inputs, tensors, samples, mode) for mode in (False, True))
        return in_eval, in_training, None
    by_length = text_cost(config, model, tensors)
    cost = by_length.at(shape.input_length, shape.target_length)
    return cost, cost, by_length


def _teacher_cost(config: Config, teacher: nn.Module | None, inputs: Inputs) -> ForwardCost | None:
    """Of one image in eval mode; that of text depends on its lengths, and is not counted."""
    if teacher is None or config.model.reads_text:
        return None
    return forward_cost(teacher, inputs, [], config.train.batch_size // config.train.micro_batches)


def _lasting(config: Config, cost: ForwardCost, tensors: list[SparseTensor]) -> Config:
    """The config with the number of updates that `train.flops` pays for, where that says how long to train."""
    if (budget := config.train.flops) is None:
        return config

    def flops(total: int) -> float:
        return training_flops(cost, tensors, config.recipes, total, config.train.batch_size)

    if flops(1) > budget:
        longest = " of the longest texts" if config.model.reads_text else ""
        fault = f"is less than one update{longest} costs; allowed: at least {_rounded_up(flops(1))}"
        raise ConfigError([f"train.flops={budget:g}: {fault}"])
    if flops(1) * MOST_UPDATES < budget:
        fault = f"pays for more than {MOST_UPDATES} updates; allowed: at most {flops(1) * MOST_UPDATES:.2g}"
        raise ConfigError([f"train.flops={budget:g}: {fault}"])
    return config.lasting(updates_within(budget, flops))


def _rounded_up(value: float) -> str:
    """In three digits, and no less."""
    step = 10.0 ** (floor(log10(value)) - 2)
    return f"{ceil(value / step) * step:.3g}"
