"""``data=wmt``: translation, from local files or from the Hugging Face hub's copies of the WMT training data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtrain.data.hub import load_from_hub
from nmtrain.data.shapes import TextShape
from nmtrain.data.source import TextSource, choice_faults, fault, path_faults, whole_number_faults
from nmtrain.data.splits import LocalSplit, find_split
from nmtrain.data.text.parallel import ParallelColumns, ParallelFiles

if TYPE_CHECKING:
    from nmtrain.data.text.batches import Pairs, TextData
    from nmtrain.data.text.tokens import Tokenizer

# Of the hub's copies: training, validation and test pairs, by edition and subset. Either direction is the same subset.
_SIZES = {
    "wmt14": {
        "cs-en": (953621, 3000, 3003),
        "de-en": (4508785, 3000, 3003),
        "fr-en": (40836715, 3000, 3003),
        "hi-en": (32863, 520, 2507),
        "ru-en": (1486965, 3000, 3003),
    },
    "wmt16": {
        "cs-en": (997240, 2656, 2999),
        "de-en": (4548885, 2169, 2999),
        "fi-en": (2073394, 1370, 6000),
        "ro-en": (610320, 1999, 1999),
        "ru-en": (1516162, 2818, 2998),
        "tr-en": (205756, 1001, 3000),
    },
}
_DEFAULT_EDITION = "wmt14"
_LANGUAGES = {
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fi": "Finnish",
    "fr": "French",
    "gu": "Gujarati",
    "hi": "Hindi",
    "it": "Italian",
    "kk": "Kazakh",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "tr": "Turkish",
    "zh": "Chinese",
}
_SPLITS = {"val": "validation", "test": "test"}
_MOST = 10**9
_TOKENIZERS = ("13a", "intl", "char", "zh", "none")  # of sacreBLEU, those that need nothing more


@dataclass(frozen=True)
class WMT(TextSource):
    """Translation of ``pair``, as in "en-de": English to German.

    ``path`` is a folder with plain text, ``train.en`` and ``train.de``, ``validation.en`` and ``validation.de``, whose
    lines correspond; or with files as :func:`nmtrain.data.splits.find_split` says, with a column ``translation`` of
    both languages or a column for each. Null is the hub's copy of ``edition``. Where there are more pairs than
    ``train_size`` or ``val_size``, those at equal distances are taken. ``tokenize`` is sacreBLEU's.
    """

    pair: str = "en-de"
    edition: str = _DEFAULT_EDITION
    path: str | None = None
    train_size: int | None = None
    val_size: int | None = None
    input_length: int = 128
    target_length: int = 128
    tokenize: str | None = None
    cache_dir: str | None = None

    headline = "bleu"
    splits = ("val", "test")

    def faults(self) -> list[str]:
        lines = [
            *super().faults(),
            *_pair_faults(self.pair),
            *choice_faults("edition", self.edition, _SIZES),
            *path_faults("path", self.path),
            *([] if self.train_size is None else whole_number_faults("train_size", self.train_size, 1, _MOST)),
            *([] if self.val_size is None else whole_number_faults("val_size", self.val_size, 1, _MOST)),
            *whole_number_faults("input_length", self.input_length, 8, 100_000),
            *whole_number_faults("target_length", self.target_length, 8, 100_000),
            *([] if self.tokenize is None else choice_faults("tokenize", self.tokenize, _TOKENIZERS)),
            *path_faults("cache_dir", self.cache_dir),
        ]
        return lines or self._place_faults()

    def files(self) -> list[Path]:
        if (folder := self._folder()) is None:
            return []
        return [file for split in ("train", _SPLITS[self.evaluate]) for file in self._split(folder, split).files]

    def shape(self) -> TextShape:
        train_total, val_total = self._totals()
        limits = (("train_size", self.train_size, train_total), ("val_size", self.val_size, val_total))
        lines = [
            fault(option, limit, f"at most {total}, as many as there are, or null for all")
            for option, limit, total in limits
            if limit is not None and limit > total
        ]
        if lines:
            raise ValueError("\n".join(lines))
        return TextShape(
            train_size=self.train_size or train_total,
            val_size=self.val_size or val_total,
            input_length=self.input_length,
            target_length=self.target_length,
            labels=(),
        )

    def load(self, seed: int, tokenizer: Tokenizer) -> TextData:
        from nmtrain.data.text.batches import TextData, ValSet

        shape = self.shape()
        read = self._reader()
        train, train_cut = self._examples("train", read("train"), shape.train_size, tokenizer)
        val_pairs = read(_SPLITS[self.evaluate])
        val, val_cut = self._examples(self.evaluate, val_pairs, shape.val_size, tokenizer)
        references = [target for _, target in val_pairs.texts(shape.val_size)]
        return TextData(
            name=f"wmt/{self.pair}",
            shape=shape,
            headline=self.headline,
            tokenizer=tokenizer,
            train=train,
            val_sets={"": ValSet(val, references, partial(_score, self._target, references, tokenize=self.tokenize))},
            signatures={
                name: str(metric.get_signature())
                for name, metric in _metrics(self._target, references, self.tokenize).items()
            },
            seed=seed,
            cut=train_cut + val_cut,
        )

    @property
    def _source(self) -> str:
        return self.pair.split("-")[0]

    @property
    def _target(self) -> str:
        return self.pair.split("-")[1]

    def _folder(self) -> Path | None:
        if self.path is None:
            return None
        folder = Path(self.path).expanduser()
        either = (folder / self.pair, folder / f"{self._target}-{self._source}")
        return next((place for place in either if place.is_dir()), folder)

    def _split(self, folder: Path, split: str) -> ParallelFiles | LocalSplit:
        """The files of ``split``; raises ValueError where there are none."""
        files = ParallelFiles(folder / f"{split}.{self._source}", folder / f"{split}.{self._target}")
        if files.source.is_file() and files.target.is_file():
            return files
        try:
            return find_split(folder, split)
        except ValueError as error:
            raise ValueError(f"{error}; or {files.source.name} and {files.target.name}") from None

    def _subset(self) -> str | None:
        """What the hub calls the pair, or None where this edition has none."""
        names = (self.pair, f"{self._target}-{self._source}")
        return next((name for name in names if name in _SIZES[self.edition]), None)

    def _place_faults(self) -> list[str]:
        folder = self._folder()
        if folder is None:
            if self._subset() is None:
                known = ", ".join(_SIZES[self.edition])
                return [fault("pair", self.pair, f"of {self.edition}, either way: {known}; others need data.path")]
            return []
        if self.edition != _DEFAULT_EDITION:
            return [f"data.edition={self.edition}: has no effect with data.path"]
        if not folder.is_dir():
            return [f"data.path={self.path}: there is no such folder"]
        lines = []
        for split in ("train", _SPLITS[self.evaluate]):
            try:
                self._split(folder, split)
            except ValueError as error:
                lines.append(str(error))
        return lines

    def _totals(self) -> tuple[int, int]:
        """How many pairs there are, for training and for evaluation."""
        if folder := self._folder():
            return self._split(folder, "train").count(), self._split(folder, _SPLITS[self.evaluate]).count()
        train, val, test = _SIZES[self.edition][self._subset() or ""]
        return train, val if self.evaluate == "val" else test

    def _reader(self) -> Callable[[str], ParallelFiles | ParallelColumns]:
        """What finds the pairs of a split."""
        if folder := self._folder():

            def read(split: str) -> ParallelFiles | ParallelColumns:
                found = self._split(folder, split)
                if isinstance(found, ParallelFiles):
                    return found
                dataset = found.read(self.cache_dir)
                return ParallelColumns(dataset, self._source, self._target, f"wmt/{self.pair} ({split})")

            return read
        subset = self._subset() or ""
        data = load_from_hub(f"wmt/{self.edition}", subset, f"data=wmt data.pair={self.pair}", self.cache_dir)
        return lambda split: ParallelColumns(data[split], self._source, self._target, f"wmt/{self.pair} ({split})")

    def _examples(
        self, split: str, pairs: ParallelFiles | ParallelColumns, size: int, tokenizer: Tokenizer
    ) -> tuple[Pairs, int]:
        """Both sides as tokens, and how many pairs were cut."""
        from nmtrain.data.text.batches import Pairs
        from nmtrain.data.text.encoded import encoded

        task = f"translate {_LANGUAGES[self._source]} to {_LANGUAGES[self._target]}: "
        columns, cut = encoded(
            lambda: ((task + source, target) for source, target in pairs.texts(size)),
            tokenizer,
            {"inputs": self.input_length, "targets": self.target_length},
            f"wmt-{self.pair}-{split}",
            {"pairs": pairs.fingerprint(), "size": size, "pair": self.pair, "form": task},
            self.cache_dir,
        )
        return Pairs(columns["inputs"], columns["targets"], tokenizer.pad), cut


def _score(
    language: str, references: list[str], predictions: Sequence[str], tokenize: str | None = None
) -> dict[str, float]:
    """sacreBLEU and chrF, 0 to 100, with their default settings but for ``tokenize``.

    Args:
        language: of the texts: unless ``tokenize`` says another way, Chinese is split into characters for BLEU.
    """
    metrics = _metrics(language, references, tokenize)
    return {name: metric.corpus_score(predictions, None).score for name, metric in metrics.items()}


def _metrics(language: str, references: list[str], tokenize: str | None) -> dict[str, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    tokenize = tokenize or ("zh" if language == "zh" else "13a")
    return {"bleu": BLEU(tokenize=tokenize, references=[references]), "chrf": CHRF(references=[references])}


def _pair_faults(value: object) -> list[str]:
    languages = value.split("-") if isinstance(value, str) else []
    if len(languages) == 2 and languages[0] != languages[1] and set(languages) <= set(_LANGUAGES):
        return []
    return [fault("pair", value, f"SOURCE-TARGET, such as en-de, of {', '.join(_LANGUAGES)}")]
