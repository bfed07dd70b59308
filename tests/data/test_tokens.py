import pytest
from transformers import AutoTokenizer, BertTokenizer, ByT5Tokenizer, T5Tokenizer

from nmtrain.data.tokens import ByteTokenizer, PretrainedTokenizer

TEXTS = ["[MAX 2 9 [MIN 4 7 ] 0 ]", "", "naïve 日本 \n\t x", "Ünï"]
WORDS = ["not", "▁not", "▁", "_", "equivalent", "e", "q", "▁a"]


@pytest.fixture
def t5(tmp_path):
    """A tokenizer of T5's kind, with 100 sentinels and a handful of words."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    T5Tokenizer(vocab=[*special, *((word, -1.0) for word in WORDS), *sentinels]).save_pretrained(tmp_path / "t5")
    return PretrainedTokenizer(str(tmp_path / "t5"))


@pytest.fixture
def bert(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film"]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path / "bert")
    return PretrainedTokenizer(str(tmp_path / "bert"))


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
    assert (t5.pad, t5.end, t5.vocab_size) == (0, 1, 111)
    (ids,) = t5.encode(["not_equivalent"])
    assert ids == [3 + WORDS.index(piece) for piece in ("▁not", "_", "equivalent")]
    assert t5.decode([t5.pad, *ids, t5.end, *ids]) == "not_equivalent"
    assert t5.decode([t5.sentinel(0), *ids]) == "not_equivalent"


def test_t5_counts_its_sentinels_from_the_end(t5):
    assert [t5.sentinel(i) for i in (0, 1, 99)] == [110, 109, 11]
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
