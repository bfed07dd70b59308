"""The headline metric, by which runs are compared: its name in print, its unit, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nmtrain.runs.metrics import LOWER_IS_BETTER, gain

DEFAULT = "accuracy"  # of runs whose summary names no headline


@dataclass(frozen=True)
class Headline:
    """Facts about one metric.

    Attributes:
        name: as records have it (``val/<name>`` or ``test/<name>`` in summary.json).
        label: as text and axes have it.
        percent: whether records hold a share of 1 that is printed in %.
        digits: after the point, in print.
        split: in words, what the values are on; empty where that does not matter.
    """

    name: str
    label: str
    percent: bool = False
    digits: int = 2
    split: str = ""

    @property
    def title(self) -> str:
        return self.label[0].upper() + self.label[1:]

    @property
    def unit(self) -> str:
        """What follows a printed value: `` %`` or nothing."""
        return " %" if self.percent else ""

    @property
    def axis(self) -> str:
        """The label with its split and its unit, for axes and the heads of columns."""
        label = f"{self.split} {self.label}".strip()
        return f"{label} / %" if self.percent else label

    @property
    def scale(self) -> float:
        """Printed value over recorded value."""
        return 100.0 if self.percent else 1.0

    @property
    def lower_is_better(self) -> bool:
        """Whether the best value is the lowest."""
        return self.name in LOWER_IS_BETTER

    def gain(self, value: float) -> float:
        """``value`` on a scale where more is better."""
        return gain(self.name, value)

    def text(self, value: float) -> str:
        """0.7123 as ``71.23`` for a metric in %; a dash where there is no number."""
        return f"{self.scale * value:.{self.digits}f}" if math.isfinite(value) else "–"

    def signed(self, value: float) -> str:
        """A difference, with its sign: ``+1.23``."""
        return f"{self.scale * value:+.{self.digits}f}" if math.isfinite(value) else "–"


_KNOWN = (
    Headline("accuracy", "accuracy", percent=True),
    Headline("top5", "top-5 accuracy", percent=True),
    Headline("word_accuracy", "word accuracy", percent=True),
    Headline("phoneme_error_rate", "phoneme error rate", percent=True),
    Headline("score", "score", percent=True),
    Headline("f1", "F1", percent=True),
    Headline("matthews", "Matthews correlation", percent=True),
    Headline("pearson", "Pearson correlation", percent=True),
    Headline("spearman", "Spearman correlation", percent=True),
    Headline("bleu", "BLEU"),
    Headline("perplexity", "perplexity"),
    Headline("loss", "loss", digits=4),
)
_BY_NAME = {headline.name: headline for headline in _KNOWN}


def is_known(name: str) -> bool:
    """Whether it is known which way is better."""
    return name in _BY_NAME


def headline_of(name: str, split: str = "") -> Headline:
    """The facts about a metric; one that is not known is a plain number whose best value is the highest."""
    return replace(_BY_NAME.get(name) or Headline(name, name, digits=4), split=split)
