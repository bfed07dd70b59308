"""Gradient noise and mask churn of every sparse tensor, for dense runs too (method, section 6)."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from nmtrain.measure.depth import blocks, depth_of
from nmtrain.sparsity import NMPattern, SparseTensor, SparsityState, nm_mask, sparsity_control
from nmtrain.sparsity.rules import stock_names
from nmtrain.sparsity.shards import WHOLE, Shards

logger = logging.getLogger(__name__)

Record = dict[str, Any]

# Decay rates of the running averages that stand in for Adam's where the optimizer keeps none: Adam's usual ones.
SGD_BETAS = (0.9, 0.999)

_PATIENCE = 20  # updates in which the loss has to reach a tensor: LayerDrop skips a layer now and then

_ENTRY_METRICS = ("grad_abs_mean", "grad_abs_var", "grad_noise", "second_moment_mean", "second_moment_var")
_ENTRY_KEYS = [f"{metric}{part}" for metric in _ENTRY_METRICS for part in ("", "/kept", "/pruned")]
_METRIC_KEYS = ["density", *_ENTRY_KEYS, "grad_window_var", "flip_rate", "sad"]


@dataclass(frozen=True)
class _Seen:
    """What a measurement takes of one tensor before clipping: its state, its mask, and the statistics of |g|."""

    state: SparsityState
    split: _Split
    gradient: Tensor


class NoiseMeter:
    """Measures every sparse tensor at every ``every``-th update. In each update call, in this order,

    1. `see_gradients`, when the last micro-batch's gradient is in and nothing is clipped yet, and
    2. `after_step`, after the optimizer's step and before gradients are zeroed; it returns the records.

    What is measured, per sparse tensor of E entries. ``g`` is the gradient of its dense weight as the gradient rule
    leaves it, summed over micro-batches; a mean is over entries, a variance too (population variance, divided by E).

    - ``grad_abs_mean``, ``grad_abs_var``: of |g|, before clipping.
    - ``grad_noise``: mean of ``max(v_hat - m_hat**2, 0)``; ``second_moment_mean``, ``second_moment_var``: of ``v_hat``.
      m_hat and v_hat are Adam's own moments after this update's step, with bias correction. Adam sees *clipped*
      gradients, so these three do too: they are the noise that the weights are moved by. Optimizers without moments
      (SGD) get running averages of the clipped g and g**2, decaying by `SGD_BETAS` and kept by the meter.
    - ``grad_window_var``: population variance of ``grad_abs_mean`` over the last ``window`` updates, every one of them
      (the mean is taken at each update, and stays on the device); None until so many were seen.
    - ``sad``: mask entries that differ from the last measurement's; ``flip_rate``: sad / E / updates since then.
      None at the first measurement.
    - ``density``: kept entries / E of the mask in force, 1 while the weight is dense.

    The entry-wise ones also stand as ``name/kept`` and ``name/pruned``, over the entries that the mask keeps and those
    that it does not; None where there are no such entries. Where no pattern is in force (a dense run, a dense phase)
    that is the target's mask of the weights that the forward used; a dense model can be measured for several targets,
    each with records of its own, and what depends on no mask is taken once.

    A tensor whose layer an update skips (LayerDrop) has gradient 0 there. Adam leaves its moments as they are.

    Sums are taken in float64 on the device, and come to the host once per measurement. Processes that train copies do
    not talk: DDP leaves the same averaged gradient on every rank, so every rank has the same records and one may keep
    the meter. Those that share the weights add up what each has of its rows.

    Args:
        model: stock or sparsified; the module itself, not its DDP or compiled wrapper.
        measured: by the sparsity that they are measured for, the tensors, as `sparsify_model` or, for a dense model,
            `resolve_rules` gives them.
        optimizer: of this model.
        every: updates per measurement.
        window: updates, at least 2.
        shards: what the model's weights are of the stock model's.
    """

    def __init__(
        self,
        model: nn.Module,
        measured: Mapping[NMPattern, Sequence[SparseTensor]],
        optimizer: torch.optim.Optimizer,
        every: int,
        window: int,
        shards: Shards = WHOLE,
    ) -> None:
        if not all(measured.values()) or not measured:
            raise ValueError("there are no tensors to measure; for a dense model take those of resolve_rules")
        if every < 1 or window < 2:
            raise ValueError(f"every = {every} and window = {window}: must be at least 1 and 2 updates")
        self.optimizer, self.every, self._shards = optimizer, every, shards
        self.tensors = [tensor for tensors in measured.values() for tensor in tensors]
        self._sparsities = [str(sparsity) for sparsity, tensors in measured.items() for _ in tensors]
        self._control = sparsity_control(model)
        # What depends on no mask is taken of parts of weights, each of which is a tensor for one sparsity or several.
        parts: dict[str, list[int]] = {}
        for i, tensor in enumerate(self.tensors):
            parts.setdefault(tensor.label, []).append(i)
        self._tensors_of = list(parts.values())
        self._parts = [self.tensors[tensors[0]] for tensors in self._tensors_of]
        found = blocks(model)
        self._depths = [depth_of(tensor.name, found) for tensor in self.tensors]
        names = stock_names(model)
        self._weights = [names[part.name] for part in self._parts]
        entries = [float(prod(part.shape)) for part in self._parts]
        self._entries = torch.tensor(entries, dtype=torch.float64, device=self._weights[0].device)
        self._before: dict[int, _Seen] = {}  # by place in `tensors`; of the update that is being measured
        self._window: deque[Tensor] = deque(maxlen=window)  # grad_abs_mean of all parts, by update
        self._number = 0  # of the update seen last
        self._unreached = list(self._pairs())  # parts that have had no gradient, over `_updates`
        self._updates = 0
        self._measured: int | None = None  # updates done at the last measurement
        self._masks: list[Tensor | None] = [None] * len(self.tensors)  # of the last measurement
        self._averages: _RunningAverages | None = None
        if not all("betas" in group for group in optimizer.param_groups):
            self._averages = _RunningAverages([self._part(part, weight) for part, weight in self._pairs()])

    @torch.no_grad()
    def see_gradients(self, number: int) -> None:
        """Take what clipping would change. ``number``: of this update, 0-based; it is measured if it is the last of
        ``every``.

        Raises:
            RuntimeError: naming the tensor, if one has had no gradient in the first 20 updates.
        """
        self._require_reached()
        gradients = self._gradients()
        sums = torch.stack([gradient.abs().sum(dtype=torch.float64) for gradient in gradients])
        self._window.append(self._shards.summed(sums) / self._entries)
        self._number = number
        if (number + 1) % self.every:
            return
        in_force = {tensor: (mask, state) for tensor, _, mask, state in self._control.sparse_tensors()}
        for tensors, weight, gradient in zip(self._tensors_of, self._weights, gradients, strict=True):
            for i in tensors:
                tensor = self.tensors[i]
                mask, state = in_force.get(tensor, (None, SparsityState(None)))
                if mask is None or state.pattern is None:
                    mask = self._mask_at_target(tensor, self._part(tensor, weight))
                split = _Split(mask, self._shards)
                self._before[i] = _Seen(state, split, split.means_and_variances(gradient.abs().double()))

    @torch.no_grad()
    def after_step(self) -> list[Record]:
        """The records of this update, if it is measured: for each sparsity one per tensor, then averages over tensors
        (unweighted, of those that have the metric): ``mean`` of all, ``role:ff`` and so on, ``depth:0`` and so on, by
        the block that holds a tensor: see `nmtrain.measure.depth`.

        ``update`` counts updates done, this one included, as in metrics.jsonl; ``sparsity`` says for which it was
        measured. A tensor's ``pattern`` is what its axis got of the phase; an average has the pattern and decay that
        the recipe has in force for most of its tensors.
        """
        if self._averages is not None:
            self._averages.update(self._gradients())
        before, self._before = self._before, {}
        if not before:
            return []
        full = len(self._window) == self._window.maxlen
        windows = torch.stack(list(self._window)).var(0, correction=0) if full else torch.zeros_like(self._window[-1])
        rows: dict[int, Tensor] = {}
        for tensors, window_var, (m_hat, v_hat) in zip(self._tensors_of, windows, self._moments(), strict=True):
            noise = v_hat.addcmul(m_hat, m_hat, value=-1).clamp_(min=0)
            for i in tensors:
                split, last = before[i].split, self._masks[i]
                changed = (torch.zeros_like(split.mask) if last is None else split.mask != last).count_nonzero()
                counts = torch.stack([split.kept, self._shards.summed(changed)])
                second = split.means_and_variances(v_hat)
                rows[i] = torch.cat([before[i].gradient, split.means(noise), second, counts, window_var.unsqueeze(0)])
        places = range(len(self.tensors))
        values = torch.stack([rows[i] for i in places]).tolist()  # the one wait for the device
        states = [before[i].state for i in places]
        records = self._records(states, values, full)
        self._measured, self._masks = self._number + 1, [before[i].split.mask.clone() for i in places]
        return [record for own in self._by_sparsity(records, states) for record in own]

    def _by_sparsity(self, records: list[Record], states: list[SparsityState]) -> Iterator[list[Record]]:
        """The records of each sparsity with their averages behind them."""
        for sparsity in dict.fromkeys(self._sparsities):
            own = [i for i, other in enumerate(self._sparsities) if other == sparsity]
            found = [records[i] for i in own]
            yield [*found, *_averages(found, [states[i] for i in own])]

    def state_dict(self) -> Record:
        """What a resumed run needs for the same records, bit for bit: last masks, window, running averages."""
        return {
            "tensors": self._identity(),
            "measured": self._measured,
            "masks": [
                None if mask is None else self._shards.for_first(mask, tensor.name, tensor.rows)
                for tensor, mask in zip(self.tensors, self._masks, strict=True)
            ],
            "window": list(self._window),
            "averages": None if self._averages is None else self._changed_averages(vars(self._averages), whole=True),
        }

    def load_state_dict(self, state: Record) -> None:
        """Take up a saved state, as far as it is of the same tensors and targets; a warning says if it is not (a dense
        run is one run for every pattern)."""
        device = self._weights[0].device
        labels = list(dict.fromkeys(label for label, _, _ in state["tensors"]))
        # Before the first measurement there are no masks; earlier checkpoints have an empty list of them then.
        masks = dict(zip(map(tuple, state["tensors"]), state["masks"], strict=False))
        if state["tensors"] != self._identity():
            logger.warning("noise was measured on other tensors or patterns before; what is new here starts anew")
        self._masks = [
            None
            if (mask := masks.get(tuple(identity))) is None
            else self._shards.own(mask, tensor.name, tensor.rows).to(device, copy=True)
            for tensor, identity in zip(self.tensors, self._identity(), strict=True)
        ]
        self._measured = state["measured"]
        if labels != [part.label for part in self._parts]:
            return
        self._window.clear()
        self._window.extend(means.to(device) for means in state["window"])
        if self._averages is not None and state["averages"] is not None:
            self._averages.load(**self._changed_averages(state["averages"], whole=False))

    def _changed_averages(self, state: Record, whole: bool) -> Record:
        """Running averages of all rows from those of the rows that are kept here, or the other way round."""
        change = self._shards.for_first if whole else self._shards.own
        return {
            key: [change(one, part.name, part.rows) for part, one in zip(self._parts, value, strict=True)]
            if isinstance(value, list)
            else value
            for key, value in state.items()
        }

    def _mask_at_target(self, tensor: SparseTensor, part: Tensor) -> Tensor:
        if self._shards.holds_groups(tensor, tensor.pattern):
            return nm_mask(part, tensor.pattern, tensor.axis)
        whole = self._shards.whole(part, tensor.name, tensor.rows)
        return self._shards.own(nm_mask(whole, tensor.pattern, tensor.axis), tensor.name, tensor.rows)

    def _part(self, part: SparseTensor, weight: Tensor) -> Tensor:
        rows = self._shards.place(part.name, part.rows)
        return weight if rows is None else weight[rows[0] : rows[1]]

    def _identity(self) -> list[list[str]]:
        return [[tensor.label, str(tensor.pattern), tensor.axis] for tensor in self.tensors]

    def _pairs(self) -> Iterator[tuple[SparseTensor, Tensor]]:
        return zip(self._parts, self._weights, strict=True)

    def _require_reached(self) -> None:
        self._updates += 1
        self._unreached = [(part, weight) for part, weight in self._unreached if weight.grad is None]
        if self._unreached and self._updates >= _PATIENCE:
            (part, _), *_ = self._unreached
            raise RuntimeError(
                f"{part.label} has no gradient, in {_PATIENCE} updates; noise is measured where the loss reaches"
            )

    def _gradients(self) -> list[Tensor]:
        return [
            self._part(part, torch.zeros_like(weight) if weight.grad is None else weight.grad)
            for part, weight in self._pairs()
        ]

    def _moments(self) -> Iterator[tuple[Tensor, Tensor]]:
        """m_hat and v_hat of each part, in float64. Bias corrections too: float32 has 1 - 0.999 to four digits."""
        if self._averages is not None:
            yield from self._averages.corrected()
            return
        betas = {id(weight): group["betas"] for group in self.optimizer.param_groups for weight in group["params"]}
        for part, weight in self._pairs():
            if not (state := self.optimizer.state.get(weight)):  # no update has reached it yet
                zeros = torch.zeros_like(self._part(part, weight), dtype=torch.float64)
                yield zeros, zeros
                continue
            step = torch.as_tensor(state["step"]).double()
            m, v = (self._part(part, state[key]).double() for key in ("exp_avg", "exp_avg_sq"))
            beta1, beta2 = betas[id(weight)]
            held_at = torch.as_tensor(state.get("held_at", state["step"])).double()
            yield m / (1 - beta1**step), v / (1 - beta2**held_at)

    def _records(self, states: list[SparsityState], rows: list[list[float]], window_is_full: bool) -> list[Record]:
        records = []
        done = self._number + 1
        for i, (tensor, state, row) in enumerate(zip(self.tensors, states, rows, strict=True)):
            *entry_values, kept, changed, window_var = row
            entries = prod(tensor.shape)
            values: dict[str, float | None] = dict(zip(_ENTRY_KEYS, entry_values, strict=True))
            for part, count in (("/kept", kept), ("/pruned", entries - kept)):
                if not count:
                    values |= {key: None for key in _ENTRY_KEYS if key.endswith(part)}
            since = None if self._measured is None or self._masks[i] is None else done - self._measured
            records.append(
                {
                    "update": done,
                    "tensor": tensor.label,
                    "role": tensor.role,
                    "depth": self._depths[i],
                    "sparsity": self._sparsities[i],
                    "pattern": None if state.pattern is None else str(tensor.fit(state.pattern, state.exact)),
                    "decay": state.decay,
                    "density": 1.0 if state.pattern is None else kept / entries,
                    **values,
                    "grad_window_var": window_var if window_is_full else None,
                    "flip_rate": None if since is None else changed / entries / since,
                    "sad": None if since is None else int(changed),
                }
            )
        return records


class _Split:
    """A mask's kept and pruned entries, and float64 statistics over both; nothing here waits for the device."""

    def __init__(self, mask: Tensor, shards: Shards) -> None:
        self.mask, self._summed = mask, shards.summed
        kept = mask.count_nonzero()
        counts = self._summed(torch.stack([kept, mask.numel() - kept]).double())
        self.kept = counts[0]
        self._shares = counts / counts.sum()
        self._divisors = counts.clamp(min=1)

    def means(self, values: Tensor) -> Tensor:
        """Means over all, kept and pruned entries."""
        return self._with_whole(self._means(values))

    def means_and_variances(self, values: Tensor) -> Tensor:
        """Means over all, kept and pruned entries, then their variances. Two passes: nothing cancels."""
        means = self._means(values)
        variances = self._means((values - torch.where(self.mask, means[0], means[1])).square_())
        between = self._shares.prod() * (means[0] - means[1]) ** 2  # the law of total variance
        whole, *parts = self._with_whole(variances)
        return torch.cat([self._with_whole(means), torch.stack([whole + between, *parts])])

    def _means(self, values: Tensor) -> Tensor:
        kept = values * self.mask
        sums = torch.stack([kept.sum(), (values - kept).sum()])  # the difference is exact
        return self._summed(sums) / self._divisors

    def _with_whole(self, of_parts: Tensor) -> Tensor:
        return torch.cat([(of_parts * self._shares).sum().unsqueeze(0), of_parts])


class _RunningAverages:
    """Adam's moments for an optimizer that keeps none."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        self.steps = 0
        self.m = [torch.zeros_like(tensor, requires_grad=False) for tensor in like]
        self.v = [torch.zeros_like(tensor, requires_grad=False) for tensor in like]

    def update(self, gradients: list[Tensor]) -> None:
        self.steps += 1
        beta1, beta2 = SGD_BETAS
        torch._foreach_lerp_(self.m, gradients, 1 - beta1)
        torch._foreach_mul_(self.v, beta2)
        torch._foreach_addcmul_(self.v, gradients, gradients, 1 - beta2)

    def corrected(self) -> Iterator[tuple[Tensor, Tensor]]:
        corrections = [1 - beta**self.steps for beta in SGD_BETAS]
        for m, v in zip(self.m, self.v, strict=True):
            yield m.double() / corrections[0], v.double() / corrections[1]

    def load(self, steps: int, m: list[Tensor], v: list[Tensor]) -> None:
        self.steps = steps
        for own, saved in zip([*self.m, *self.v], [*m, *v], strict=True):
            own.copy_(saved)


def _averages(records: list[Record], states: list[SparsityState]) -> Iterator[Record]:
    """One record for all tensors, one per role, one per depth."""
    members: dict[tuple[str, str | None, int | None], list[int]] = {("mean", None, None): list(range(len(records)))}
    for i, record in enumerate(records):
        members.setdefault((f"role:{record['role']}", record["role"], None), []).append(i)
    with_depth = [(record["depth"], i) for i, record in enumerate(records) if record["depth"] is not None]
    for depth, i in sorted(with_depth):
        members.setdefault((f"depth:{depth}", None, depth), []).append(i)
    for (name, role, depth), indices in members.items():
        state = Counter(states[i] for i in indices).most_common(1)[0][0]
        means: dict[str, float | None] = {}
        for key in _METRIC_KEYS:
            values = [records[i][key] for i in indices if records[i][key] is not None]
            means[key] = fmean(values) if values else None
        yield {
            "update": records[0]["update"],
            "tensor": name,
            "role": role,
            "depth": depth,
            "sparsity": records[0]["sparsity"],
            "pattern": None if state.pattern is None else str(state.pattern),
            "decay": state.decay,
            **means,
        }
