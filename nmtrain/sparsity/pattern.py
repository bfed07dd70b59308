"""The N:M pattern: which fraction of every group of consecutive weights is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WRITTEN = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")


@dataclass(frozen=True, order=True)
class NMPattern:
    """Keep ``n`` of every ``m`` consecutive entries. ``str()`` gives ``"n:m"``.

    Raises:
        TypeError: if ``n`` or ``m`` is not an int (bools are refused too).
        ValueError: unless ``1 <= n <= m``.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for value in (self.n, self.m):
            if type(value) is not int:
                raise TypeError(f"a pattern N:M takes two ints, got {value!r}")
        if self.n < 1 or self.m < 1:
            raise ValueError(f"{self.n}:{self.m}: N and M must be at least 1")
        if self.n > self.m:
            raise ValueError(f"{self.n}:{self.m}: N = {self.n} exceeds M = {self.m}; N:M keeps N of every M weights")

    @classmethod
    def parse(cls, written: str | NMPattern) -> NMPattern:
        """Read ``"1:32"``. Ints are refused: YAML turns an unquoted ``2:4`` into 124.

        Raises:
            TypeError: if ``written`` is not a string.
            ValueError: if it is not of the form ``N:M`` with ``1 <= N <= M``.
        """
        if isinstance(written, NMPattern):
            return written
        if isinstance(written, int) and (meant := _unquoted(written)):
            raise TypeError(f'{written} is what YAML reads from an unquoted {meant}; write "{meant}"')
        if not isinstance(written, str):
            raise TypeError(f'{written!r} is not a pattern; write it as a string "N:M", for example "1:32"')
        match = _WRITTEN.fullmatch(written)
        if match is None:
            hint = ""
            if written.isdecimal() and (meant := _unquoted(int(written))):  # a `str` field turned 124 into "124"
                hint = f"; is it an unquoted {meant} in YAML? Quote it"
            raise ValueError(f'{written!r} is not of the form "N:M" with whole numbers, for example "1:32"{hint}')
        return cls(int(match[1]), int(match[2]))

    @property
    def density(self) -> float:
        """N/M, the fraction of weights kept."""
        return self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


def _unquoted(number: int) -> str | None:
    """The pattern that YAML 1.1 reads as this base-60 number, if there is one: 124 is 2:4."""
    n, m = divmod(number, 60)
    return f"{n}:{m}" if 1 <= n <= m else None
