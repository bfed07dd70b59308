"""``data=listops``: nested lists of operations on digits, and what they come to (after Nangia and Bowman, 2018)."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nmtrain.data.seeds import mix_seed
from nmtrain.data.shapes import TextShape
from nmtrain.data.source import TextSource, fault, path_faults, whole_number_faults

if TYPE_CHECKING:
    from torch import Tensor

    from nmtrain.data.text.batches import TextData
    from nmtrain.data.text.tokens import Tokenizer

_DIGITS = tuple("0123456789")
_OPERATIONS = ("MIN", "MAX", "MED", "SM")
_SHORTEST = len("[MIN 0 0 ]")
_NESTED = 0.4  # the chance that an argument is an operation, where there is room for one
_SPARE = 10  # there must be so many times more expressions than examples
_MOST_EXAMPLES = 2_000_000
_SPECIAL_TOKENS = 2  # at most a start and an end token around the characters


@dataclass(frozen=True)
class ListOps(TextSource):
    """Expressions such as ``[MAX 2 9 [MIN 4 7 ] 0 ]``, all different, and their values, "0" to "9".

    The examples depend on all options but ``evaluate`` and ``cache_dir``, in which they are kept (default: the
    user's cache folder).
    """

    train_size: int = 96_000
    val_size: int = 2_000
    test_size: int = 2_000
    max_length: int = 40
    max_depth: int = 3
    max_arguments: int = 4
    generation_seed: int = 0
    cache_dir: str | None = None

    headline = "accuracy"
    splits = ("val", "test")
    held_out_by = ("max_length", "max_depth", "max_arguments", "generation_seed")
    held_out_up_to = ("val_size", "test_size")

    def faults(self) -> list[str]:
        lines = [
            *super().faults(),
            *whole_number_faults("train_size", self.train_size, 1, _MOST_EXAMPLES),
            *whole_number_faults("val_size", self.val_size, 1, _MOST_EXAMPLES),
            *whole_number_faults("test_size", self.test_size, 1, _MOST_EXAMPLES),
            *whole_number_faults("max_length", self.max_length, 24, 2_000),
            *whole_number_faults("max_depth", self.max_depth, 1, 20),
            *whole_number_faults("max_arguments", self.max_arguments, 2, 20),
            *whole_number_faults("generation_seed", self.generation_seed, 0, 2**63 - 1),
            *path_faults("cache_dir", self.cache_dir),
        ]
        return lines or self._size_faults()

    def shape(self) -> TextShape:
        return TextShape(
            train_size=self.train_size,
            val_size=self.val_size if self.evaluate == "val" else self.test_size,
            input_length=self.max_length + _SPECIAL_TOKENS,
            target_length=1 + _SPECIAL_TOKENS,
            labels=_DIGITS,
        )

    def load(self, seed: int, tokenizer: Tokenizer) -> TextData:
        import torch

        from nmtrain.data.cache import cached, default_cache_folder
        from nmtrain.data.text.batches import TextData, ValSet, encode_pairs, exact_match

        options = asdict(self)
        content = {option: options[option] for option in options if option not in ("evaluate", "cache_dir")}
        # Whoever edits the generator gets new examples without having to raise a number by hand.
        content["sample"] = [_expression(self, random.Random(number)) for number in range(30)]
        folder = default_cache_folder() if self.cache_dir is None else Path(self.cache_dir).expanduser()
        stored = cached(self._generate, "listops", content, folder)

        pairs, cut = {}, 0
        for split in ("train", self.evaluate):
            text = bytes(stored[f"{split}_text"].numpy()).decode()
            answers = stored[f"{split}_answers"].to(torch.int64)
            targets = [_DIGITS[answer] for answer in answers.tolist()]
            pairs[split], more = encode_pairs(text.splitlines(), targets, tokenizer, self.shape(), answers)
            cut += more
        # `targets` are now those of the validation set.
        return TextData(
            name="listops",
            shape=self.shape(),
            headline=self.headline,
            tokenizer=tokenizer,
            train=pairs["train"],
            val_sets={"": ValSet(pairs[self.evaluate], targets, exact_match(targets), _is_digit)},
            seed=seed,
            cut=cut,
        )

    def _generate(self) -> dict[str, Tensor]:
        """Per split its expressions, a line each, as uint8 ``[bytes]``, and their values as uint8 ``[size]``."""
        import torch

        sizes = {"val": self.val_size, "test": self.test_size, "train": self.train_size}
        used: set[str] = set()
        tensors: dict[str, Tensor] = {}
        for split, size in sizes.items():  # train last: a larger training set leaves the others as they are
            numbers = random.Random(mix_seed("listops", split, self.generation_seed))
            examples: dict[str, int] = {}
            while len(examples) < size:
                text, value = _expression(self, numbers)
                if text not in used:
                    examples[text] = value
                    used.add(text)
            tensors[f"{split}_text"] = torch.frombuffer(bytearray("\n".join(examples).encode()), dtype=torch.uint8)
            tensors[f"{split}_answers"] = torch.tensor(list(examples.values()), dtype=torch.uint8)
        return tensors

    def _size_faults(self) -> list[str]:
        """Drawing different ones must not become a search for the last few."""
        needed = self.train_size + self.val_size + self.test_size
        available = _count(min(self.max_length, 64), min(self.max_depth, 3), self.max_arguments)
        if needed * _SPARE <= available:
            return []
        allowed = f"at most {available // _SPARE} with val_size and test_size, a tenth of the {available} expressions"
        return [fault("train_size", self.train_size, f"{allowed} of max_length, max_depth and max_arguments")]


def _is_digit(prediction: str) -> bool:
    return prediction.strip() in _DIGITS


def _expression(options: ListOps, numbers: random.Random) -> tuple[str, int]:
    """A random expression and its value."""
    return _operation(options.max_length, options.max_depth, options.max_arguments, numbers)


def _operation(room: int, depth: int, most: int, numbers: random.Random) -> tuple[str, int]:
    """An operation of at most ``room`` bytes (at least ``_SHORTEST``), ``depth`` levels and ``most`` arguments.

    Only ``numbers.random()`` is drawn from: Python promises the same sequence from it in every version.
    """
    name = _OPERATIONS[int(numbers.random() * len(_OPERATIONS))]
    fixed = len(f"[{name} ]")
    count = 2 + int(numbers.random() * (min(most, (room - fixed) // 2) - 1))
    spare = room - fixed - 2 * count  # what remains when every argument is a digit
    arguments = [("", 0)] * count
    # In random order, since those made first have more room.
    for place in sorted(range(count), key=[numbers.random() for _ in range(count)].__getitem__):
        if depth > 1 and spare + 1 >= _SHORTEST and numbers.random() < _NESTED:
            text, value = _operation(spare + 1, depth - 1, most, numbers)
            spare -= len(text) - 1
        else:
            value = int(numbers.random() * 10)
            text = _DIGITS[value]
        arguments[place] = (text, value)
    return f"[{name} {' '.join(text for text, _ in arguments)} ]", _value(name, [value for _, value in arguments])


def _value(name: str, arguments: list[int]) -> int:
    if name == "MIN":
        return min(arguments)
    if name == "MAX":
        return max(arguments)
    if name == "SM":  # sum modulo 10
        return sum(arguments) % 10
    # The median; of an even number, the mean of the middle two, rounded down.
    ranked = sorted(arguments)
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) // 2


def _count(max_length: int, max_depth: int, max_arguments: int) -> int:
    """How many different expressions there are."""
    operations = [0] * (max_length + 1)  # by length
    for _ in range(max_depth):
        # An argument with the space before it, by length: a digit, or an operation one level less deep.
        argument = [0, 0, 10, *operations[2:-1]]
        operations = [0] * (max_length + 1)
        lists = [1, *[0] * max_length]  # of arguments
        for count in range(1, max_arguments + 1):
            lists = [
                sum(lists[before] * argument[length - before] for before in range(length + 1))
                for length in range(max_length + 1)
            ]
            if count >= 2:
                for name in _OPERATIONS:
                    fixed = len(f"[{name} ]")
                    for length in range(fixed, max_length + 1):
                        operations[length] += lists[length - fixed]
    return sum(operations)
