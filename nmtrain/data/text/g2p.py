"""``data=g2p``: English words and their phonemes, from the CMU Pronouncing Dictionary that comes with the package."""

from __future__ import annotations

import lzma
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING

from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import TextShape
from nmtrain.data.source import TextSource, flag_faults, whole_number_faults

if TYPE_CHECKING:
    from nmtrain.data.text.batches import TextData
    from nmtrain.data.text.tokens import Tokenizer

# ARPAbet's own one-letter codes of the 39 phonemes (Shoup, 1980), so that every tokenizer of bytes has one token for
# each. With stress, its digit follows the vowel.
_NAMES = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
CODES = dict(zip(_NAMES.split(), "a@AcWYEReIioOUubCdDfghJklmnGprsStTvwyzZ", strict=True))
_LINE = re.compile(r"([a-z]+)(?:\(\d+\))? ([^#]+)")  # a word of letters alone; the number of a further pronunciation
_PHONEME = re.compile(r"([A-Z]+)([012]?)")
_SYMBOL = re.compile(r"[^012][012]?")  # a phoneme's code, with its stress
_SPECIAL_TOKENS = 2  # at most a start and an end token


@dataclass(frozen=True)
class G2P(TextSource):
    """The 117,493 words of letters alone; a model reads the letters and writes the phonemes, a code for each.

    Which words are in which set depends on the words and the two sizes alone. A word's first pronunciation is what is
    learnt; every one that the dictionary lists is right. Scored as the literature does: the share of words that are
    right, and the phoneme error rate, the least edit distance to a pronunciation over the length of that one, both
    summed over all words.
    """

    stress: bool = False
    val_size: int = 2_000
    test_size: int = 12_000

    headline = "word_accuracy"
    splits = ("val", "test")
    held_out_by = ("val_size", "test_size")

    def faults(self) -> list[str]:
        return [
            *super().faults(),
            *flag_faults("stress", self.stress),
            *whole_number_faults("val_size", self.val_size, 1, 50_000),
            *whole_number_faults("test_size", self.test_size, 1, 50_000),
        ]

    def shape(self) -> TextShape:
        words = _dictionary(self.stress)
        longest = max(len(said) for pronunciations in words.values() for said in pronunciations)
        return TextShape(
            train_size=len(words) - self.val_size - self.test_size,
            val_size=self.val_size if self.evaluate == "val" else self.test_size,
            input_length=max(map(len, words)) + _SPECIAL_TOKENS,
            target_length=longest + _SPECIAL_TOKENS,
            labels=(),
        )

    def load(self, seed: int, tokenizer: Tokenizer) -> TextData:
        from nmtrain.data.text.batches import TextData, ValSet, encode_pairs

        shape, dictionary = self.shape(), _dictionary(self.stress)
        words = sorted(dictionary, key=partial(mix_seed, "g2p"))
        ends = (self.val_size, self.val_size + self.test_size)
        sets = {"val": words[: ends[0]], "test": words[ends[0] : ends[1]], "train": sorted(words[ends[1] :])}
        pairs, cut = {}, 0
        for split in ("train", self.evaluate):
            said = [dictionary[word][0] for word in sets[split]]
            pairs[split], more = encode_pairs(sets[split], said, tokenizer, shape)
            cut += more
        right = [dictionary[word] for word in sets[self.evaluate]]
        val = ValSet(pairs[self.evaluate], [first for first, *_ in right], partial(score, right))
        return TextData(
            name="g2p",
            shape=shape,
            headline=self.headline,
            tokenizer=tokenizer,
            train=pairs["train"],
            val_sets={"": val},
            seed=seed,
            cut=cut,
        )


@cache
def _dictionary(stress: bool) -> dict[str, tuple[str, ...]]:
    """The pronunciations of every word, in the dictionary's order, each once."""
    packed = resources.files("nmtrain.data.text").joinpath("cmudict", "cmudict.dict.xz").read_bytes()
    found: dict[str, list[str]] = {}
    for line in lzma.decompress(packed).decode().splitlines():
        if entry := _LINE.match(line):
            said = "".join(CODES[name] + digit * stress for name, digit in _PHONEME.findall(entry[2]))
            found.setdefault(entry[1], []).append(said)
    return {word: tuple(dict.fromkeys(pronunciations)) for word, pronunciations in found.items()}


def score(right: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """``word_accuracy`` and ``phoneme_error_rate`` of predictions, given the right pronunciations of each word."""
    words = errors = length = 0
    for pronunciations, prediction in zip(right, predictions, strict=True):
        written = _SYMBOL.findall(prediction.strip())
        distances = [(edit_distance(written, wanted), len(wanted)) for wanted in map(_SYMBOL.findall, pronunciations)]
        # Of equally near ones the first, which is the commonest.
        distance, size = min(distances, key=lambda found: found[0])
        words += prediction.strip() in pronunciations
        errors, length = errors + distance, length + size
    return {"word_accuracy": words / len(right), "phoneme_error_rate": errors / length}


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """The fewest insertions, deletions and replacements that make one sequence the other (Levenshtein, 1966)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
