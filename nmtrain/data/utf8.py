"""Text files are UTF-8 or refused: bytes that are none would have to be dropped or guessed, without a word."""

from __future__ import annotations

import codecs
from pathlib import Path

from nmtrain.data.seen import once

_AT_ONCE = 1 << 20


@once
def text_size(file: Path) -> int:
    """Bytes of text in a file, all of which is read; a byte order mark at its beginning is no text.

    Raises:
        ValueError: naming the first byte, counted from 0, that is no UTF-8, or is NUL: UTF-16 is full of them.
        OSError: if the file cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(file, "rb") as content:
        mark = len(codecs.BOM_UTF8) if content.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        content.seek(mark)
        done, block = mark, b"more"
        while block:
            block = content.read(_AT_ONCE)
            pending = len(decoder.getstate()[0])  # of a character that the last block began
            bad = block.find(0)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                start = error.start - pending
                if bad < 0 or start < bad:
                    value = error.object[error.start]
                    raise ValueError(f"byte {done + start} (0x{value:02x}) is no UTF-8; allowed: UTF-8") from None
            if bad >= 0:
                raise ValueError(f"byte {done + bad} is NUL, as in UTF-16; allowed: text in UTF-8")
            done += len(block)
    return done - mark
