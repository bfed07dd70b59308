import pytest

from nmtrain.data.text.encoded import encode, encoded, framed, in_memory
from nmtrain.data.text.tokens import ByteTokenizer, Framed

TEXTS = [("one",), ("",), ("three and four",)]


class Shifted(ByteTokenizer):
    fingerprint = "shifted"

    def encode(self, texts):
        return [[token + 1 for token in tokens] for tokens in super().encode(texts)]


@pytest.fixture
def tokens(tmp_path):
    def encoded_lists(tokenizer, longest=10, content=None, texts=lambda: TEXTS):
        columns, cut = encoded(
            texts, tokenizer, {"ids": longest}, "set", content or {"name": "set"}, str(tmp_path / "cache")
        )
        return [columns["ids"][index] for index in range(len(columns["ids"]))], cut

    return encoded_lists


def test_texts_end_with_the_end_token_and_longer_ones_are_cut():
    (block,) = encode([("one", "a"), ("", "four"), ("three", "four")], ByteTokenizer(), {"inputs": 5, "targets": 4})
    assert block == {
        "cut": [False, True, True],
        "inputs": [[114, 113, 104, 1], [1], [119, 107, 117, 104, 1]],
        "targets": [[100, 1], [105, 114, 120, 1], [105, 114, 120, 1]],
    }


@pytest.mark.parametrize("count", [1, 1000, 1001, 2500])
def test_the_cache_holds_what_encoding_gives(count, tokens):
    texts = [(f"{number} bottles"[: number % 11],) for number in range(count)]
    expected = [[*row, 1][:9] + [1] * (len(row) > 8) for row in ByteTokenizer().encode([text for (text,) in texts])]
    columns, cut = in_memory(encode(texts, ByteTokenizer(), {"ids": 10}))
    assert [columns["ids"][index] for index in range(count)] == expected
    assert cut == sum(len(text) > 9 for (text,) in texts)
    assert tokens(ByteTokenizer(), texts=lambda: texts) == (expected, cut)
    assert tokens(ByteTokenizer(), texts=lambda: pytest.fail("encoded again")) == (expected, cut)


def test_tokenizers_lengths_and_texts_have_files_of_their_own(tokens, tmp_path):
    first = tokens(ByteTokenizer())
    assert tokens(Shifted()) != first
    assert tokens(ByteTokenizer(), longest=9) != first
    assert tokens(ByteTokenizer(), content={"name": "other"}) == first
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 4


class Typed(ByteTokenizer):
    fingerprint = "typed"

    def frame(self, texts, longest):
        return [Framed([len(text), 1], [0, len(text) % 2], len(text) > 3) for (text,) in texts]


@pytest.mark.parametrize(("tokenizer", "types"), [(Typed(), [[0, 1], [0, 0]]), (ByteTokenizer(), None)])
def test_what_a_classifier_reads_is_kept_with_its_types(tokenizer, types, tmp_path):
    def read(texts):
        columns, cut = framed(texts, tokenizer, 4, "set", {"name": "set"}, str(tmp_path))
        return {name: [packed[i] for i in (0, 1)] for name, packed in columns.items()}, cut

    columns, cut = read(lambda: [("one",), ("four",)])
    assert columns.get("types") == types
    assert cut == 1
    assert read(lambda: pytest.fail("framed again")) == (columns, cut)
    encoded(lambda: [("one",)], tokenizer, {"inputs": 4}, "set", {"name": "set"}, str(tmp_path))
    assert len(list(tmp_path.glob("*.arrow"))) == 2
