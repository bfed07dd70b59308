"""Pairs of an input and a target text as tokens, and the batches made from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from nmtrain.data.cache import checksum
from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import TextShape
from nmtrain.data.text.encoded import encode, in_memory
from nmtrain.data.text.ragged import Packed
from nmtrain.data.text.tokens import Tokenizer
from nmtrain.errors import DataError

_log = logging.getLogger(__name__)

Scorer = Callable[[Sequence[str]], dict[str, float]]

IGNORED = -100  # the label at padding: what cross entropy leaves out by default
_INPUT_MULTIPLE = 8  # few distinct widths, so that kernels and compiled graphs are used again
_TARGET_MULTIPLE = 4
_RUN = 64  # batches among which examples are sorted by length: enough for little padding, few enough to stay random


@dataclass(frozen=True)
class TextBatch:
    """B examples. L_in and L_out differ from batch to batch."""

    input_ids: Tensor  # int64 [B, L_in]
    attention_mask: Tensor  # int64 [B, L_in]: 1 at tokens, 0 at padding
    labels: Tensor  # int64 [B, L_out], -100 at padding
    classes: Tensor | None  # int64 [B], index into the shape's labels; of a regression float32 [B]; None for free text
    token_types: Tensor | None = None  # int64 [B, L_in], 0 at padding; None where the tokenizer gives none

    def to(self, device: torch.device | str) -> TextBatch:
        """The same batch on ``device``; a GPU copies it when its work so far is done, and nobody waits for that."""
        if torch.device(device).type == "cuda":
            return self._each(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
        return self._each(lambda tensor: tensor.to(device))

    def part(self, first: int, end: int) -> TextBatch:
        """The examples ``[first, end)``, as wide as the whole batch."""
        return self._each(lambda tensor: tensor[first:end])

    def at(self, places: Tensor) -> TextBatch:
        """The examples at ``places`` (int64), as wide as the whole batch."""
        return self._each(lambda tensor: tensor[places])

    def _each(self, change: Callable[[Tensor], Tensor]) -> TextBatch:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if t is None else change(t) for name, t in tensors.items()}
        return TextBatch(**changed)


class Examples(Protocol):
    """Examples that are numbered from 0 and of known lengths."""

    @property
    def lengths(self) -> Tensor:
        """int64 ``[n, 2]``: tokens of input and target, the end token included."""

    def batch(self, chosen: Tensor, draw: int) -> TextBatch:
        """The examples ``chosen`` (int64 ``[B]``); what is random about them depends on ``draw`` alone."""

    def tensors(self) -> Mapping[str, Tensor | Packed]:
        """All that batches are made from."""


class Pairs:
    """Inputs and targets that never change.

    Args:
        inputs, targets: with their end tokens.
        pad: the id behind the end of an input.
        classes: int64 ``[n]``, of a regression float32 ``[n]``, or None for free text.
        types: of the tokens of ``inputs``, or None.
    """

    def __init__(
        self, inputs: Packed, targets: Packed, pad: int, classes: Tensor | None = None, types: Packed | None = None
    ) -> None:
        self.inputs = inputs
        self.targets = targets
        self.pad = pad
        self.classes = classes
        self.types = types
        self.lengths = torch.stack([inputs.lengths, targets.lengths], dim=1)

    def batch(self, chosen: Tensor, draw: int = 0) -> TextBatch:
        """See :meth:`Examples.batch`."""
        input_ids = self.inputs.padded(chosen, self.pad, _INPUT_MULTIPLE)
        labels = self.targets.padded(chosen, IGNORED, _TARGET_MULTIPLE)
        classes = None if self.classes is None else self.classes[chosen]
        types = None if self.types is None else self.types.padded(chosen, 0, _INPUT_MULTIPLE)
        return TextBatch(input_ids, mask_of(self.lengths[chosen, 0], input_ids), labels, classes, types)

    def tensors(self) -> Mapping[str, Tensor | Packed]:
        """See :meth:`Examples.tensors`."""
        own: dict[str, Tensor | Packed] = {"inputs": self.inputs, "targets": self.targets, "lengths": self.lengths}
        own |= {} if self.classes is None else {"classes": self.classes}
        return own if self.types is None else own | {"types": self.types}


class ValSet:
    """One validation set.

    Args:
        references: the target texts.
        scorer: the data set's own metrics, from one prediction for each reference; None where there are none.
        is_label: whether a prediction is one that a reference could be; None for free text.
    """

    def __init__(
        self,
        examples: Pairs,
        references: list[str],
        scorer: Scorer | None,
        is_label: Callable[[str], bool] | None = None,
    ) -> None:
        self.references = references
        self.is_label = is_label
        self.lengths = examples.lengths
        self.order = _by_length(examples.lengths)
        self.examples = examples
        self._scorer = scorer

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self, batch_size: int, first: int = 0, step: int = 1) -> Iterator[TextBatch]:
        """All examples once, as :attr:`order` (int64 ``[n]``) has them: short ones first; the last may be smaller. Of
        these batches the first, and from there on each ``step``-th."""
        for chosen in self.order.split(batch_size)[first::step]:
            yield self.examples.batch(chosen)

    def score(self, predictions: Sequence[str]) -> dict[str, float]:
        """The data set's own metrics; ``predictions`` in the order of :attr:`references`."""
        if self._scorer is None:
            return {}
        if len(predictions) != len(self.references):
            raise ValueError(f"{len(predictions)} predictions for {len(self.references)} references")
        return self._scorer(predictions)


class TextData:
    """Train and validation pairs of one data set, on the CPU.

    Args:
        val_sets: by name; a single one is named "".
        seed: the run's seed. A training batch is a function of ``(seed, update, batch_size)`` and of nothing else.
        cut: how many examples, of all sets, were longer than the shape allows.
        signatures: of metrics that have settings of their own, such as sacreBLEU's, by metric.

    Raises:
        DataError: where the numbers of examples are not those of ``shape``, by which the run was planned.
    """

    def __init__(
        self,
        *,
        name: str,
        shape: TextShape,
        headline: str,
        tokenizer: Tokenizer,
        train: Examples,
        val_sets: dict[str, ValSet],
        seed: int,
        cut: int,
        signatures: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.shape = shape
        self.headline = headline
        self.tokenizer = tokenizer
        self.train = train
        self.val_sets = val_sets
        self.seed = seed
        self.cut = cut
        self.signatures = dict(signatures or {})
        counted = (len(train.lengths), sum(len(val) for val in val_sets.values()))
        if counted != (shape.train_size, shape.val_size):
            wanted = f"{shape.train_size} and {shape.val_size}"
            raise DataError(
                f"data={name}: read {counted[0]} training and {counted[1]} validation examples, not {wanted}"
            )
        self._order: tuple[int, int, Tensor, Tensor] | None = None  # epoch, batch size, and their `_epoch_order`
        if cut:
            total = shape.train_size + shape.val_size
            free = not shape.labels and not shape.is_regression  # otherwise targets are words of ours, or numbers
            longest = f"{shape.input_length} (input)" + (f" or {shape.target_length} (target)" if free else "")
            _log.warning("%s: %d of %d examples were longer than %s tokens and are cut", name, cut, total, longest)

    def updates_per_epoch(self, batch_size: int) -> int:
        """Full batches in one pass over the training examples; the remainder of each epoch is left out.

        Raises:
            ValueError: if not one batch can be filled.
        """
        if not 1 <= batch_size <= self.shape.train_size:
            raise ValueError(f"batch size {batch_size}: {self.name} allows 1 to {self.shape.train_size} (train_size)")
        return self.shape.train_size // batch_size

    def digest(self) -> str:
        """Of all examples, as tokens."""
        sets = {"train": self.train, **{f"val {name}": val.examples for name, val in self.val_sets.items()}}
        return checksum({f"{s} {name}": tensor for s, part in sets.items() for name, tensor in part.tensors().items()})

    def train_batch(self, update: int, batch_size: int) -> TextBatch:
        """The batch of one update. Pure: neither earlier calls nor the global random state change it."""
        return self.train.batch(self._chosen(update, batch_size), mix_seed("draw", self.seed, update))

    def train_lengths(self, update: int, batch_size: int) -> Tensor:
        """int64 ``[batch_size, 2]``: tokens of input and target of each example of :meth:`train_batch`."""
        return self.train.lengths[self._chosen(update, batch_size)]

    def _chosen(self, update: int, batch_size: int) -> Tensor:
        epoch, position = divmod(update, self.updates_per_epoch(batch_size))
        if self._order is None or self._order[:2] != (epoch, batch_size):
            self._order = None  # there may be much of it: the new one takes its place in memory
            self._order = (epoch, batch_size, *self._epoch_order(epoch, batch_size))
        *_, batches, turns = self._order
        return batches[turns[position]]

    def _epoch_order(self, epoch: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Batches of about equal length, int64 ``[batches, batch_size]``, and a random order of them, ``[batches]``."""
        generator = torch.Generator().manual_seed(mix_seed("order", self.seed, epoch))
        used = self.updates_per_epoch(batch_size) * batch_size
        shuffled = torch.randperm(self.shape.train_size, generator=generator)[:used]
        for run in shuffled.split(_RUN * batch_size):
            run.copy_(run[_by_length(self.train.lengths[run])])  # in place: there may be many millions
        batches = shuffled.view(-1, batch_size)
        return batches, torch.randperm(len(batches), generator=generator)


def widths(lengths: Tensor) -> tuple[int, ...]:
    """How wide a batch of examples with these lengths (int64 ``[B, 1 or 2]``) is made: of input, and of target."""
    longest = lengths.max(0).values.tolist()
    multiples = (_INPUT_MULTIPLE, _TARGET_MULTIPLE)[: len(longest)]
    return tuple(-(-length // multiple) * multiple for length, multiple in zip(longest, multiples, strict=True))


def encode_pairs(
    inputs: Iterable[str],
    targets: Iterable[str],
    tokenizer: Tokenizer,
    shape: TextShape,
    classes: Tensor | None = None,
) -> tuple[Pairs, int]:
    """Pairs of texts as tokens, in memory, no longer than ``shape`` says; and how many pairs were cut for that."""
    longest = {"inputs": shape.input_length, "targets": shape.target_length}
    columns, cut = in_memory(encode(zip(inputs, targets, strict=True), tokenizer, longest))
    return Pairs(columns["inputs"], columns["targets"], tokenizer.pad, classes), cut


def exact_match(references: Sequence[str]) -> Scorer:
    """The share of predictions that are the reference itself, but for spaces around them, as ``accuracy``."""

    def score(predictions: Sequence[str]) -> dict[str, float]:
        right = sum(given.strip() == wanted for given, wanted in zip(predictions, references, strict=True))
        return {"accuracy": right / len(references)}

    return score


def mask_of(lengths: Tensor, padded: Tensor) -> Tensor:
    """int64, 1 at the first ``lengths[i]`` places of each row of ``padded``."""
    return (torch.arange(padded.shape[1]) < lengths[:, None]).long()


def _by_length(lengths: Tensor) -> Tensor:
    """The stable order by length of the input, then of the target."""
    key = lengths[:, 0] * (int(lengths[:, 1].max()) + 1) + lengths[:, 1]
    return key.argsort(stable=True)
