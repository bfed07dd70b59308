"""``data=glue``: the nine tasks of GLUE, from a local folder or from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nmtrain.data.hub import load_from_hub
from nmtrain.data.shapes import TextShape
from nmtrain.data.source import TextSource, choice_faults, path_faults, whole_number_faults
from nmtrain.data.splits import Table, examples, find_split, fingerprint, text_of
from nmtrain.data.text.glue_tasks import TASKS, is_label, score, to_class, written
from nmtrain.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from nmtrain.data.text.arrow import Table as Tokens
    from nmtrain.data.text.batches import Pairs, TextData
    from nmtrain.data.text.tokens import Tokenizer

_REPOSITORY = "nyu-mll/glue"
_HIDDEN = (
    "the published test sets of GLUE hide their labels; give data.path=FOLDER whose test files have them, or "
    "data.evaluate=val"
)
_SPECIAL_TOKENS = 2  # at most a start and an end token around a label word


@dataclass(frozen=True)
class Glue(TextSource):
    """One task of GLUE.

    ``path`` is the task's folder, or one that has it as a sub-folder; :func:`nmtrain.data.splits.find_split` says what
    files it may hold. Null is the hub's copy, whose test sets have no labels: to evaluate on test needs a folder where
    they have.

    Text to text, an example is one string in T5's words, and its label is a word. A classifier is given one text or a
    pair as its tokenizer puts them, and learns the similarities of stsb as a regression; with ``form="t5"`` it is given
    T5's string and words, too.
    """

    task: str = "sst2"
    path: str | None = None
    input_length: int = 128
    form: str = "auto"
    cache_dir: str | None = None

    splits = ("val", "test")

    @property
    def headline(self) -> str:
        return TASKS[self.task].headline

    def faults(self) -> list[str]:
        lines = [
            *super().faults(),
            *choice_faults("task", self.task, TASKS),
            *path_faults("path", self.path),
            *whole_number_faults("input_length", self.input_length, 8, 100_000),
            *choice_faults("form", self.form, ("auto", "t5")),
            *path_faults("cache_dir", self.cache_dir),
        ]
        return lines or self._folder_faults()

    def files(self) -> list[Path]:
        if (folder := self._folder()) is None:
            return []
        splits = ("train", *self._splits().values())
        return [file for split in splits for file in find_split(folder, split).files]

    def for_classifier(self) -> TextSource:
        return _GlueForClassifier(**asdict(self)) if self.form == "auto" else self

    def shape(self) -> TextShape:
        task = TASKS[self.task]
        train_size, val_size = task.train_size, task.val_size
        if folder := self._folder():
            train_size = find_split(folder, "train").count()
            val_size = sum(find_split(folder, split).count() for split in self._splits().values())
        return TextShape(
            train_size=train_size,
            val_size=val_size,
            input_length=self.input_length,
            target_length=max(len(label) for label in task.labels) + _SPECIAL_TOKENS,
            labels=task.labels,
        )

    def load(self, seed: int, tokenizer: Tokenizer) -> TextData:
        from nmtrain.data.text.batches import TextData, ValSet

        shape = self.shape()
        read = self._reader()
        train, _, _, cut = self._examples("train", read("train"), tokenizer)
        val_sets = {}
        for name, split in self._splits().items():
            pairs, truth, references, more = self._examples(split, read(split), tokenizer)
            scorer, known = partial(score, self.task, truth), partial(is_label, self.task)
            val_sets[name] = ValSet(pairs, references, scorer, known)
            cut += more
        return TextData(
            name=f"glue/{self.task}",
            shape=shape,
            headline=self.headline,
            tokenizer=tokenizer,
            train=train,
            val_sets=val_sets,
            seed=seed,
            cut=cut,
        )

    def _splits(self) -> dict[str, str]:
        """What the data call each set to evaluate on, by its name in metrics."""
        return TASKS[self.task].splits if self.evaluate == "val" else TASKS[self.task].test_splits

    def _folder(self) -> Path | None:
        if self.path is None:
            return None
        folder = Path(self.path).expanduser()
        return folder / self.task if (folder / self.task).is_dir() else folder

    def _folder_faults(self) -> list[str]:
        folder = self._folder()
        if folder is None:
            return (
                [f"data.evaluate: 'test' is not allowed without data.path: {_HIDDEN}"]
                if self.evaluate == "test"
                else []
            )
        if not folder.is_dir():
            return [f"data.path={self.path}: there is no such folder"]
        lines = []
        for split in ("train", *self._splits().values()):
            try:
                find_split(folder, split)
            except ValueError as error:
                lines.append(str(error))
        return lines

    def _reader(self) -> Callable[[str], Table]:
        """What reads a split by its name."""
        if folder := self._folder():
            return lambda split: find_split(folder, split).read(self.cache_dir)
        return load_from_hub(_REPOSITORY, self.task, f"data=glue data.task={self.task}", self.cache_dir).__getitem__

    def _examples(self, split: str, table: Table, tokenizer: Tokenizer) -> tuple[Pairs, list[float], list[str], int]:
        """The examples as tokens; their labels as they are in the data, and as words; how many inputs were cut."""
        from nmtrain.data.text.batches import Pairs
        from nmtrain.data.text.ragged import Packed

        what = f"glue/{self.task} ({split})"
        truth = [label for (label,) in examples(table, ("label",), what)]
        may_hide = split != "train" and self.evaluate == "test"
        classes = [self._class(label, f"{what}: example {number}", may_hide) for number, label in enumerate(truth)]
        columns, cut = self._inputs(split, table, tokenizer, what)
        words = TASKS[self.task].labels
        tokens = [[*word, tokenizer.end] for word in tokenizer.encode(words)]
        targets = Packed.of(tokens[index] for index in classes)
        answers = self._answers(truth, classes)
        pairs = Pairs(columns["inputs"], targets, tokenizer.pad, answers, columns.get("types"))
        return pairs, truth, [words[index] for index in classes], cut

    def _class(self, label: object, what: str, may_hide: bool) -> int:
        index = to_class(self.task, label)
        if index is None and may_hide and label in (None, -1):
            raise DataError(f"{what} has no label ({label!r}): {_HIDDEN}")
        if index is None:
            raise DataError(f"{what} has the label {label!r}, which is none of this task")
        return index

    def _inputs(self, split: str, table: Table, tokenizer: Tokenizer, what: str) -> Tokens:
        """Tokens, and their types where there are any."""
        from nmtrain.data.text.encoded import encoded

        columns = TASKS[self.task].columns
        return encoded(
            lambda: ((written(self.task, texts),) for texts in _texts(table, columns, what)),
            tokenizer,
            {"inputs": self.input_length},
            f"glue-{self.task}-{split}",
            {"dataset": fingerprint(table), "form": written(self.task, columns)},
            self.cache_dir,
        )

    def _answers(self, truth: list[float], classes: list[int]) -> Tensor:
        """What :attr:`nmtrain.data.text.batches.Pairs.classes` holds."""
        import torch

        return torch.tensor(classes)


@dataclass(frozen=True)
class _GlueForClassifier(Glue):
    """The task as classifiers are given it."""

    @property
    def _is_regression(self) -> bool:
        return self.task == "stsb"

    def shape(self) -> TextShape:
        shape = super().shape()
        return replace(shape, labels=(), is_regression=True) if self._is_regression else shape

    def _inputs(self, split: str, table: Table, tokenizer: Tokenizer, what: str) -> Tokens:
        from nmtrain.data.text.encoded import framed

        columns = TASKS[self.task].pair
        return framed(
            lambda: _texts(table, columns, what),
            tokenizer,
            self.input_length,
            f"glue-{self.task}-{split}-framed",
            {"dataset": fingerprint(table), "columns": columns},
            self.cache_dir,
        )

    def _answers(self, truth: list[float], classes: list[int]) -> Tensor:
        import torch

        return torch.tensor(truth, dtype=torch.float32) if self._is_regression else super()._answers(truth, classes)


def _texts(table: Table, columns: tuple[str, ...], what: str) -> Iterator[tuple[str, ...]]:
    """The texts of each example; a missing one is empty."""
    for number, values in enumerate(examples(table, columns, what)):
        yield tuple(
            text_of(value, f"{what}: example {number}, {column!r},")
            for column, value in zip(columns, values, strict=True)
        )
