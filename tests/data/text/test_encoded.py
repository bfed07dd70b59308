import pytest

from nmtrain.data.text.batches import encode
from nmtrain.data.text.encoded import encoded, framed
from nmtrain.data.text.tokens import ByteTokenizer, Framed

TEXTS = ["one", "", "three and four"]


class Shifted(ByteTokenizer):
    fingerprint = "shifted"

    def encode(self, texts):
        return [[token + 1 for token in tokens] for tokens in super().encode(texts)]


@pytest.fixture
def tokens(tmp_path):
    def encoded_lists(tokenizer, longest=10, content=None, texts=lambda: TEXTS):
        packed, cut = encoded(texts, tokenizer, longest, "set", content or {"name": "set"}, str(tmp_path))
        return [packed[index] for index in range(len(packed))], cut.tolist()

    return encoded_lists


def test_the_cache_holds_what_encoding_gives(tokens):
    packed, cut = encode(TEXTS, ByteTokenizer(), 10)
    expected = [packed[index] for index in range(3)], cut.tolist()
    assert expected[1] == [False, False, True]
    assert tokens(ByteTokenizer()) == expected
    assert tokens(ByteTokenizer(), texts=lambda: pytest.fail("encoded again")) == expected


def test_tokenizers_lengths_and_texts_have_files_of_their_own(tokens, tmp_path):
    first = tokens(ByteTokenizer())
    assert tokens(Shifted()) != first
    assert tokens(ByteTokenizer(), longest=9) != first
    assert tokens(ByteTokenizer(), content={"name": "other"}) == first
    assert len(list(tmp_path.iterdir())) == 4


class Typed(ByteTokenizer):
    fingerprint = "typed"

    def frame(self, texts, longest):
        return [Framed([len(text), 1], [0, len(text) % 2], len(text) > 3) for (text,) in texts]


@pytest.mark.parametrize(("tokenizer", "types"), [(Typed(), [[0, 1], [0, 0]]), (ByteTokenizer(), None)])
def test_what_a_classifier_reads_is_kept_with_its_types(tokenizer, types, tmp_path):
    def read(texts):
        ids, found, cut = framed(texts, tokenizer, 10, "set", {"name": "set"}, str(tmp_path))
        return [ids[i] for i in (0, 1)], found if found is None else [found[i] for i in (0, 1)], cut.tolist()

    fresh = read(lambda: [("one",), ("four",)])
    assert fresh[1] == types
    assert read(lambda: pytest.fail("framed again")) == fresh
    packed, _ = encoded(lambda: ["one", "four"], tokenizer, 10, "set", {"name": "set"}, str(tmp_path))
    assert len(packed) == 2
    assert len(list(tmp_path.iterdir())) == 2
