"""The nine tasks of GLUE (Wang et al., 2019), and the words that T5 puts them in (Raffel et al., 2020, appendix D)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

_SINGLE = {"": "validation"}


@dataclass(frozen=True)
class Task:
    """One task. Sizes are those of the hub's copy.

    Args:
        columns: of the texts, in the order in which T5's input has them.
        labels: the target words, by class.
        splits: the split of each validation set.
        metrics: what :func:`score` computes; where there are two, "score" is their mean.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    train_size: int
    val_size: int
    metrics: tuple[str, ...] = ("accuracy",)
    splits: dict[str, str] = field(default_factory=lambda: dict(_SINGLE))

    @property
    def test_splits(self) -> dict[str, str]:
        """The split of each test set."""
        return {name: split.replace("validation", "test") for name, split in self.splits.items()}

    @property
    def pair(self) -> tuple[str, ...]:
        """``columns`` in the order in which classifiers are given them: a premise before its hypothesis."""
        return self.columns[::-1] if "premise" in self.columns else self.columns

    @property
    def headline(self) -> str:
        """The metric that tables show."""
        return self.metrics[0] if len(self.metrics) == 1 else "score"


_SENTENCES = ("sentence1", "sentence2")
_MNLI_SPLITS = {"matched": "validation_matched", "mismatched": "validation_mismatched"}
_HIGHEST = 5  # of the similarities of STS-B, which begin at 0
_NO_LABEL = -1  # what T5's evaluation takes for an answer that is none

TASKS = {
    "cola": Task(("sentence",), ("unacceptable", "acceptable"), 8551, 1043, ("matthews",)),
    "sst2": Task(("sentence",), ("negative", "positive"), 67349, 872),
    "mrpc": Task(_SENTENCES, ("not_equivalent", "equivalent"), 3668, 408, ("accuracy", "f1")),
    "qqp": Task(("question1", "question2"), ("not_duplicate", "duplicate"), 363846, 40430, ("accuracy", "f1")),
    "stsb": Task(
        _SENTENCES, tuple(f"{fifth / 5:.1f}" for fifth in range(5 * _HIGHEST + 1)), 5749, 1500, ("pearson", "spearman")
    ),
    "mnli": Task(
        ("hypothesis", "premise"),
        ("entailment", "neutral", "contradiction"),
        392702,
        9815 + 9832,
        splits=_MNLI_SPLITS,
    ),
    "qnli": Task(("question", "sentence"), ("entailment", "not_entailment"), 104743, 5463),
    "rte": Task(_SENTENCES, ("entailment", "not_entailment"), 2490, 277),
    "wnli": Task(_SENTENCES, ("not_entailment", "entailment"), 635, 71),
}


def written(name: str, texts: Sequence[str]) -> str:
    """The input: "mrpc sentence1: ... sentence2: ..."."""
    parts = [f"{column}: {text}" for column, text in zip(TASKS[name].columns, texts, strict=True)]
    return " ".join([name, *parts])


def to_class(name: str, label: object) -> int | None:
    """The index of the label word, from the data set's own label; None if it is none.

    Labels are class numbers. Those of stsb are similarities from 0 to 5, rounded to the nearest fifth, ties to the
    even one. T5's own preprocessing multiplies them as float32, and so do we, whatever format they come in.
    """
    if isinstance(label, bool) or not isinstance(label, int | float) or not 0 <= label <= _HIGHEST + 1:
        return None
    number = round(float32(float32(label) * 5)) if name == "stsb" else label
    return int(number) if number == int(number) and number < len(TASKS[name].labels) else None


def is_label(name: str, prediction: str) -> bool:
    """Whether a prediction is one of the label words; for stsb, any number."""
    if name == "stsb":
        return _similarity(prediction) is not None
    return prediction.strip() in TASKS[name].labels


def score(name: str, truth: Sequence[float], predictions: Sequence[str]) -> dict[str, float]:
    """The task's metrics, each at most 1, and for two their mean as "score".

    A prediction that is not one of the label words counts as T5's evaluation has it: as a class of its own, but for F1
    as the other class than the example's. One of stsb is any number; what is no number counts as -1.

    Args:
        truth: the data set's labels: class numbers, or the similarities of stsb before rounding.
    """
    task = TASKS[name]
    if name == "stsb":
        given = [_similarity(prediction) for prediction in predictions]
        values = _correlations(
            [float32(label) for label in truth], [_NO_LABEL if value is None else value for value in given]
        )
    else:
        classes = {label: index for index, label in enumerate(task.labels)}
        chosen = [classes.get(prediction.strip(), _NO_LABEL) for prediction in predictions]
        wanted = [int(label) for label in truth]
        values = {metric: _agreement(metric, wanted, chosen) for metric in task.metrics}
    if len(values) > 1:
        values["score"] = sum(values.values()) / len(values)
    return values


def _agreement(metric: str, wanted: list[int], given: list[int]) -> float:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if metric == "accuracy":
        return float(accuracy_score(wanted, given))
    if metric == "f1":  # of class 1: equivalent, duplicate
        two = [1 - label if value == _NO_LABEL else value for value, label in zip(given, wanted, strict=True)]
        return float(f1_score(wanted, two, zero_division=0.0))
    return float(matthews_corrcoef(wanted, given))


def _correlations(wanted: Sequence[float], given: Sequence[float]) -> dict[str, float]:
    """0 where one side is constant, for which no correlation is defined."""
    from scipy.stats import pearsonr, spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant sides
        values = {
            "pearson": float(pearsonr(wanted, given).statistic),
            "spearman": float(spearmanr(wanted, given).statistic),
        }
    return {metric: 0.0 if math.isnan(value) else value for metric, value in values.items()}


def _similarity(prediction: str) -> float | None:
    """The number that a text is; None where it is none, or no finite one."""
    try:
        value = float(prediction)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def float32(value: float) -> float:
    """The nearest number of single precision."""
    import numpy as np

    return float(np.float32(value))
