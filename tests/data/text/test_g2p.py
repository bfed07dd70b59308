"""Words and their phonemes: which there are, which set they are in, and how predictions are scored."""

import pytest

from nmtrain.data import describe_data, headline, load_data
from nmtrain.data.shapes import TextShape
from nmtrain.data.text.g2p import CODES, edit_distance, score
from nmtrain.data.text.tokens import ByteTokenizer

TOKENS = ByteTokenizer()


def load(**options):
    return load_data("g2p", seed=0, tokenizer=TOKENS, **options)


def pairs(examples, count=None):
    numbers = range(count or len(examples.inputs))
    return [(TOKENS.decode(examples.inputs[i]), TOKENS.decode(examples.targets[i])) for i in numbers]


def test_the_shape_is_that_of_the_dictionary():
    """Counted apart: lines of letters alone, without the numbers of further pronunciations, and comments cut off."""
    expected = TextShape(train_size=103_493, val_size=2_000, input_length=30, target_length=30, labels=())
    assert describe_data("g2p") == expected
    assert describe_data("g2p", evaluate="test").val_size == 12_000
    assert describe_data("g2p", stress=True).target_length == 42
    assert headline("g2p") == "word_accuracy"


def test_a_phoneme_is_one_byte_and_no_two_are_the_same():
    assert len(CODES) == len(set(CODES.values())) == 39
    assert all(len(code.encode()) == 1 and not code.isdigit() for code in CODES.values())


@pytest.mark.slow
def test_every_word_is_in_one_set_and_the_sets_do_not_depend_on_the_seed():
    data, test = load(), load(evaluate="test")
    train = dict(pairs(data.train))
    val, held_out = dict(pairs(data.val_sets[""].examples)), dict(pairs(test.val_sets[""].examples))
    assert (len(train), len(val), len(held_out)) == (103_493, 2_000, 12_000)
    assert len({*train, *val, *held_out}) == 117_493
    assert list(val.items())[:3] == [("hop", "hap"), ("superiors", "supIriRz"), ("ramtek", "r@mtEk")]
    assert dict(pairs(test.train)) == train
    again = load_data("g2p", seed=7, tokenizer=TOKENS)
    assert dict(pairs(again.val_sets[""].examples)) == val
    assert data.cut == 0


def test_a_word_is_learnt_by_its_first_pronunciation_with_or_without_stress():
    words = dict(pairs(load(val_size=50_000, test_size=50_000).val_sets[""].examples))
    # aalborg AO1 L B AO2 R G # place, danish;  aalborg(2) AA1 L B AO0 R G
    stressed = dict(pairs(load(val_size=50_000, test_size=50_000, stress=True).val_sets[""].examples))
    assert words.keys() == stressed.keys()
    assert {word: "".join(c for c in said if not c.isdigit()) for word, said in stressed.items()} == words
    assert words["tomato"] == "tAmeto"
    assert stressed["tomato"] == "tA0me1to2"


def test_every_listed_pronunciation_is_right_and_the_nearest_one_counts_for_errors():
    right = [("tAmeto", "tAmato"), ("k@t",)]
    assert score(right, ["tAmato", "k@t"]) == {"word_accuracy": 1.0, "phoneme_error_rate": 0.0}
    # tAmatA is one replacement from the second; k@ lacks one of three: two errors over six and three phonemes.
    found = score(right, ["tAmatA", "k@"])
    assert found == {"word_accuracy": 0.0, "phoneme_error_rate": pytest.approx(2 / 9)}
    assert score(right, ["", " k@t "])["word_accuracy"] == 0.5
    # A stress that is wrong makes one phoneme wrong.
    assert score([("k@1t",)], ["k@0t"])["phoneme_error_rate"] == pytest.approx(1 / 3)


def test_edit_distance_by_hand():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("flaw", "lawn") == 2
    assert edit_distance("same", "same") == 0


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"data.stress: 'yes' is not allowed; allowed: true, false"):
        describe_data("g2p", stress="yes")
    with pytest.raises(ValueError, match=r"data.val_size: 0 is not allowed"):
        describe_data("g2p", val_size=0)
