"""What a sparsified model has beside the stock one: a parametrization per weight, and one control for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.hooks import RemovableHandle

from nmtrain.sparsity.mask import Axis, nm_mask, write_masks
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
from nmtrain.sparsity.rules import SparseTensor
from nmtrain.sparsity.shards import WHOLE, Shards
from nmtrain.sparsity.sparsify import apply_mask, filled, pruned_part
from nmtrain.sparsity.state import SparsityState


class _InForce:
    """The state in force for one target pattern, as the forward reads it.

    What changes inside a phase are 0-dim tensors that are filled in place: a float would recompile a compiled model.
    """

    def __init__(self, target: NMPattern) -> None:
        self.target = target
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
    def at_target(self) -> bool:
        return self.state.strict and self.state.pattern == self.target

    @property
    def reached(self) -> Tensor | None:
        """The share of the gradient that reaches pruned entries; None is all."""
        return None if self.reaches_all else self.theta


class SparseWeight(nn.Module):
    """Parametrization of one weight: dense in, sparse out. Masks are buffers, so they travel with the state dict.

    So do not what follows from weight and mask at each update: ``factor_i``, of kept entries, and ``reached_i``, the
    share of the gradient of pruned ones; they are there once a recipe wants them.

    Attributes:
        shards: which rows of the weight, and of all that is kept of it here, this process has.
    """

    def __init__(self, weight: Tensor, tensors: Sequence[SparseTensor], control: SparsityControl) -> None:
        super().__init__()
        self.tensors = tuple(sorted(tensors, key=lambda tensor: tensor.rows or (0, 0)))
        self.in_force = tuple(control.in_force(tensor.pattern) for tensor in self.tensors)
        self.control = control
        self.shards: Shards = WHOLE
        for i, tensor in enumerate(self.tensors):
            self.register_buffer(f"mask_{i}", nm_mask(tensor.part_of(weight), tensor.pattern, tensor.axis))

    def mask(self, i: int) -> Tensor:
        return cast(Tensor, getattr(self, f"mask_{i}"))

    def forward(self, weight: Tensor) -> Tensor:
        if self.tensors[0].rows is None:
            return self._sparse(0, weight)
        pieces, row = [], 0
        for i in range(len(self.tensors)):
            first, last = cast(tuple[int, int], self.rows(i))
            if first == last:
                continue
            pieces += [weight[row:first], self._sparse(i, weight[first:last])]
            row = last
        return torch.cat([*pieces, weight[row:]])

    def part(self, i: int, weight: Tensor) -> Tensor:
        """What of a sparse tensor is in ``weight``, or in what has a value for each of its entries."""
        rows = self.rows(i)
        return weight if rows is None else weight[rows[0] : rows[1]]

    def rows(self, i: int) -> tuple[int, int] | None:
        """Which rows of the weight a sparse tensor is; None where that is all."""
        return self.shards.place(self.tensors[i].name, self.tensors[i].rows)

    def rows_that_go_on(self, length: int) -> list[slice]:
        """The rows of the weight, of ``length``, that are in no sparse tensor whose second moment is held."""
        moments = [force.state.moments for force in self.in_force]
        held = [self.rows(i) or (0, length) for i, one in enumerate(moments) if one.hold_variance]
        cuts = [0, *(row for rows in held if rows[0] < rows[1] for row in rows), length]
        return [slice(*rows) for rows in zip(cuts[::2], cuts[1::2], strict=True) if rows[0] < rows[1]]

    def whole(self, i: int, part: Tensor) -> Tensor:
        """What all processes have of a sparse tensor."""
        return self.shards.whole(part, self.tensors[i].name, self.tensors[i].rows)

    def own(self, i: int, whole: Tensor) -> Tensor:
        """What of a whole sparse tensor this process has."""
        return self.shards.own(whole, self.tensors[i].name, self.tensors[i].rows)

    def hold(self, shards: Shards, change: Callable[[SparseTensor, Tensor], Tensor]) -> None:
        """Have from now on the rows of ``shards``: of each mask, and of what follows from it, what ``change`` gives."""
        self.shards = shards
        for i, tensor in enumerate(self.tensors):
            for kind in ("mask", "factor", "reached"):
                if (held := getattr(self, f"{kind}_{i}", None)) is not None:
                    setattr(self, f"{kind}_{i}", change(tensor, held))

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


@dataclass(frozen=True, eq=False)
class _Part:
    """Of one sparse tensor, what its mask is made from: what is kept of it here, or all of it, gathered."""

    weight: SparseWeight
    i: int  # its place in there
    state: SparsityState  # with a pattern
    part: Tensor
    mask: Tensor
    is_gathered: bool = False

    @property
    def tensor(self) -> SparseTensor:
        return self.weight.tensors[self.i]

    @property
    def pattern(self) -> NMPattern:
        assert self.state.pattern is not None
        return self.tensor.fit(self.state.pattern, self.state.exact)

    def kept(self, value: Tensor) -> Tensor:
        """What is kept here of what was made from the part."""
        return self.weight.own(self.i, value).clone() if self.is_gathered else value

    def gathered(self) -> _Part:
        part, mask = (self.weight.whole(self.i, one) for one in (self.part, self.mask))
        return _Part(self.weight, self.i, self.state, part, mask, is_gathered=True)

    def depends_on_others(self, scaled: Mapping[str, Tensor]) -> bool:
        """Whether rows that other processes keep have a say in what is kept here; ``scaled`` has what has a scale."""
        shards, projection, flow = self.weight.shards, self.state.projection, self.state.flow
        derives = projection.power is not None or projection.queried or flow.contenders is not None
        if shards is WHOLE or (self.state.freeze and not derives):
            return False
        patterns = [self.pattern, *([self.tensor.fit(flow.wider, self.state.exact)] if flow.wider is not None else [])]
        return (
            not all(shards.holds_groups(self.tensor, pattern) for pattern in patterns)
            or projection.whole_groups > 0
            or (projection.rescale and self.tensor.label not in scaled)
            or (projection.queried and self.part.dim() > 2)
        )


class SparsityControl:
    """The one object that all parametrizations of a model read; see `sparsity_control`."""

    def __init__(self) -> None:
        self._in_force: dict[NMPattern, _InForce] = {}
        self.parametrizations: list[tuple[SparseWeight, ParametrizationList]] = []  # and where their weight is
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
        return all(force.at_target for force in self._in_force.values())

    def in_force(self, target: NMPattern) -> _InForce:
        return self._in_force.setdefault(target, _InForce(target))

    def sparse_tensors(self) -> list[tuple[SparseTensor, Tensor, Tensor, SparsityState]]:
        """(tensor, its dense weight, its mask, the state in force) for every sparse tensor."""
        return [
            (tensor, weight.part(i, owner.original), weight.mask(i), weight.in_force[i].state)
            for weight, owner in self.parametrizations
            for i, tensor in enumerate(weight.tensors)
        ]

    @property
    def sparse_rows(self) -> list[tuple[nn.Parameter, slice]]:
        """Where sparse tensors lie: each one's dense weight, and its rows in there."""
        return [
            (cast(nn.Parameter, owner.original), slice(*(weight.rows(i) or (None,))))
            for weight, owner in self.parametrizations
            for i in range(len(weight.tensors))
        ]

    def with_held_variance(self) -> dict[nn.Parameter, list[slice]]:
        """The weights whose second moment the optimizer is to leave as it is, each with the rows where it is not."""
        held: dict[nn.Parameter, list[slice]] = {}
        for weight, owner in self.parametrizations:
            if any(force.state.moments.hold_variance for force in weight.in_force):
                held[cast(nn.Parameter, owner.original)] = weight.rows_that_go_on(len(owner.original))
        return held

    @torch.no_grad()
    def update(self, states: Mapping[NMPattern, SparsityState]) -> None:
        """Put one state per target pattern in force and refresh the masks. Call once per optimizer update.

        The masks then stay as they are for micro-batches, evaluation and the meters until the next call.
        """
        if not self.parametrizations:
            return
        device = self.parametrizations[0][1].original.device
        for target, force in self._in_force.items():
            force.set(states[target], device)
        for weight, owner in self.parametrizations:
            for i, force in enumerate(weight.in_force):
                if not force.active and force.state.ranking.clear:
                    weight.part(i, owner.original).masked_fill_(~weight.mask(i), 0.0)
        self._refresh(
            [
                _Part(weight, i, state, weight.part(i, owner.original), weight.mask(i))
                for weight, owner in self.parametrizations
                for i in range(len(weight.tensors))
                if (state := weight.in_force[i].state).pattern is not None
            ]
        )

    @torch.no_grad()
    def hold(self, shards: Shards, change: Callable[[SparseTensor, Tensor], Tensor]) -> None:
        """Have from now on the rows of ``shards``; of all that is kept of a sparse tensor, what ``change`` gives. The
        dense weights themselves are the caller's."""
        for weight, _ in self.parametrizations:
            weight.hold(shards, change)
        self.remembered = self.changed(self.remembered, change)

    def changed(
        self, remembered: Mapping[str, Tensor], change: Callable[[SparseTensor, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """What is remembered, with what ``change`` gives of what has a value for each entry of a sparse tensor."""
        tensors = {_wider(tensor): tensor for weight, _ in self.parametrizations for tensor in weight.tensors}
        return {key: change(tensors[key], left) if key in tensors else left for key, left in remembered.items()}

    @torch.no_grad()
    def bake(self) -> None:
        """Make every sparse weight what its target's projection shows of it, with exact zeros: as the forward uses it,
        where the target is in force."""
        for weight, owner in self.parametrizations:
            for i, force in enumerate(weight.in_force):
                part = weight.part(i, owner.original)
                if not force.at_target:
                    state = replace(force.state, pattern=force.target)
                    self._refresh([_Part(weight, i, state, part, weight.mask(i))])
                if (factor := weight.factor(i)) is not None:
                    part.mul_(factor)
                part.masked_fill_(~weight.mask(i), 0.0).add_(0.0)  # adding turns -0.0 into 0.0

    def _refresh(self, parts: Sequence[_Part]) -> None:
        """The masks of sparse tensors, those of one pattern at once, and what their recipes derive from them."""
        gathering = [one.depends_on_others(self.remembered) for one in parts]
        self._make([one for one, gathers in zip(parts, gathering, strict=True) if not gathers])
        for one in compress(parts, gathering):
            self._make([found := one.gathered()])
            one.mask.copy_(found.kept(found.mask))
            if one.state.ranking.clear:
                one.part.masked_fill_(~one.mask, 0.0)

    def _make(self, parts: Sequence[_Part]) -> None:
        ranked: dict[tuple[NMPattern, Axis], list[tuple[Tensor, Tensor]]] = {}
        for one in parts:
            if not one.state.freeze:
                ranked.setdefault((one.pattern, one.tensor.axis), []).append((one.mask, one.part))
        for (pattern, axis), found in ranked.items():
            write_masks(found, pattern, axis)
        for one in parts:
            self._derive(one)

    def _derive(self, one: _Part) -> None:
        """What the recipe of one sparse tensor makes of its mask, new or frozen."""
        tensor, part, mask, state, pattern = one.tensor, one.part, one.mask, one.state, one.pattern
        projection, flow = state.projection, state.flow
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
            one.weight.derive("factor", one.i, one.kept(filled(factor, ~mask, 1.0)))
        elif projection.queried:
            one.weight.derive("factor", one.i, one.kept(filled(queried(part, pattern), ~mask, 1.0)))
        if flow.contenders is not None:
            shares = contending(part, strongest, flow.contenders).mul_(state.theta)
            one.weight.derive("reached", one.i, one.kept(filled(shares, mask, 1.0)))
        elif flow.wider is not None:
            if not state.freeze:  # as old as the mask
                wider = nm_mask(part, tensor.fit(flow.wider, state.exact), tensor.axis)
                self.remembered[_wider(tensor)] = one.kept(wider.to(part.dtype))
            one.weight.derive("reached", one.i, self.remembered[_wider(tensor)])

    @torch.no_grad()
    def add_penalty(self) -> None:
        """Add SR-STE's ``lambda * (1 - Phi) * W`` to the gradients (Zhou et al., 2021, equation 8).

        Call once per optimizer update: when the gradients of all micro-batches are in, averaged over processes and
        unscaled, and before they are clipped. A weight without a gradient is not trained by this update, and gets none.
        """
        for weight, owner in self.parametrizations:
            gradient = owner.original.grad
            for i in range(len(weight.tensors)):
                if gradient is not None and (penalty := weight.in_force[i].state.penalty):
                    pruned = pruned_part(weight.part(i, owner.original), weight.mask(i))
                    weight.part(i, gradient).add_(pruned, alpha=penalty)

    @torch.no_grad()
    def exchange(self, optimizer: torch.optim.Optimizer) -> None:
        """Where the state says so, let pruned entries take the place of kept ones, by their gradients (`regrown`).

        Those that come in start from zero; the moments of all that changed are zero, and so is the gradient of what is
        pruned now. Call at the place of `add_penalty`.
        """
        for weight, owner in self.parametrizations:
            for i, tensor in enumerate(weight.tensors):
                state = weight.in_force[i].state
                if state.pattern is None or state.ranking.regrow is None or owner.original.grad is None:
                    continue
                part, gradient = weight.part(i, owner.original), weight.part(i, owner.original.grad)
                mask, pattern = weight.mask(i), tensor.fit(state.pattern, state.exact)
                # How many entries a group exchanges depends on the whole tensor.
                w, g, kept = (weight.whole(i, one) for one in (part, gradient, mask))
                after = weight.own(i, regrown(w, g, kept, pattern, tensor.axis, state.ranking.regrow))
                part.masked_fill_(after & ~mask, 0.0)
                gradient.masked_fill_(~after, 0.0)
                for moment in optimizer.state[owner.original].values():
                    if isinstance(moment, Tensor) and moment.shape == owner.original.shape:
                        weight.part(i, moment).masked_fill_(after ^ mask, 0.0)
                mask.copy_(after)


def _wider(tensor: SparseTensor) -> str:
    """Under which a sparse tensor's wider mask is remembered."""
    return f"{tensor.label} reached"
