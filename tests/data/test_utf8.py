from itertools import count

import pytest

from nmtrain.data import utf8
from nmtrain.data.utf8 import text_size


@pytest.fixture
def size(tmp_path):
    numbers = count()

    def of(content: bytes) -> int:
        file = tmp_path / f"{next(numbers)}.txt"  # a new one each time: they change faster than the clock ticks
        file.write_bytes(content)
        return text_size(file)

    return of


def test_the_size_is_in_bytes_without_a_byte_order_mark(size):
    assert size(b"") == 0
    assert size("Größe 日本 \U0001f600".encode()) == 7 + 1 + 6 + 1 + 4
    assert size("Größe".encode("utf-8-sig")) == 7
    assert size("a\ufeffb".encode()) == 5  # elsewhere it is a character


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Größe".encode("latin-1"), r"byte 2 \(0xf6\) is no UTF-8"),
        ("\ufeffab".encode() + b"\xff", r"byte 5 \(0xff\) is no UTF-8"),
        ("Größe".encode("utf-16"), r"byte 0 \(0xff\) is no UTF-8"),
        ("Gras".encode("utf-16-le"), r"byte 1 is NUL, as in UTF-16"),
        ("Gras".encode("utf-16-be"), r"byte 0 is NUL, as in UTF-16"),
        ("aä".encode()[:2], r"byte 1 \(0xc3\) is no UTF-8"),
        (b"\xed\xa0\x80", r"byte 0 \(0xed\) is no UTF-8"),
    ],
)
def test_the_first_byte_that_is_no_text_is_named(content, message, size):
    with pytest.raises(ValueError, match=message):
        size(content)


def test_bytes_are_counted_from_the_file_s_beginning_wherever_blocks_end(size, monkeypatch):
    monkeypatch.setattr(utf8, "_AT_ONCE", 3)
    text = "aäöü日本語\U0001f600z"
    assert size(text.encode()) == len(text.encode())
    for place in range(len(text)):
        before = text[:place].encode()
        with pytest.raises(ValueError, match=rf"byte {len(before)} \(0xfc\) is no UTF-8"):
            size(before + b"\xfc" + text[place:].encode())
        with pytest.raises(ValueError, match=rf"byte {len(before)} is NUL"):
            size(before + b"\0" + text[place:].encode())
