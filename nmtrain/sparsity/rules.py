"""Which tensors are sparse: rules by name, resolved against a model into a list of sparse tensors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

from nmtrain.sparsity.mask import Axis, group_dim
from nmtrain.sparsity.pattern import NMPattern


class NoTensorLeft(ValueError):
    """Rules with ``indivisible="skip"`` that leave every tensor dense."""


@dataclass(frozen=True)
class SparsityRule:
    """Make the weights whose names match sparse.

    Attributes:
        name: parameter name, with ``*`` and ``?`` as wildcards: ``blocks.*.mlp.fc1.weight``.
        pattern: the target N:M.
        role: what the weight is in the network (``ff``, ``q``, ...); only recorded.
        axis: the axis that groups run along.
        rows: ``(first, last + 1)`` where only a slice of a fused matrix is meant, for example Q inside QKV.
        indivisible: ``error`` or ``skip`` (stay dense, with a warning) where M does not divide the axis.
    """

    name: str
    pattern: NMPattern
    role: str = ""
    axis: Axis = "input"
    rows: tuple[int, int] | None = None
    indivisible: Literal["error", "skip"] = "error"


@dataclass(frozen=True)
class SparseTensor:
    """One sparse tensor of a model, or a row slice of a fused one; ``shape`` is the slice's."""

    name: str
    role: str
    shape: tuple[int, ...]
    axis: Axis
    pattern: NMPattern
    rows: tuple[int, int] | None = None
    convolution_groups: int = 1

    @property
    def label(self) -> str:
        """The name, with the rows where it is a slice: ``blocks.0.attn.qkv.weight[0:192]``."""
        return self.name if self.rows is None else f"{self.name}[{self.rows[0]}:{self.rows[1]}]"

    @property
    def axis_length(self) -> int:
        """The stretch that M has to divide: the axis, or one convolution group's share of it along ``output``."""
        length = self.shape[group_dim(self.axis)]
        return length // self.convolution_groups if self.axis == "output" else length

    def part_of(self, weight: Tensor) -> Tensor:
        """The rows of the full ``weight`` that are this tensor."""
        return weight if self.rows is None else weight[self.rows[0] : self.rows[1]]

    def fit(self, pattern: NMPattern, exact: bool = False) -> NMPattern:
        """The pattern of a phase as this tensor can carry it (method, section 2).

        A phase ``kN:kM`` (or ``N:kM``) whose group is too wide for the axis falls back to the largest power-of-two
        fraction of k that divides it, unless it is to be ``exact``; the target itself always divides it.

        Raises:
            ValueError: naming tensor, phase and axis, where the axis cannot carry the phase.
        """
        target, phase = self.pattern, pattern
        while not exact and self.axis_length % pattern.m and pattern.m % 2 == 0 and pattern.m // 2 >= target.m:
            same_density = pattern.n * target.m == target.n * pattern.m
            pattern = NMPattern(pattern.n // 2 if same_density else pattern.n, pattern.m // 2)
        if self.axis_length % pattern.m:
            raise ValueError(
                f"{self.label}: M = {phase.m} of the phase {phase} does not divide its {self.axis} axis"
                f" of length {self.axis_length}"
            )
        return pattern


def stock_name(name: str) -> str:
    """The name that a parameter has in the stock model, from its name while parametrizations are in place."""
    if name.endswith(".original") and "parametrizations." in name:
        return name.removesuffix(".original").replace("parametrizations.", "")
    return name


def stock_names(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter by the name(s) it has in the stock model, also while parametrizations are in place."""
    return {stock_name(name): parameter for name, parameter in model.named_parameters(remove_duplicate=False)}


def resolve_rules(model: nn.Module, rules: Sequence[SparsityRule]) -> list[SparseTensor]:
    """The sparse tensors that rules ask for; works on the meta device, changes nothing.

    A weight that several modules share counts once, under its first name.

    Raises:
        NoTensorLeft: a ValueError, where M divides no axis at all.
        ValueError: where a rule matches no weight (the message lists what exists), where two rules ask for the same
            entries, where M does not divide an axis, or for the weight of a transposed convolution or of transformers'
            ``Conv1D`` (GPT-2), which is ``[in, out, ...]``; all such tensors are listed together.
    """
    weights = {name: p for name, p in stock_names(model).items() if p.dim() >= 2}
    first_names: dict[int, str] = {}
    for name, weight in weights.items():
        first_names.setdefault(id(weight), name)
    tensors: list[SparseTensor] = []
    faults: list[str] = []
    for rule in rules:
        names = dict.fromkeys(first_names[id(p)] for name, p in weights.items() if fnmatchcase(name, rule.name))
        if not names:
            faults.append(f"no weight matches {rule.name!r}. Available: {sorted(weights)}")
        for name in names:
            full = tuple(weights[name].shape)
            first, last = rule.rows or (0, full[0])
            if not 0 <= first < last <= full[0]:
                faults.append(f"{name}: rows {rule.rows} are outside its {full[0]} rows")
                continue
            owner = model.get_submodule(name.rpartition(".")[0])
            if (kind := _input_first(owner)) is not None:
                faults.append(f"{name}: {kind}, whose weights are [in, out, ...], cannot be sparse")
                continue
            groups = owner.groups if isinstance(owner, nn.modules.conv._ConvNd) else 1
            shape = (last - first, *full[1:])
            tensor = SparseTensor(name, rule.role, shape, rule.axis, rule.pattern, rule.rows, groups)
            if tensor.axis_length % rule.pattern.m == 0:
                tensors.append(tensor)
                continue
            fault = (
                f"{tensor.label}: M = {rule.pattern.m} does not divide its {rule.axis} axis"
                f" of length {tensor.axis_length}"
            )
            if rule.indivisible == "skip":
                warnings.warn(f"{fault}; it stays dense", stacklevel=2)
            else:
                faults.append(fault)
    for i, tensor in enumerate(tensors):
        faults += [f"{tensor.label} is asked for twice" for other in tensors[:i] if _overlap(tensor, other)]
    if faults:
        raise ValueError("\n".join(faults))
    if rules and not tensors:
        raise NoTensorLeft(f"no tensor is left sparse: M divides no axis that was asked for ({len(rules)} rules)")
    return tensors


def _input_first(owner: nn.Module) -> str | None:
    """What a module is, in the plural, if its weight is ``[in, out, ...]``."""
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return "transposed convolutions"
    # By name: transformers need not be there. While parametrized a module is of a subclass.
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(owner).__mro__]
    return "transformers' Conv1D layers" if ("transformers", "Conv1D") in kinds else None


def _overlap(a: SparseTensor, b: SparseTensor) -> bool:
    if a.name != b.name:
        return False
    return a.rows is None or b.rows is None or (a.rows[0] < b.rows[1] and b.rows[0] < a.rows[1])
