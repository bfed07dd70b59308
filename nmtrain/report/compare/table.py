"""A table before it is text, Markdown, HTML or LaTeX: the one model that all renderers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# What a mark behind a number means; a table explains the marks that it holds.
MARKS = {
    "≈": "no difference to the best (bold) shown by the test that the notes name",
    "?": "this or the best (bold) has one seed only, which allows no test: nothing is shown either way",
    "!": "a seed diverged, failed or ended in a NaN: it is not in the mean, and the cell is not ranked",
    "↓": "finished for less than 95 % of the budget: what it spent stands beside it",
    "†": "interpolated inside longer runs, whose learning rate had not come down yet",
    "‡": "interpolated, and the model was not yet at its pattern at that point: not comparable, not ranked",
    "◊": "the runs were trained by different code, versions of libraries or variables (see the notices)",
    "△": "the runs were trained on different devices (see the notices and the list of runs)",
    "¶": "trained by code that added the penalty of SR-STE once per micro-batch, not once per update: too much of it",
    "⊣": "the best number lies at the edge of its grid: a better one may lie beyond",
    "§": "a seed was run more than once; its runs are averaged and count once",
}
TRAINING_FLOPS = "Training FLOPs: FLOPs that hardware skipping every pruned weight would execute (1 MAC = 2 FLOPs)."


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        text: the number with its unit or interval, or ``–``.
        detail: a second, smaller line.
        value: what the column sorts by; None where there is nothing.
        best: set in bold.
        marks: signs of `MARKS`.
        anchor: where the page lists the runs behind the number.
    """

    text: str
    detail: str = ""
    value: float | str | None = None
    best: bool = False
    marks: str = ""
    anchor: str | None = None


NOTHING = Cell("–")


@dataclass(frozen=True)
class Table:
    """``head`` names the columns; the first ``stub`` columns name the row."""

    slug: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    stub: int = 1
    notes: Sequence[str] = field(default_factory=tuple)

    def is_text(self, column: int) -> bool:
        """Whether a column is set left: it names the row, or holds words."""
        return column < self.stub or any(isinstance(row[column].value, str) for row in self.rows)

    @property
    def legend(self) -> list[str]:
        """The notes, and the meaning of each mark that the table holds."""
        used = {mark for row in self.rows for cell in row for mark in cell.marks}
        return [*self.notes, *(f"{mark} {meaning}." for mark, meaning in MARKS.items() if mark in used)]


def plain_text(table: Table, notes: bool = True) -> str:
    """The table for a terminal: aligned columns, details on a second line, ``*`` before the best."""
    head = [list(table.head)]
    body = [line for row in table.rows for line in _plain_lines(row)]
    widths = [max(len(line[i]) for line in head + body) for i in range(len(table.head))]

    def aligned(line: Sequence[str]) -> str:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    legend = [note.replace("(bold)", "(*)") for note in table.legend] if notes else []
    return "\n".join([table.title, "", *map(aligned, head), rule, *map(aligned, body), *legend])


def _plain_lines(row: Sequence[Cell]) -> list[list[str]]:
    first = [f"{'*' if cell.best else ''}{cell.text}{' ' + cell.marks if cell.marks else ''}" for cell in row]
    second = [cell.detail for cell in row]
    return [first, second] if any(second) else [first]


def percent(value: float, digits: int = 2) -> str:
    """0.7123 as ``71.23``; a dash where there is no number."""
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else "–"


def quantity(value: float, unit: str) -> str:
    """1.2e12 and "FLOPs" as ``1.2 TFLOPs``: three digits and an SI prefix."""
    if not math.isfinite(value):
        return "–"
    factor, prefix = si_prefix(value)
    return f"{_three_digits(value / factor)} {prefix}{unit}"


def si_prefix(value: float) -> tuple[float, str]:
    """The factor and letter of the largest SI prefix from kilo to exa that leaves at least 1."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return factor, prefix
    return 1.0, ""


def _three_digits(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def rate(value: float, unit: str) -> str:
    """1234.5 and "tokens" as ``1234 tokens/s``."""
    return f"{_three_digits(value)} {unit}/s" if math.isfinite(value) else "–"


def seconds(value: float) -> str:
    """A measured time in milliseconds, seconds, minutes or hours."""
    if not math.isfinite(value):
        return "–"
    if value < 1:
        return f"{_three_digits(1000 * value)} ms"
    if value < 120:
        return f"{_three_digits(value)} s"
    return f"{_three_digits(value / 60)} min" if value < 7200 else f"{_three_digits(value / 3600)} h"
