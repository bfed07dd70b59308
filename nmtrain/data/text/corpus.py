"""``data=text``: span-corruption pre-training on local text files, or on the English text that Python carries."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import TextShape
from nmtrain.data.source import (
    TextSource,
    fault,
    fraction_faults,
    path_faults,
    positive_fraction_faults,
    whole_number_faults,
)
from nmtrain.data.text.span_counts import corrupted_counts
from nmtrain.data.utf8 import text_size
from nmtrain.errors import DataError

if TYPE_CHECKING:
    from nmtrain.data.text.batches import Pairs, TextData
    from nmtrain.data.text.spans import SpanCorruption
    from nmtrain.data.text.tokens import Tokenizer

_SENTINELS = 100  # of T5; ByT5 has more
_SAMPLE = "pydoc_data"  # the part of Python's library that holds the language reference as text
_SPLITS = ("train", "val", "test")
_AT_ONCE = 1024  # windows; what the gaps of validation are depends on it
_READ_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Corpus(TextSource):
    """All ``.txt`` files of a folder, or one file, in UTF-8, as one text in windows of ``window`` bytes.

    Windows at equal distances are for validation, and of the others again some for test; their gaps are the same in
    every run. Those of the training windows are drawn anew in each update. The built-in sample, ``path=null``, is help
    text of Python's language reference: it differs from one version of Python to the next.
    """

    path: str | None = None
    window: int = 256
    val_fraction: float = 0.05
    test_fraction: float = 0.05
    noise_density: float = 0.15
    mean_span: float = 3.0
    cache_dir: str | None = None

    splits = ("val", "test")
    held_out_by = ("window", "val_fraction", "test_fraction")
    headline = "perplexity"

    def faults(self) -> list[str]:
        lines = [
            *super().faults(),
            *path_faults("path", self.path),
            *whole_number_faults("window", self.window, 16, 100_000),
            *positive_fraction_faults("val_fraction", self.val_fraction),
            *fraction_faults("test_fraction", self.test_fraction),
            *positive_fraction_faults("noise_density", self.noise_density),
            *_span_faults(self.mean_span),
            *path_faults("cache_dir", self.cache_dir),
        ]
        return lines or [*self._source_faults(), *self._gap_faults()]

    def files(self) -> list[Path]:
        return [] if self.path is None else self._files()

    def shape(self) -> TextShape:
        sizes = self._sizes()
        noise, spans = corrupted_counts(self.window, self.noise_density, self.mean_span)
        return TextShape(
            train_size=sizes["train"],
            val_size=sizes[self.evaluate],
            input_length=self.window - noise + spans + 1,
            target_length=noise + spans + 1,
            labels=(),
        )

    def load(self, seed: int, tokenizer: Tokenizer) -> TextData:
        from nmtrain.data.text.batches import TextData, ValSet
        from nmtrain.data.text.encoded import encoded
        from nmtrain.data.text.spans import SpanCorruption

        sizes, cut = self._sizes(), 0
        split_of = _divided(sum(sizes.values()), sizes["val"], sizes["test"])
        content: dict[str, object] = {"text": self._digest(), "window": self.window, "val_size": sizes["val"]}
        parts, keys = {}, {}
        for split in ("train", self.evaluate):
            keys[split] = content | {"split": split}
            if split != "val" and sizes["test"]:
                keys[split]["test_size"] = sizes["test"]
            windows, more = encoded(
                partial(self._texts, split_of, _SPLITS.index(split)),
                tokenizer,
                {"windows": self.window + 1},
                f"text-{split}",
                keys[split],
                self.cache_dir,
            )
            cut += more
            try:
                parts[split] = SpanCorruption(windows["windows"], tokenizer, self.noise_density, self.mean_span)
            except ValueError as error:
                raise DataError(f"data=text needs a tokenizer with sentinel tokens: {error}") from None
        val = self._fixed(parts[self.evaluate], keys[self.evaluate] | {"tokenizer": tokenizer.fingerprint})
        return TextData(
            name="text",
            shape=self.shape(),
            headline=self.headline,
            tokenizer=tokenizer,
            train=parts["train"],
            val_sets={"": ValSet(val, [], None)},
            seed=seed,
            cut=cut,
        )

    def _texts(self, split_of: bytes, split: int) -> Iterator[tuple[str]]:
        """The windows of a split; a character that the edge of a window cuts in two is left out."""
        # The text after the last whole window is in none.
        for number, window in zip(split_of, self._windows(), strict=False):
            if number == split:
                yield (window.decode(errors="ignore"),)

    def _fixed(self, examples: SpanCorruption, content: dict[str, object]) -> Pairs:
        """All examples with gaps that are the same in every run, whatever its seed and its batch size."""
        import torch

        from nmtrain.data.text.arrow import Block, stored
        from nmtrain.data.text.batches import Pairs

        def blocks() -> Iterator[Block]:
            for number, chosen in enumerate(torch.arange(len(examples.lengths)).split(_AT_ONCE)):
                pairs = examples.corrupted(chosen, mix_seed("text", self.evaluate, number))
                rows = {"inputs": pairs.inputs, "targets": pairs.targets}
                yield {name: [packed[i] for i in range(len(packed))] for name, packed in rows.items()} | {
                    "cut": [False] * len(chosen)
                }

        key = content | {"noise_density": self.noise_density, "mean_span": self.mean_span}
        columns, _ = stored(blocks, f"text-{self.evaluate}-gaps", key, self.cache_dir)
        return Pairs(columns["inputs"], columns["targets"], examples.pad)

    def _files(self) -> list[Path]:
        place = Path(self.path or "").expanduser()
        return sorted(file for file in place.rglob("*.txt") if file.is_file()) if place.is_dir() else [place]

    def _pieces(self) -> Iterator[bytes]:
        """The text of all files, a line feed between each two."""
        if self.path is None:
            yield _sample()
            return
        between = b""
        try:
            for name in self._files():
                yield between
                between = b"\n"
                with open(name, "rb") as file:
                    yield file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
                    while piece := file.read(_READ_AT_ONCE):
                        yield piece
        except OSError as error:
            raise DataError(f"data.path={self.path}: {error}") from None

    def _windows(self) -> Iterator[bytes]:
        rest = b""
        for piece in self._pieces():
            text = rest + piece
            end = len(text) // self.window * self.window
            for start in range(0, end, self.window):
                yield text[start : start + self.window]
            rest = text[end:]

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for piece in self._pieces():
            digest.update(piece)
        return digest.hexdigest()

    def _sizes(self) -> dict[str, int]:
        """How many windows are for training, validation and test.

        Raises:
            ValueError: naming the file that cannot be read, or is no text.
        """
        if self.path is None:
            size = len(_sample())
        else:
            sizes = [_text_size(file) for file in self._files()]
            size = sum(sizes) + len(sizes) - 1
        windows = size // self.window
        val, test = max(1, round(windows * self.val_fraction)), round(windows * self.test_fraction)
        return {"train": windows - val - test, "val": val, "test": test}

    def _source_faults(self) -> list[str]:
        where = f"data.path={self.path}" if self.path is not None else "data.path=null"
        if self.path is None:
            if find_spec(_SAMPLE) is None:
                return [f"{where}: this Python has no help text to read; give a file or a folder"]
        elif not Path(self.path).expanduser().exists():
            return [f"{where}: there is no such file or folder"]
        elif not self._files():
            return [f"{where}: there is no .txt file in this folder"]
        try:
            sizes = self._sizes()
        except ValueError as error:
            return [str(error)]
        windows = sum(sizes.values())
        if windows < 2:
            return [f"{where}: the text is too short for two windows of data.window={self.window} bytes"]
        allowed = f"what leaves some of the {windows} windows for training"
        if sizes["val"] >= windows:
            return [fault("val_fraction", self.val_fraction, allowed)]
        if sizes["train"] < 1:
            return [fault("test_fraction", self.test_fraction, f"{allowed}, beside {sizes['val']} for validation")]
        if self.evaluate == "test" and not sizes["test"]:
            held_out = (
                f"none of the {windows} windows is held out for test with data.test_fraction={self.test_fraction}"
            )
            return [f"data.evaluate: 'test' is not allowed: {held_out}"]
        return []

    def _gap_faults(self) -> list[str]:
        spans = corrupted_counts(self.window, self.noise_density, self.mean_span)[1]
        if spans <= _SENTINELS:
            return []
        return [
            f"data.window={self.window}: with noise_density {self.noise_density} and mean_span {self.mean_span} it has "
            f"{spans} gaps; T5 has sentinel tokens for {_SENTINELS}"
        ]


def _text_size(file: Path) -> int:
    try:
        return text_size(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"data.path: {file} cannot be read: {error}") from error


def _sample() -> bytes:
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics)).encode()


def _divided(windows: int, val: int, test: int) -> bytes:
    """Of each window its place in `_SPLITS`; where validation's are does not depend on ``test``."""
    import torch

    split_of = torch.zeros(windows, dtype=torch.uint8)
    split_of[torch.arange(val) * windows // val] = _SPLITS.index("val")
    if test:
        others = (split_of == 0).nonzero().flatten()
        # In the middle of equal parts of the others, and so away from the first window, which is validation's.
        split_of[others[(2 * torch.arange(test) + 1) * len(others) // (2 * test)]] = _SPLITS.index("test")
    return split_of.numpy().tobytes()


def _span_faults(value: object) -> list[str]:
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 100:
        return []
    return [fault("mean_span", value, "numbers from 1 to 100")]
