"""Sparsity on a stock model: a parametrization per weight, one control for all of them, and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from nmtrain.sparsity.mask import Axis, group_dim, nm_mask, write_masks
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.projection import (
    contending,
    nearest_scale,
    queried,
    regrown,
    shrunk,
    strongest_pruned,
    with_whole_groups,
)
from nmtrain.sparsity.readings import Readings
from nmtrain.sparsity.rules import SparseTensor, SparsityRule, resolve_rules, stock_names
from nmtrain.sparsity.sparsify import apply_mask, filled, pruned_part
from nmtrain.sparsity.state import SparsityState


class _InForce:
    """The state in force for one target pattern, as the forward reads it.

    What changes inside a phase are 0-dim tensors that are filled in place: a float would recompile a compiled model.
    """

    def __init__(self, target: NMPattern) -> None:
        self.state = SparsityState(target)
        self.active = True
        self.reaches_all = True
        self.decay = torch.zeros(())
        self.theta = torch.zeros(())

    def set(self, state: SparsityState, device: torch.device) -> None:
        self.state, self.active = state, state.pattern is not None
        self.reaches_all = state.gradient in ("straight_through", 1.0)
        if self.decay.device != device:
            self.decay, self.theta = self.decay.to(device), self.theta.to(device)
        self.decay.fill_(state.decay)
        # An exchange needs the gradient of all entries, and cuts off afterwards what the new mask prunes. It goes by
        # the same graph as the updates around it.
        self.theta.fill_(1.0 if state.ranking.regrow is not None else state.theta)

    @property
    def reached(self) -> Tensor | None:
        """The share of the gradient that reaches pruned entries; None is all."""
        return None if self.reaches_all else self.theta


class SparseWeight(nn.Module):
    """Parametrization of one weight: dense in, sparse out. Masks are buffers, so they travel with the state dict.

    So do not what follows from weight and mask at each update: ``factor_i``, of kept entries, and ``reached_i``, the
    share of the gradient of pruned ones; they are there once a recipe wants them.
    """

    def __init__(self, weight: Tensor, tensors: Sequence[SparseTensor], control: SparsityControl) -> None:
        super().__init__()
        self.tensors = tuple(sorted(tensors, key=lambda tensor: tensor.rows or (0, 0)))
        self.in_force = tuple(control.in_force(tensor.pattern) for tensor in self.tensors)
        self.control = control
        for i, tensor in enumerate(self.tensors):
            self.register_buffer(f"mask_{i}", nm_mask(tensor.part_of(weight), tensor.pattern, tensor.axis))

    def mask(self, i: int) -> Tensor:
        return cast(Tensor, getattr(self, f"mask_{i}"))

    def forward(self, weight: Tensor) -> Tensor:
        if self.tensors[0].rows is None:
            return self._sparse(0, weight)
        pieces, row = [], 0
        for i, tensor in enumerate(self.tensors):
            first, last = cast(tuple[int, int], tensor.rows)
            pieces += [weight[row:first], self._sparse(i, weight[first:last])]
            row = last
        return torch.cat([*pieces, weight[row:]])

    def _sparse(self, i: int, part: Tensor) -> Tensor:
        force = self.in_force[i]
        if not force.active:
            return part
        flow, reached = force.state.flow, force.reached
        if flow.contenders is not None or flow.wider is not None:
            reached = self._derived("reached", i)
        readings, key = self.control.readings, (self, i)
        value = readings.value(key)
        output = apply_mask(part, self.mask(i), force.decay, reached, factor=self.factor(i), value=value)
        readings.keep(key, output)
        return output

    def factor(self, i: int) -> Tensor | None:
        """What kept entries are multiplied by, where the recipe shrinks or enlarges them."""
        projection = self.in_force[i].state.projection
        return self._derived("factor", i) if projection.power is not None or projection.queried else None

    def _derived(self, kind: str, i: int) -> Tensor:
        return cast(Tensor, getattr(self, f"{kind}_{i}"))

    def derive(self, kind: str, i: int, value: Tensor) -> None:
        """Keep what follows from weight and mask, at the same place as before."""
        if hasattr(self, f"{kind}_{i}"):
            self._derived(kind, i).copy_(value)
        else:
            self.register_buffer(f"{kind}_{i}", value.contiguous(), persistent=False)


class SparsityControl:
    """The one object that all parametrizations of a model read; see `sparsity_control`."""

    def __init__(self) -> None:
        self._in_force: dict[NMPattern, _InForce] = {}
        self._weights: list[tuple[SparseWeight, parametrize.ParametrizationList]] = []
        # What earlier updates have left, beside masks: scales and wider masks, by label. Part of a checkpoint.
        self.remembered: dict[str, Tensor] = {}
        self.readings = Readings()
        self.hooks: list[RemovableHandle] = []

    @property
    def targets(self) -> list[NMPattern]:
        """The distinct target patterns of the model; each may follow a recipe of its own."""
        return list(self._in_force)

    @property
    def at_target(self) -> bool:
        """Whether the forward sees every sparse weight strictly at its target; true of a dense model."""
        return all(force.state.strict and force.state.pattern == target for target, force in self._in_force.items())

    def in_force(self, target: NMPattern) -> _InForce:
        return self._in_force.setdefault(target, _InForce(target))

    def sparse_tensors(self) -> list[tuple[SparseTensor, Tensor, Tensor, SparsityState]]:
        """(tensor, its dense weight, its mask, the state in force) for every sparse tensor."""
        return [
            (tensor, tensor.part_of(owner.original), weight.mask(i), weight.in_force[i].state)
            for weight, owner in self._weights
            for i, tensor in enumerate(weight.tensors)
        ]

    @property
    def weights(self) -> list[nn.Parameter]:
        """The dense weights under all sparse ones."""
        return [cast(nn.Parameter, owner.original) for _, owner in self._weights]

    def with_held_variance(self) -> list[nn.Parameter]:
        """The weights whose second moment the optimizer is to leave as it is."""
        return [
            cast(nn.Parameter, owner.original)
            for weight, owner in self._weights
            if any(force.state.moments.hold_variance for force in weight.in_force)
        ]

    @torch.no_grad()
    def update(self, states: Mapping[NMPattern, SparsityState]) -> None:
        """Put one state per target pattern in force and refresh the masks. Call once per optimizer update.

        The masks then stay as they are for micro-batches, evaluation and the meters until the next call.
        """
        if not self._weights:
            return
        device = self._weights[0][1].original.device
        for target, force in self._in_force.items():
            force.set(states[target], device)
        self._refresh(
            [
                (weight, i, tensor.part_of(owner.original), state)
                for weight, owner in self._weights
                for i, tensor in enumerate(weight.tensors)
                if (state := weight.in_force[i].state).pattern is not None
            ]
        )

    @torch.no_grad()
    def bake(self) -> None:
        """Make every sparse weight what its target's projection shows of it, with exact zeros."""
        for weight, owner in self._weights:
            for i, tensor in enumerate(weight.tensors):
                part = tensor.part_of(owner.original)
                self._refresh([(weight, i, part, replace(weight.in_force[i].state, pattern=tensor.pattern))])
                if (factor := weight.factor(i)) is not None:
                    part.mul_(factor)
                part.masked_fill_(~weight.mask(i), 0.0).add_(0.0)  # adding turns -0.0 into 0.0

    def _refresh(self, sparse: Sequence[tuple[SparseWeight, int, Tensor, SparsityState]]) -> None:
        """The masks of sparse tensors, those of one pattern at once, and what their recipes derive from them.

        Args:
            sparse: for each its parametrization, its place in there, its dense weight and a state with a pattern.
        """
        ranked: dict[tuple[NMPattern, Axis], list[tuple[Tensor, Tensor]]] = {}
        for weight, i, part, state in sparse:
            tensor = weight.tensors[i]
            assert state.pattern is not None
            if not state.freeze:
                key = tensor.fit(state.pattern, state.exact), tensor.axis
                ranked.setdefault(key, []).append((weight.mask(i), part))
        for (pattern, axis), found in ranked.items():
            write_masks(found, pattern, axis)
        for weight, i, part, state in sparse:
            self._derive(weight, i, part, state)

    def _derive(self, weight: SparseWeight, i: int, part: Tensor, state: SparsityState) -> None:
        """What the recipe of one sparse tensor makes of its mask, new or frozen."""
        assert state.pattern is not None
        tensor, mask, projection, flow = weight.tensors[i], weight.mask(i), state.projection, state.flow
        pattern = tensor.fit(state.pattern, state.exact)
        if not state.freeze and projection.whole_groups:
            mask.copy_(with_whole_groups(mask, part, pattern.m, tensor.axis, projection.whole_groups))
        if state.ranking.clear:
            part.masked_fill_(~mask, 0.0)
        if projection.power is not None or flow.contenders is not None:
            strongest = strongest_pruned(part, mask, pattern.m, tensor.axis)
        if projection.power is not None:
            factor = shrunk(part, strongest, projection.power, projection.threshold)
            if projection.rescale:
                if tensor.label not in self.remembered:
                    self.remembered[tensor.label] = nearest_scale(part, part * factor * mask)
                factor *= self.remembered[tensor.label]
            weight.derive("factor", i, filled(factor, ~mask, 1.0))
        elif projection.queried:
            weight.derive("factor", i, filled(queried(part, pattern), ~mask, 1.0))
        if flow.contenders is not None:
            shares = contending(part, strongest, flow.contenders).mul_(state.theta)
            weight.derive("reached", i, filled(shares, mask, 1.0))
        elif flow.wider is not None:
            key = f"{tensor.label} reached"  # as old as the mask, which may be frozen
            if not state.freeze:
                wider = nm_mask(part, tensor.fit(flow.wider, state.exact), tensor.axis)
                self.remembered[key] = wider.to(part.dtype)
            weight.derive("reached", i, self.remembered[key])

    @torch.no_grad()
    def add_penalty(self) -> None:
        """Add SR-STE's ``lambda * (1 - Phi) * W`` to the gradients (Zhou et al., 2021, equation 8).

        Call once per optimizer update: when the gradients of all micro-batches are in, averaged over processes and
        unscaled, and before they are clipped. A weight without a gradient is not trained by this update, and gets none.
        """
        for weight, owner in self._weights:
            gradient = owner.original.grad
            for i, tensor in enumerate(weight.tensors):
                if gradient is not None and (penalty := weight.in_force[i].state.penalty):
                    pruned = pruned_part(tensor.part_of(owner.original), weight.mask(i))
                    tensor.part_of(gradient).add_(pruned, alpha=penalty)

    @torch.no_grad()
    def exchange(self, optimizer: torch.optim.Optimizer) -> None:
        """Where the state says so, let pruned entries take the place of kept ones, by their gradients (`regrown`).

        Those that come in start from zero; the moments of all that changed are zero, and so is the gradient of what is
        pruned now. Call at the place of `add_penalty`.
        """
        for weight, owner in self._weights:
            for i, tensor in enumerate(weight.tensors):
                state = weight.in_force[i].state
                if state.pattern is None or state.ranking.regrow is None or owner.original.grad is None:
                    continue
                part, gradient = tensor.part_of(owner.original), tensor.part_of(owner.original.grad)
                mask, pattern = weight.mask(i), tensor.fit(state.pattern, state.exact)
                after = regrown(part, gradient, mask, pattern, tensor.axis, state.ranking.regrow)
                part.masked_fill_(after & ~mask, 0.0)
                gradient.masked_fill_(~after, 0.0)
                for moment in optimizer.state[owner.original].values():
                    if isinstance(moment, Tensor) and moment.shape == owner.original.shape:
                        tensor.part_of(moment).masked_fill_(after ^ mask, 0.0)
                mask.copy_(after)


def sparsify_model(model: nn.Module, rules: Sequence[SparsityRule]) -> list[SparseTensor]:
    """Register a parametrization on every weight that the rules name; at first the target pattern is in force.

    A parameter that several modules share stays shared. Raises ValueError as `resolve_rules` does, and for a model
    that is sparse already.
    """
    if any(isinstance(module, SparseWeight) for module in model.modules()):
        raise ValueError("the model is sparse already; call remove_sparsity before other rules")
    tensors = resolve_rules(model, rules)
    control = SparsityControl()
    parameters = stock_names(model)
    by_weight: dict[int, list[SparseTensor]] = {}
    for tensor in tensors:
        by_weight.setdefault(id(parameters[tensor.name]), []).append(tensor)
    for parts in by_weight.values():
        weight = parameters[parts[0].name]
        sparse = SparseWeight(weight, parts, control)
        places = [name.rpartition(".") for name, other in parameters.items() if other is weight]
        # Two names may also mean one module with two names: it gets one parametrization.
        for owner, attribute in dict.fromkeys((model.get_submodule(module), last) for module, _, last in places):
            parametrize.register_parametrization(owner, attribute, sparse)
        registered = cast(nn.ModuleDict, owner.parametrizations)[attribute]
        control._weights.append((sparse, cast(parametrize.ParametrizationList, registered)))
    control.hooks = [
        model.register_forward_pre_hook(control.readings.begin),
        model.register_forward_hook(control.readings.end, always_call=True),
    ]
    return tensors


def sparsity_control(model: nn.Module) -> SparsityControl:
    """The control of a sparsified model; of a dense one, a control with nothing to do."""
    return next((m.control for m in model.modules() if isinstance(m, SparseWeight)), SparsityControl())


@torch.no_grad()
def remove_sparsity(model: nn.Module) -> None:
    """Bake the target's exact zeros into plain parameters; the state dict has the stock model's keys again."""
    control = sparsity_control(model)
    control.bake()
    for hook in control.hooks:
        hook.remove()
    for module in list(model.modules()):
        if not parametrize.is_parametrized(module):
            continue
        for attribute, registered in list(cast(nn.ModuleDict, module.parametrizations).items()):
            if isinstance(cast(nn.ModuleList, registered)[0], SparseWeight):
                # Deep copies share the class that parametrize made, and removing deletes the weight from it. Without a
                # class of its own for this one, the other copies would lose their weight.
                kind = type(module)
                module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)


@torch.no_grad()
def verify_sparsity(model: nn.Module, rules: Sequence[SparsityRule]) -> int:
    """Count the non-zero entries of every group that the rules ask for, in the weights that the forward uses.

    Returns:
        How many kept entries are exactly zero: what the groups with fewer than N non-zero entries lack, in all. A model
        that was sparser before has such.

    Raises:
        ValueError: naming tensor, group and count, where a group has more than N.
    """
    zeros = 0
    for tensor in resolve_rules(model, rules):
        module, _, attribute = tensor.name.rpartition(".")
        weight = tensor.part_of(getattr(model.get_submodule(module), attribute))
        dim = group_dim(tensor.axis)
        counts = weight.unflatten(dim, (-1, tensor.pattern.m)).count_nonzero(dim + 1)
        zeros += tensor.pattern.n * counts.numel() - int(counts.sum())
        wrong = (counts > tensor.pattern.n).nonzero()
        if len(wrong):
            group = tuple(wrong[0].tolist())
            raise ValueError(
                f"{tensor.label}: group {group} along the {tensor.axis} axis has {int(counts[group])} non-zero weights,"
                f" not {tensor.pattern.n} of {tensor.pattern.m}; {len(wrong)} of {counts.numel()} groups are off"
            )
    return zeros
