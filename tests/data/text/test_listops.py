import hashlib
import statistics

import pytest
import torch

from nmtrain.data import describe_data, headline, load_data
from nmtrain.data.shapes import TextShape
from nmtrain.data.text.listops import ListOps, _count
from nmtrain.data.text.tokens import ByteTokenizer

SMALL = {"train_size": 3000, "val_size": 200, "test_size": 100}
TOKENS = ByteTokenizer()
FUNCTIONS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda digits: int(statistics.median(digits)),
    "[SM": lambda digits: sum(digits) % 10,
}


def evaluate(text: str) -> int:
    """The value, by a stack machine that reads from left to right and knows nothing of trees."""
    stack: list[list] = [[]]
    for word in text.split():
        if word == "]":
            name, *digits = stack.pop()
            stack[-1].append(FUNCTIONS[name](digits))
        elif word in FUNCTIONS:
            stack.append([word])
        else:
            assert len(word) == 1
            stack[-1].append(int(word))
    ((value,),) = stack
    return value


def depth(text: str) -> int:
    return max(text[:end].count("[") - text[:end].count("]") for end in range(len(text) + 1))


@pytest.fixture
def load(tmp_path):
    options = SMALL | {"cache_dir": str(tmp_path), "tokenizer": TOKENS, "seed": 0}
    return lambda **changes: load_data("listops", **(options | changes))


def pairs(examples) -> list[tuple[str, str]]:
    inputs, targets = examples.inputs, examples.targets
    return [(TOKENS.decode(inputs[i]), TOKENS.decode(targets[i])) for i in range(len(inputs))]


def val_pairs(data) -> list[tuple[str, str]]:
    return pairs(data.val_sets[""].examples)


def test_the_evaluator_of_these_tests_is_right():
    assert evaluate("[MAX 2 9 [MIN 4 7 ] 0 ]") == 9
    assert evaluate("[SM 8 [MED 1 9 3 ] ]") == 1
    assert evaluate("[MED 1 4 9 2 ]") == 3
    assert evaluate("[MED 1 2 ]") == 1


@pytest.mark.parametrize("options", [{}, {"max_length": 120, "max_depth": 10, "max_arguments": 10}])
def test_every_target_is_the_value_of_its_input(load, options):
    data = load(**options)
    examples = pairs(data.train) + val_pairs(data)
    assert len(examples) == 3200
    for text, target in examples:
        assert target == str(evaluate(text)), text
    assert {name for text, _ in examples for name in text.split() if name.startswith("[")} == set(FUNCTIONS)


@pytest.mark.parametrize(
    "changes", [{}, {"max_length": 30}, {"max_depth": 1, "max_arguments": 8}, {"max_arguments": 2}]
)
def test_expressions_keep_to_the_limits_and_reach_them(load, changes):
    options = ListOps(**(SMALL | changes))
    texts = [text for text, _ in pairs(load(**changes).train)]
    assert max(depth(text) for text in texts) == options.max_depth
    assert max(len(text) for text in texts) <= options.max_length
    words = [text.replace("]", "").split("[") for text in texts]
    assert all(len(text) > len("[SM 0 0") for text in texts)
    flat = [len(part.split()) - 1 for text in words if len(text) == 2 for part in text[1:]]
    assert min(flat) == 2
    assert max(flat) == options.max_arguments


def test_no_expression_occurs_twice_in_any_set(load):
    val, test = load(), load(evaluate="test")
    texts = [text for text, _ in pairs(val.train) + val_pairs(val) + val_pairs(test)]
    assert len(set(texts)) == len(texts) == 3300
    assert pairs(val.train) == pairs(test.train)


def test_no_answer_is_frequent(load):
    shares = load().train.classes.bincount(minlength=10) / 3000
    assert shares.max() < 0.13
    assert shares.min() > 0.07


def test_classes_index_the_labels(load):
    data = load()
    assert [data.shape.labels[index] for index in data.train.classes] == [target for _, target in pairs(data.train)]
    assert data.val_sets[""].references == [target for _, target in val_pairs(data)]


def test_expressions_are_the_same_everywhere(load):
    text = "\n".join(text for text, _ in pairs(load(cache_dir="/dev/null/none").train)[:500])
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == "f912aac182b361ec"


def test_the_run_seed_changes_the_order_only(load):
    one, other = load(seed=0), load(seed=1)
    assert pairs(one.train) == pairs(other.train)
    assert not torch.equal(one.train_batch(0, 50).classes, other.train_batch(0, 50).classes)


def test_cached_data_equals_fresh_data_and_evaluate_shares_the_file(load, tmp_path):
    fresh, cached = load(), load()
    assert pairs(fresh.train) == pairs(cached.train)
    load(evaluate="test")
    assert len(list(tmp_path.iterdir())) == 1
    load(generation_seed=1)
    assert len(list(tmp_path.iterdir())) == 2


def test_changed_generator_misses_the_cache(load, tmp_path, monkeypatch):
    load()
    monkeypatch.setattr("nmtrain.data.text.listops._NESTED", 0.1)
    load()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_larger_training_set_leaves_the_others_as_they_are(load):
    small, large = load(train_size=100), load(train_size=200)
    assert pairs(small.train) == pairs(large.train)[:100]
    assert val_pairs(small) == val_pairs(large)


def test_shape_follows_the_options_and_nothing_is_cut(load):
    shape = describe_data("listops", evaluate="test", max_length=30, **SMALL)
    assert shape == TextShape(3000, 100, input_length=32, target_length=3, labels=tuple("0123456789"))
    data = load(max_length=30, evaluate="test")
    assert data.shape == shape
    assert data.cut == 0
    assert len(data.val_sets[""]) == 100
    assert headline("listops") == data.headline == "accuracy"


def test_expressions_are_counted_right():
    assert _count(24, 1, 2) == 4 * 100
    assert _count(24, 1, 3) == 4 * 1100
    # Two levels take 19 bytes, one less for each SM: 7 of 16 pairs of operations fit into 18. Either argument may be
    # the nested one of 100, the other is one of ten digits.
    assert _count(18, 2, 2) == 400 + 7 * 2 * 100 * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "data.train_size: 0 is not allowed; allowed: whole numbers from 1 to 2000000"),
        ({"evaluate": "train"}, "data.evaluate: 'train' is not allowed; allowed: val, test"),
        ({"max_length": 23}, "data.max_length: 23 is not allowed; allowed: whole numbers from 24 to 2000"),
        ({"max_depth": 2.0}, "data.max_depth: 2.0 is not allowed; allowed: whole numbers from 1 to 20"),
        ({"max_arguments": 1}, "data.max_arguments: 1 is not allowed; allowed: whole numbers from 2 to 20"),
        (
            {"max_depth": 1, "max_arguments": 3},
            "data.train_size: 96000 is not allowed; allowed: at most 440 with val_size and test_size, "
            "a tenth of the 4400 expressions of max_length, max_depth and max_arguments",
        ),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=r"^data\.") as refusal:
        describe_data("listops", **options)
    assert str(refusal.value) == message


def test_text_needs_a_tokenizer_and_images_take_none():
    with pytest.raises(ValueError, match="data=listops is text, which needs a tokenizer"):
        load_data("listops", seed=0)
    with pytest.raises(ValueError, match="data=digits has no text for a tokenizer"):
        load_data("digits", seed=0, tokenizer=TOKENS)
