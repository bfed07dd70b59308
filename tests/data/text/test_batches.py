import logging

import pytest
import torch

from nmtrain.data.shapes import TextShape
from nmtrain.data.text.batches import TextData, ValSet, encode_pairs, exact_match
from nmtrain.data.text.tokens import ByteTokenizer
from nmtrain.errors import DataError

TRAIN, VAL, BATCH = 1000, 37, 8
TOKENS = ByteTokenizer()


def texts(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Inputs of 1 to 60 characters that begin with their number, and targets that repeat it."""
    lengths = torch.randint(60, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [f"{index} ".ljust(length, "x") for index, length in enumerate(lengths)], [str(i) for i in range(count)]


def make_data(seed: int = 0, input_length: int = 61) -> TextData:
    shape = TextShape(TRAIN, VAL, input_length, target_length=5, labels=tuple(str(index) for index in range(TRAIN)))
    train, cut = encode_pairs(*texts(TRAIN, 1), TOKENS, shape, torch.arange(TRAIN))
    targets = texts(VAL, 2)[1]
    val, more = encode_pairs(*texts(VAL, 2), TOKENS, shape, torch.arange(VAL))
    return TextData(
        name="numbers",
        shape=shape,
        headline="accuracy",
        tokenizer=TOKENS,
        train=train,
        val_sets={"": ValSet(val, targets, exact_match(targets))},
        seed=seed,
        cut=cut + more,
    )


def same(one, other) -> bool:
    parts = ("input_ids", "attention_mask", "labels", "classes")
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in parts)


def test_a_batch_holds_the_texts_with_end_tokens_and_padding():
    data = make_data()
    batch = data.train_batch(3, BATCH)
    inputs, targets = texts(TRAIN, 1)
    for ids, mask, labels, index in zip(
        batch.input_ids.tolist(), batch.attention_mask.tolist(), batch.labels.tolist(), batch.classes, strict=True
    ):
        tokens = [*TOKENS.encode([inputs[index]])[0], TOKENS.end]
        assert ids == tokens + [TOKENS.pad] * (len(ids) - len(tokens))
        assert mask == [1] * len(tokens) + [0] * (len(ids) - len(tokens))
        tokens = [*TOKENS.encode([targets[index]])[0], TOKENS.end]
        assert labels == tokens + [-100] * (len(labels) - len(tokens))
    assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.labels.dtype == torch.int64


def test_lengths_agree_with_batches_and_widths_are_the_next_multiples():
    data = make_data()
    for update in range(0, 250, 7):
        batch, lengths = data.train_batch(update, BATCH), data.train_lengths(update, BATCH)
        assert torch.equal(lengths[:, 0], batch.attention_mask.sum(dim=1))
        assert torch.equal(lengths[:, 1], (batch.labels != -100).sum(dim=1))
        assert batch.input_ids.shape[1] == -(-int(lengths[:, 0].max()) // 8) * 8
        assert batch.labels.shape[1] == -(-int(lengths[:, 1].max()) // 4) * 4


def test_a_batch_does_not_depend_on_what_was_called_before():
    used, fresh = make_data(), make_data()
    for update in (0, 7, 6, 300, 7):  # 125 updates to the epoch
        used.train_batch(update, BATCH)
        used.train_batch(update, 5)
        used.train_lengths(update + 200, BATCH)
        next(used.val_sets[""].batches(4))
        torch.rand(3)
        assert same(used.train_batch(update, BATCH), fresh.train_batch(update, BATCH))
        assert same(used.train_batch(update, BATCH), make_data().train_batch(update, BATCH))


def test_the_global_random_state_is_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make_data().train_batch(3, BATCH)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_random_about_a_batch_depends_on_seed_and_update():
    drawn = []
    for seed in (0, 1, 0):
        data = make_data(seed=seed)
        data.train.batch = lambda chosen, draw: drawn.append(draw)
        for update in (0, 1, 125):  # the last has the place of the first, in the next epoch
            data.train_batch(update, BATCH)
    assert len(set(drawn)) == 6
    assert drawn[:3] == drawn[6:]


def test_each_epoch_takes_every_example_once_in_its_own_order():
    data, other = make_data(), make_data(seed=1)
    assert data.updates_per_epoch(10) == 100
    epochs = [torch.cat([data.train_batch(100 * e + i, 10).classes for i in range(100)]) for e in range(2)]
    for order in epochs:
        assert order.sort().values.tolist() == list(range(TRAIN))
    assert not torch.equal(*epochs)
    assert not torch.equal(epochs[0], torch.cat([other.train_batch(i, 10).classes for i in range(100)]))


def test_the_last_partial_batch_of_an_epoch_is_dropped():
    data = make_data()
    assert data.updates_per_epoch(300) == 3
    taken = torch.cat([data.train_batch(update, 300).classes for update in range(3)])
    assert len(taken.unique()) == 900


def test_examples_of_a_batch_are_about_equally_long_but_batches_come_in_random_order():
    data = make_data()
    lengths = torch.stack([data.train_lengths(update, BATCH)[:, 0] for update in range(125)]).double()
    assert lengths.std(dim=1).mean() < 0.1 * lengths.flatten().std()
    means = lengths.mean(dim=1)
    assert torch.corrcoef(torch.stack([means, torch.arange(125.0).double()]))[0, 1].abs() < 0.3


def test_validation_has_every_example_once_and_short_ones_first():
    val = make_data().val_sets[""]
    batches = list(val.batches(10))
    assert [len(batch.input_ids) for batch in batches] == [10, 10, 10, 7]
    assert torch.cat([batch.classes for batch in batches]).tolist() == val.order.tolist()
    assert sorted(val.order.tolist()) == list(range(VAL))
    widths = [batch.input_ids.shape[1] for batch in batches]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    counted = torch.cat([batch.attention_mask.sum(dim=1) for batch in batches])
    assert torch.equal(counted, val.lengths[val.order, 0])


def test_predictions_in_the_order_of_batches_can_be_put_back():
    val = make_data().val_sets[""]
    found = [TOKENS.decode(row) for batch in val.batches(10) for row in batch.labels.clamp(min=0).tolist()]
    predictions = [""] * VAL
    for index, prediction in zip(val.order.tolist(), found, strict=True):
        predictions[index] = prediction
    assert predictions == val.references
    assert val.score(predictions) == {"accuracy": 1.0}


def test_accuracy_is_the_share_of_exact_matches():
    val = make_data().val_sets[""]
    predictions = [" 0 ", "1", "2x", ""] + ["no"] * (VAL - 4)
    assert val.score(predictions) == {"accuracy": pytest.approx(2 / 37)}
    with pytest.raises(ValueError, match="2 predictions for 37 references"):
        val.score(["0", "1"])


def test_long_examples_are_cut_counted_and_told(caplog):
    inputs = texts(TRAIN, 1)[0] + texts(VAL, 2)[0]
    expected = sum(len(text) + 1 > 30 for text in inputs)
    with caplog.at_level(logging.WARNING):
        data = make_data(input_length=30)
    assert data.cut == expected > 0
    assert len(caplog.records) == 1
    assert f"{expected} of {TRAIN + VAL} examples were longer than 30 (input) tokens" in caplog.text
    assert data.train.lengths[:, 0].max() == 30
    assert all(data.train.inputs[index][-1] == TOKENS.end for index in range(TRAIN))


def test_what_just_fits_is_not_cut():
    shape = TextShape(1, 1, input_length=4, target_length=3, labels=())
    pairs, cut = encode_pairs(["abc"], ["de"], TOKENS, shape)
    assert cut == 0
    assert TOKENS.decode(pairs.inputs[0]) == "abc"
    assert encode_pairs(["abcd"], ["de"], TOKENS, shape)[1] == 1
    assert encode_pairs(["abcd"], ["def"], TOKENS, shape)[1] == 1  # a pair counts once


def test_sizes_other_than_planned_are_refused():
    data = make_data()
    with pytest.raises(DataError, match="read 1000 training and 0 validation examples, not 1000 and 37"):
        TextData(
            name="numbers",
            shape=data.shape,
            headline="accuracy",
            tokenizer=TOKENS,
            train=data.train,
            val_sets={},
            seed=0,
            cut=0,
        )


@pytest.mark.parametrize("batch_size", [0, TRAIN + 1])
def test_a_batch_size_that_cannot_be_filled_is_refused(batch_size):
    with pytest.raises(ValueError, match=rf"batch size {batch_size}: numbers allows 1 to 1000"):
        make_data().train_batch(0, batch_size)


def test_moving_a_batch_keeps_free_text_without_classes():
    shape = TextShape(1, 1, input_length=8, target_length=8, labels=())
    batch = encode_pairs(["a"], ["b"], TOKENS, shape)[0].batch(torch.tensor([0])).to("cpu")
    assert batch.classes is None
    assert batch.labels.tolist() == [[3 + ord("b"), TOKENS.end, -100, -100]]
