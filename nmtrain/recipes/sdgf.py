"""SDGF: structure decay gradient flow. The pattern itself tightens in phases until it is the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nmtrain.recipes.base import Recipe, contenders_fault
from nmtrain.recipes.decay import DECAY_OPTIONS, decay_factor, decay_faults
from nmtrain.sparsity.pattern import NMPattern
from nmtrain.sparsity.state import Flow, Projection, SparsityState

STRUCTURES = ("stepwise", "geometric", "densify", "custom")


@dataclass(frozen=True, kw_only=True)
class SDGF(Recipe):
    """Phases of equal length, each strictly N:M (or with a decaying mask inside, if ``decay`` is set).

    Attributes:
        structure: ``stepwise`` M-1:M, M/2:M, M/4:M, ..., N:M; ``geometric`` kN:kM, ..., 2N:2M, N:M; ``densify``
            N:8M, N:4M, N:2M, N:M (published code only); ``custom`` the list in ``patterns``.
        k: first multiple of ``geometric``, a power of two (16 in the paper, 8 in its code).
        patterns: of ``custom``; the last one must be the target, none may occur twice, and M must divide every axis.
        decay: None for strict phases, or MDGF's ``exponential`` or ``linear`` inside each phase.
        beta, decay_power, decay_end: as in MDGF, of one phase.
        contenders: as in MDGF.
    """

    name = "sdgf"
    one_way = True
    options: ClassVar[tuple[str, ...]] = (
        "structure",
        "k",
        "patterns",
        *DECAY_OPTIONS,
        "gradient",
        "contenders",
        "dense_fraction",
        "finetune_fraction",
        "freeze_mask",
    )
    structure: str = "stepwise"
    k: int | None = None
    patterns: Sequence[str] | None = None
    decay: str | None = None
    beta: float | None = None
    decay_power: float = 1.0
    decay_end: float = 0.0
    contenders: float | None = None

    def faults(self) -> dict[str, str]:
        faults = super().faults()
        if self.structure not in STRUCTURES:
            faults["structure"] = f"{self.structure!r} is unknown. Available: {list(STRUCTURES)}"
        if self.k is not None:
            if self.structure != "geometric":
                faults["k"] = f"{self.k!r} has no effect with structure {self.structure}; only geometric reads it"
            elif type(self.k) is not int or self.k < 2 or self.k & (self.k - 1):
                faults["k"] = f"{self.k!r} is not a power of two of at least 2"
        if fault := self._custom_fault():
            faults["patterns"] = fault
        if self.decay is not None:
            faults |= decay_faults(self)
        for option, unset in (("beta", None), ("decay_power", 1.0), ("decay_end", 0.0)):
            value = getattr(self, option)
            if self.decay is None and value != unset:
                faults[option] = f"{value!r} has no effect without decay"
        return faults | contenders_fault(self)

    def _custom_fault(self) -> str | None:
        if self.structure != "custom":
            unused = f"{self.patterns!r} has no effect with structure {self.structure}; only custom reads it"
            return None if self.patterns is None else unused
        if not self.patterns or isinstance(self.patterns, str) or not isinstance(self.patterns, Sequence):
            return f'{self.patterns!r}: custom needs the list of patterns, for example ["4:8", "{self.target}"]'
        try:
            patterns = [NMPattern.parse(pattern) for pattern in self.patterns]
        except (TypeError, ValueError) as fault:
            return str(fault)
        if patterns[-1] != self.target:
            return f"the last of {list(map(str, patterns))} is not the target {self.target}"
        if len(set(patterns)) < len(patterns):
            return f"{list(map(str, patterns))}: a pattern occurs twice"
        return None

    @property
    def variant(self) -> str:
        return f"sdgf_{self.structure}" + (f"_{self.decay}" if self.decay else "")

    def structure_phases(self) -> list[NMPattern]:
        """The patterns from the widest to the target."""
        n, m = self.target.n, self.target.m
        if self.structure == "stepwise":
            kept = [m - 1]
            while (m >> len(kept)) > n:
                kept.append(m >> len(kept))
            return [*(NMPattern(count, m) for count in kept if count > n), self.target]
        if self.structure == "geometric":
            k = 16 if self.k is None else self.k
            return [NMPattern(n * i, m * i) for i in _halvings(k)]
        if self.structure == "densify":
            return [NMPattern(n, m * i) for i in _halvings(8)]
        return [NMPattern.parse(pattern) for pattern in self.patterns or ()]

    def between(self, done: int, length: int) -> SparsityState:
        patterns = self.structure_phases()
        count = len(patterns)
        starts = [i * length // count for i in range(count + 1)]
        phase = max(i for i in range(count) if starts[i] <= done)
        factor = 0.0
        if self.decay is not None:
            factor = decay_factor(self, done - starts[phase], starts[phase + 1] - starts[phase])
        # A pattern that the user wrote down is that pattern or an error; the multiples of the others adapt to an axis.
        exact = self.structure == "custom" and patterns[phase] != self.target
        flow = Flow(self.gradient, self.contenders)
        return SparsityState(patterns[phase], projection=Projection(factor), flow=flow, exact=exact)

    def finetuned(self) -> SparsityState:
        return SparsityState(self.target, flow=Flow(self.gradient, self.contenders))


def _halvings(k: int) -> list[int]:
    """k, k/2, ..., 2, 1 for a power of two."""
    return [k >> i for i in range(k.bit_length())]
