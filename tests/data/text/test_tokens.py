import hashlib
import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5Tokenizer,
)

from nmtrain.data.text.tokens import ByteTokenizer, PretrainedTokenizer

TEXTS = ["[MAX 2 9 [MIN 4 7 ] 0 ]", "", "naïve 日本 \n\t x", "Ünï"]
WORDS = ["not", "▁not", "▁", "_", "equivalent", "e", "q", "▁a", *"</s>padxtri0"]


@pytest.fixture
def t5(tmp_path):
    """A tokenizer of T5's kind, with 100 sentinels and a handful of words."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    T5Tokenizer(vocab=[*special, *((word, -1.0) for word in WORDS), *sentinels]).save_pretrained(tmp_path / "t5")
    return PretrainedTokenizer(str(tmp_path / "t5"))


@pytest.fixture
def bert(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film", "[", "]", "sep", "mask", "unk"]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path / "bert")
    return PretrainedTokenizer(str(tmp_path / "bert"))


@pytest.fixture
def roberta(tmp_path):
    """Bytes without merges, as RoBERTa and BART number them."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    RobertaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(
        tmp_path / "roberta"
    )
    return PretrainedTokenizer(str(tmp_path / "roberta"))


@pytest.fixture
def words(tmp_path):
    """Whole words between spaces, whatever they are."""
    pieces = ["<pad>", "</s>", "<unk>", "a", "</s>b"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path / "words")
    return PretrainedTokenizer(str(tmp_path / "words"))


def test_bytes_have_the_ids_of_byt5():
    ours, theirs = ByteTokenizer(), ByT5Tokenizer()
    assert [[*ids, ours.end] for ids in ours.encode(TEXTS)] == theirs(TEXTS)["input_ids"]
    assert (ours.vocab_size, ours.pad, ours.end) == (len(theirs), theirs.pad_token_id, theirs.eos_token_id)
    sentinels = [ours.sentinel(i) for i in range(125)]
    assert sentinels == theirs.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(125)])
    assert max(sentinels) == ours.vocab_size - 1


@pytest.mark.parametrize("i", [-1, 125])
def test_there_are_125_sentinels_among_bytes(i):
    with pytest.raises(ValueError, match=f"no sentinel {i}: byte tokens have 125"):
        ByteTokenizer().sentinel(i)


def test_bytes_decode_up_to_the_end_without_special_tokens():
    tokens = ByteTokenizer()
    assert [tokens.decode(ids) for ids in tokens.encode(TEXTS)] == TEXTS
    assert tokens.decode([tokens.pad, 3 + ord("a"), tokens.sentinel(0), 3 + ord("b"), tokens.end, 3 + ord("c")]) == "ab"
    assert tokens.decode([3 + 0xC3, 3 + ord("a")]) == "a"  # half a character


def test_special_words_in_a_text_stay_text():
    assert ByteTokenizer().encode(["</s>"]) == [[3 + ord(character) for character in "</s>"]]


def test_saved_bytes_load_as_byt5(tmp_path):
    ByteTokenizer().save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == [[*ids, 1] for ids in ByteTokenizer().encode(TEXTS)]
    ours = PretrainedTokenizer(str(tmp_path))
    assert (ours.vocab_size, ours.pad, ours.end, ours.sentinel(7)) == (384, 0, 1, 266)
    assert ours.encode(TEXTS) == ByteTokenizer().encode(TEXTS)


def test_t5_encodes_without_its_end_and_decodes_to_the_text(t5):
    assert (t5.pad, t5.end, t5.vocab_size) == (0, 1, 3 + len(WORDS) + 100)
    (ids,) = t5.encode(["not_equivalent"])
    assert ids == [3 + WORDS.index(piece) for piece in ("▁not", "_", "equivalent")]
    assert t5.decode([t5.pad, *ids, t5.end, *ids]) == "not_equivalent"
    assert t5.decode([t5.sentinel(0), *ids]) == "not_equivalent"


def test_t5_counts_its_sentinels_from_the_end(t5):
    assert [t5.sentinel(i) for i in (0, 1, 99)] == [t5.vocab_size - 1, t5.vocab_size - 2, t5.vocab_size - 100]
    with pytest.raises(ValueError, match="no sentinel 100: the vocabulary has no <extra_id_100>"):
        t5.sentinel(100)


def test_sentinels_as_mt5_writes_them(tmp_path):
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    T5Tokenizer(
        vocab=[*special, ("▁", -1.0), ("▁<extra_id_1>", 0.0), ("▁<extra_id_0>", 0.0), ("▁the", -1.0)], extra_ids=0
    ).save_pretrained(tmp_path)
    assert [PretrainedTokenizer(str(tmp_path)).sentinel(i) for i in (0, 1)] == [5, 4]


def test_bert_starts_with_its_class_token_and_ends_with_its_separator(bert):
    assert (bert.pad, bert.end) == (0, 3)
    assert bert.encode(["a good film", "good"]) == [[2, 5, 6, 7], [2, 6]]
    assert bert.decode([2, 5, 6, 3, 7]) == "a good"
    with pytest.raises(ValueError, match="no sentinel 0"):
        bert.sentinel(0)


NAMES = ["</s>", "a</s>a", "<pad> <s>", "<unk>", "<extra_id_0>", "[SEP]", "a [MASK] a", "[UNK]", "<mask>", "</s>b"]


@pytest.mark.parametrize("kind", ["t5", "bert", "roberta", "words", "byt5"])
def test_names_of_special_tokens_in_a_text_are_text(kind, tmp_path, request):
    if kind == "byt5":
        ByteTokenizer().save(tmp_path / "byt5")
        tokenizer = PretrainedTokenizer(str(tmp_path / "byt5"))
    else:
        tokenizer = request.getfixturevalue(kind)
    theirs = tokenizer._tokenizer
    special = {token for token, entry in theirs.added_tokens_decoder.items() if entry.special} - {theirs.unk_token_id}
    (empty,) = tokenizer.encode([""])
    for text in NAMES:
        (ids,) = tokenizer.encode([text])
        inside = ids[len(empty) :]
        assert inside, text
        assert not special & set(inside), text


def test_names_of_special_tokens_have_the_ids_of_their_letters(t5, bert, roberta, words):
    def letters(text):
        return [3 + WORDS.index(piece) for piece in text]

    assert t5.encode(["a</s>", "<pad>"]) == [letters(["▁a", *"</s>"]), letters(["▁", *"<pad>"])]
    assert bert.encode(["[SEP]", "a [MASK]", "[UNK]"]) == [[2, 8, 10, 9], [2, 5, 8, 11, 9], [2, 8, 12, 9]]
    assert [roberta.decode(ids) for ids in roberta.encode(["a</s>", "<mask>"])] == ["a</s>", "<mask>"]
    assert words.encode(["a </s> </s>b"]) == [[3, 2, 4]]


def test_names_of_special_tokens_come_back_as_text(t5, roberta):
    for text in ("a</s>a", "<pad>", "<extra_id_0>"):
        assert roberta.decode([*roberta.encode([text])[0], roberta.end]) == text
    assert t5.decode([*t5.encode(["a</s> a"])[0], t5.end]) == "a</s> a"


def test_sentinels_of_mt5_in_a_text_are_text(tmp_path):
    pieces = ["▁", *"<>_extraid0", "▁<extra_id_0>"]
    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((piece, -1.0) for piece in pieces[:-1]),
        (pieces[-1], 0.0),
    ]
    T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(tmp_path)
    tokenizer = PretrainedTokenizer(str(tmp_path))
    (ids,) = tokenizer.encode(["<extra_id_0>"])
    assert tokenizer.sentinel(0) not in ids
    assert tokenizer.decode(ids) == "<extra_id_0>"


def test_tokens_cached_when_names_of_special_tokens_were_special_are_not_used(t5):
    theirs = t5._tokenizer
    written = f"{type(theirs).__name__} {t5.end} {theirs.backend_tokenizer.to_str()}"
    assert t5.fingerprint != hashlib.blake2b(written.encode(), digest_size=16).hexdigest()


def test_words_that_were_added_stay_whole(tmp_path):
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5}
    theirs = BertTokenizer(vocab=words)
    theirs.add_tokens(["covid-19"])
    theirs.save_pretrained(tmp_path)
    assert PretrainedTokenizer(str(tmp_path)).encode(["a covid-19"]) == [[2, 5, 6]]


@pytest.mark.parametrize("kind", ["bytes", "bert", "roberta", "t5"])
@pytest.mark.parametrize("texts", [1, 2])
def test_a_classifier_reads_what_the_tokenizer_itself_makes_of_texts(kind, texts, request):
    ours = ByteTokenizer() if kind == "bytes" else request.getfixturevalue(kind)
    theirs = ByT5Tokenizer() if kind == "bytes" else ours._tokenizer
    draw = random.Random(0)
    examples = [
        tuple(" ".join(draw.choices(["a", "good", "film", "not"], k=draw.randrange(9))) for _ in range(texts))
        for _ in range(100)
    ]
    columns = [list(column) for column in zip(*examples, strict=True)]
    for longest in (8, 11, 60):
        framed = ours.frame(examples, longest)
        expected = theirs(*columns, truncation=True, max_length=longest)
        assert [example.ids for example in framed] == expected["input_ids"]
        whole = theirs(*columns)["input_ids"]
        assert [example.is_cut for example in framed] == [len(ids) > longest for ids in whole]
        if kind == "bert":
            assert [example.types for example in framed] == expected["token_type_ids"]
        else:
            assert {example.types for example in framed} == {None}


def test_pairs_by_hand(bert, roberta):
    assert bert.frame([("a good film", "good")], 20) == [([2, 5, 6, 7, 3, 6, 3], [0, 0, 0, 0, 0, 1, 1], False)]
    assert bert.frame([("a good film", "good")], 6) == [([2, 5, 6, 3, 6, 3], [0, 0, 0, 0, 1, 1], True)]
    a, b = (roberta.encode([letter])[0][-1] for letter in "ab")
    assert roberta.frame([("a", "b")], 20) == [([0, a, 2, 2, b, 2], None, False)]
    assert ByteTokenizer().frame([("a", "b")], 20) == [([100, 1, 101, 1], None, False)]
    assert bert.frame([("a [SEP]", "a")], 20)[0].ids == [2, 5, 8, 10, 9, 3, 5, 3]
    assert bert.frame([], 20) == ByteTokenizer().frame([], 20) == []


def test_saving_a_pretrained_tokenizer_keeps_it(t5, tmp_path):
    t5.save(tmp_path / "copy")
    copy = PretrainedTokenizer(str(tmp_path / "copy"))
    assert copy.encode(["not_equivalent a"]) == t5.encode(["not_equivalent a"])
    assert copy.fingerprint == t5.fingerprint


def test_fingerprints_tell_tokenizers_apart(t5, bert):
    assert len({t5.fingerprint, bert.fingerprint, ByteTokenizer().fingerprint}) == 3


def test_a_name_that_is_not_on_this_machine_is_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.create_connection", lambda *arguments: pytest.fail("asked the hub"))
    with pytest.raises(OSError, match="find them in the cached files"):
        PretrainedTokenizer("somebody/tokenizer", local_files_only=True)
