"""Text to token ids and back. Importing this module imports nothing heavy."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Framed(NamedTuple):
    """One example as a classifier reads it."""

    ids: list[int]  # with all special tokens
    types: list[int] | None  # of each token; None of tokenizers that give none
    is_cut: bool


class Tokenizer(Protocol):
    """What data sources and tasks ask of a tokenizer.

    A model of text to text reads ``encode(text) + [end]``, a classifier what :meth:`frame` gives.
    """

    @property
    def vocab_size(self) -> int:
        """All ids lie below it."""

    @property
    def pad(self) -> int:
        """The id that fills up short sequences."""

    @property
    def end(self) -> int:
        """The id that ends every sequence."""

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give equal ids; part of the names of cache files."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text: with a start token where the model expects one, without the end token, not cut.

        A special token's name in a text, such as ``</s>``, is text.
        """

    def frame(self, texts: Sequence[tuple[str, ...]], longest: int) -> list[Framed]:
        """Single texts or pairs, each as this tokenizer is meant to put them; the longer text of a pair is cut first.

        Args:
            texts: all of one text, or all of two.
            longest: the most tokens of an example, special ones included.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text up to the first end token; special tokens are left out."""

    def sentinel(self, i: int) -> int:
        """The id that stands for the ``i``-th gap in span corruption.

        Raises:
            ValueError: where the vocabulary has too few.
        """

    def save(self, folder: Path) -> None:
        """Write what ``transformers.AutoTokenizer.from_pretrained(folder)`` reads."""


_BYTES = 256
_SPECIAL = 3  # pad, end, unknown: the ids before the bytes
_SENTINELS = 125


class ByteTokenizer:
    """UTF-8 bytes as ByT5 numbers them (Xue et al., 2022): id = byte + 3. No vocabulary file.

    Unlike transformers' tokenizer of ByT5 it reads ``</s>`` in a text as four characters, not as the end token.
    """

    vocab_size = _SPECIAL + _BYTES + _SENTINELS
    pad = 0
    end = 1
    fingerprint = "bytes"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Tokenizer.encode`."""
        return [[byte + _SPECIAL for byte in text.encode()] for text in texts]

    def frame(self, texts: Sequence[tuple[str, ...]], longest: int) -> list[Framed]:
        """See :meth:`Tokenizer.frame`; as ByT5 puts a pair: an end token behind either text, and no types."""
        framed = []
        for parts in map(self.encode, texts):
            room = longest - len(parts)  # what the end tokens leave
            is_cut = sum(map(len, parts)) > room
            if len(parts) == 2:
                first, second = parts
                kept = min(len(second), max(room - len(first), room // 2))
                parts = [first[: room - kept], second[:kept]]
            framed.append(Framed([token for part in parts for token in (*part[:room], self.end)], None, is_cut))
        return framed

    def decode(self, ids: Sequence[int]) -> str:
        """See :meth:`Tokenizer.decode`; bytes that are no valid UTF-8 are left out."""
        text = takewhile(lambda token: token != self.end, ids)
        return bytes(token - _SPECIAL for token in text if _SPECIAL <= token < _SPECIAL + _BYTES).decode(
            errors="ignore"
        )

    def sentinel(self, i: int) -> int:
        """See :meth:`Tokenizer.sentinel`."""
        if not 0 <= i < _SENTINELS:
            raise ValueError(f"there is no sentinel {i}: byte tokens have {_SENTINELS}")
        return _SPECIAL + _BYTES + i

    def save(self, folder: Path) -> None:
        """See :meth:`Tokenizer.save`."""
        from transformers import ByT5Tokenizer

        ByT5Tokenizer(extra_ids=_SENTINELS).save_pretrained(str(folder))


_SENTINEL = re.compile("▁?<extra_id_[0-9]+>")  # T5's and mT5's, whose vocabulary does not mark them as special


class PretrainedTokenizer:
    """The tokenizer of a checkpoint: a name on the hub, or a local folder. Never runs code that comes with it.

    Args:
        local_files_only: take what was downloaded before, and do not ask the hub.

    Raises:
        OSError: where there is no such tokenizer, or a folder that has a model's configuration but no vocabulary.
        ValueError: where it has no end token or no padding token.
    """

    def __init__(self, name_or_path: str, local_files_only: bool = False) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            name_or_path, trust_remote_code=False, local_files_only=local_files_only
        )
        self._reader = _without_special_words(self._tokenizer) if self._tokenizer.is_fast else self._tokenizer
        if not any(map(_is_text, self._tokenizer.get_vocab())):
            # Where there is a config.json and nothing else, transformers makes a tokenizer that knows no word.
            raise OSError(f"{name_or_path} has no tokenizer with a vocabulary (such as tokenizer.json)")
        self.vocab_size = len(self._tokenizer)
        # What it puts behind a text by itself is what the model was trained to see there: </s>, or BERT's [SEP].
        added = self._tokenizer("")["input_ids"]
        end = added[-1] if added else self._tokenizer.eos_token_id
        pad = self._tokenizer.pad_token_id
        if end is None or pad is None:
            raise ValueError(f"the tokenizer of {name_or_path} has no {'end' if end is None else 'padding'} token")
        self.end: int = end
        self.pad: int = pad
        self._ends_itself = bool(added)

    @property
    def fingerprint(self) -> str:
        """See :meth:`Tokenizer.fingerprint`."""
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        content = fast.to_str() if fast is not None else repr(sorted(self._tokenizer.get_vocab().items()))
        written = f"{type(self._tokenizer).__name__} {self.end} special words are text {content}"
        return hashlib.blake2b(written.encode(), digest_size=16).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See :meth:`Tokenizer.encode`."""
        if not texts:  # which transformers cannot take
            return []
        rows = self._read(list(texts))["input_ids"]
        return [row[:-1] for row in rows] if self._ends_itself else rows

    def frame(self, texts: Sequence[tuple[str, ...]], longest: int) -> list[Framed]:
        """See :meth:`Tokenizer.frame`: what the tokenizer itself makes of them."""
        if not texts:
            return []
        framed = self._framed(texts)
        too_long = [number for number, example in enumerate(framed) if len(example.ids) > longest]
        if too_long:
            cut = self._framed([texts[number] for number in too_long], truncation="longest_first", max_length=longest)
            for number, example in zip(too_long, cut, strict=True):
                framed[number] = example._replace(is_cut=True)
        return framed

    def _framed(self, texts: Sequence[tuple[str, ...]], **options: Any) -> list[Framed]:
        rows = self._read(*(list(column) for column in zip(*texts, strict=True)), **options)
        types = rows.get("token_type_ids", [None] * len(texts))
        return [Framed(*row, False) for row in zip(rows["input_ids"], types, strict=True)]

    def _read(self, *texts: list[str], **options: Any) -> Any:
        # `verbose` would warn of texts longer than the model was trained for; they are cut and counted later.
        return self._reader(*texts, split_special_tokens=True, return_attention_mask=False, verbose=False, **options)

    def decode(self, ids: Sequence[int]) -> str:
        """See :meth:`Tokenizer.decode`."""
        text = list(takewhile(lambda token: token != self.end, (int(token) for token in ids)))
        return self._tokenizer.decode(text, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def sentinel(self, i: int) -> int:
        """See :meth:`Tokenizer.sentinel`."""
        for written in (f"<extra_id_{i}>", f"▁<extra_id_{i}>"):  # as T5's vocabulary has them, and as mT5's
            token = self._tokenizer.convert_tokens_to_ids(written)
            if token is not None and token != self._tokenizer.unk_token_id:
                return token
        raise ValueError(f"there is no sentinel {i}: the vocabulary has no <extra_id_{i}>")

    def save(self, folder: Path) -> None:
        """See :meth:`Tokenizer.save`."""
        self._tokenizer.save_pretrained(str(folder))


def _without_special_words(tokenizer: Any) -> Any:
    """A copy of a fast tokenizer whose model finds no special token in a text.

    Not to look for them (``split_special_tokens``) is not enough: the vocabularies of T5's kind hold them as pieces
    with the best of all scores. The pieces that merges make are none of them.
    """
    copied = copy.deepcopy(tokenizer)
    model = copied.backend_tokenizer.model
    state = json.loads(model.__getstate__())
    if "merges" in state:
        return copied
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}

    def hidden(piece: str) -> str:
        # U+FFFF is no character, and so in no text.
        return f"\uffff{piece}" if piece in special or _SENTINEL.fullmatch(piece) else piece

    vocabulary = state["vocab"]
    if isinstance(vocabulary, dict):
        state["vocab"] = {hidden(piece): index for piece, index in vocabulary.items()}
    else:
        state["vocab"] = [(hidden(piece), score) for piece, score in vocabulary]
    if state.get("unk_token") is not None:
        state["unk_token"] = hidden(state["unk_token"])
    model.__setstate__(json.dumps(state).encode())
    copied.backend_tokenizer.model = model
    return copied


def _is_text(piece: str) -> bool:
    """Whether an entry of a vocabulary stands for text: </s>, [CLS], <extra_id_0> and a lone space do not."""
    piece = piece.strip("▁")
    return bool(piece) and not (piece[0] + piece[-1] in ("<>", "[]") and len(piece) > 1)
