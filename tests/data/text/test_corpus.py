import pytest
import torch

from nmtrain.data import describe_data, headline, load_data
from nmtrain.data.shapes import TextShape
from nmtrain.data.text.tokens import ByteTokenizer

TOKENS = ByteTokenizer()
LINES = "".join(f"{number} bottles of beer on the wall, " for number in range(400))


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus" / "more").mkdir(parents=True)
    (tmp_path / "corpus" / "b.txt").write_text("Käse" * 100)
    (tmp_path / "corpus" / "more" / "a.txt").write_text(LINES)
    (tmp_path / "corpus" / "notes.md").write_text("no part of the text")
    return tmp_path / "corpus"


@pytest.fixture
def load(corpus, tmp_path):
    options = {"path": str(corpus), "cache_dir": str(tmp_path / "cache"), "window": 64, "seed": 0}
    return lambda **changes: load_data("text", tokenizer=TOKENS, **(options | changes))


def window(inputs: list[int], targets: list[int]) -> str:
    gaps = {token: "" for token in targets if token >= TOKENS.sentinel(0)}
    for token in targets:
        if token in gaps:
            last = token
        elif token != TOKENS.end:
            gaps[last] += chr(token - 3)
    return bytes(ord(c) for c in "".join(gaps.get(token, chr(token - 3)) for token in inputs if token != 1)).decode()


def windows(examples, chosen) -> list[str]:
    pairs = examples.corrupted(chosen, 0)
    return [window(pairs.inputs[row], pairs.targets[row]) for row in range(len(chosen))]


def test_windows_are_the_text_of_all_files_in_order(load):
    data = load(test_fraction=0)
    whole = ("Käse" * 100 + "\n" + LINES).encode()
    count = len(whole) // 64
    val = data.val_sets[""].examples
    held_out = [window(val.inputs[i], val.targets[i]) for i in range(len(val.inputs))]
    train = windows(data.train, torch.arange(data.shape.train_size))
    expected = [whole[index * 64 : (index + 1) * 64].decode(errors="ignore") for index in range(count)]
    assert sorted(train + held_out) == sorted(expected)
    positions = [expected.index(text) for text in held_out if "bottles" in text]
    assert len(held_out) == data.shape.val_size == 11
    assert set(torch.tensor(positions).diff().tolist()) <= {19, 20}


def held_out(data) -> list[str]:
    examples = data.val_sets[""].examples
    return [window(examples.inputs[i], examples.targets[i]) for i in range(len(examples.inputs))]


def test_test_windows_are_held_out_of_training_and_leave_validation_as_it_was(load, corpus):
    before, data, test = load(test_fraction=0), load(), load(evaluate="test")
    assert held_out(before) == held_out(data)
    assert test.shape == describe_data("text", path=str(corpus), window=64, evaluate="test")
    assert data.shape.val_size == test.shape.val_size == len(held_out(test)) == 11
    assert data.shape.train_size == test.shape.train_size == before.shape.train_size - 11
    everything = [windows(one.train, torch.arange(one.shape.train_size)) for one in (before, data, test)]
    assert everything[1] == everything[2]
    assert sorted(everything[1] + held_out(test)) == sorted(everything[0])
    places = torch.tensor([everything[0].index(text) for text in held_out(test) if "bottles" in text])
    assert set(places.diff().tolist()) <= {18, 19, 20}
    assert torch.equal(data.train_batch(0, 16).input_ids, test.train_batch(0, 16).input_ids)


def test_a_text_of_before_there_was_a_test_split_comes_from_its_cache(load, tmp_path):
    load(test_fraction=0)
    before = set((tmp_path / "cache").glob("*.arrow"))
    assert len(before) == 3  # train, val, and val with its gaps
    load()
    assert len(set((tmp_path / "cache").glob("*.arrow")) - before) == 1  # train alone
    load(evaluate="test")
    assert len(set((tmp_path / "cache").glob("*.arrow")) - before) == 3


def test_a_short_text_has_windows_for_training_and_validation_before_any_for_test(load, corpus):
    (corpus / "b.txt").write_text("Wein" * 10)
    shape = describe_data("text", path=str(corpus / "b.txt"), window=20)
    assert (shape.train_size, shape.val_size) == (1, 1)
    assert refusal(path=str(corpus / "b.txt"), window=20, evaluate="test") == (
        "data.evaluate: 'test' is not allowed: none of the 2 windows is held out for test with data.test_fraction=0.05"
    )
    assert refusal(path=str(corpus / "b.txt"), window=20, test_fraction=0.5) == (
        "data.test_fraction: 0.5 is not allowed; allowed: what leaves some of the 2 windows for training, beside 1 for"
        " validation"
    )


def test_sizes_are_known_from_the_files_sizes(load, corpus):
    size = (corpus / "b.txt").stat().st_size + 1 + len(LINES)
    # 64 bytes: 10 are taken out (9.6), in 3 spans.
    shape = TextShape(size // 64 - 22, 11, input_length=64 - 10 + 3 + 1, target_length=10 + 3 + 1, labels=())
    assert describe_data("text", path=str(corpus), window=64) == shape
    data = load()
    assert data.shape == shape
    assert data.cut == 0
    assert len(data.train.lengths) == shape.train_size
    assert data.train.lengths[:, 0].max() == shape.input_length
    assert data.train.lengths[:, 1].max() == shape.target_length


def test_lengths_agree_with_batches(load):
    data = load()
    for update in range(40):
        batch, lengths = data.train_batch(update, 8), data.train_lengths(update, 8)
        assert torch.equal(lengths[:, 0], batch.attention_mask.sum(dim=1))
        assert torch.equal(lengths[:, 1], (batch.labels != -100).sum(dim=1))


def test_gaps_are_new_in_each_epoch_and_the_same_when_asked_again(load):
    data, again = load(window=32, val_fraction=0.5), load(window=32, val_fraction=0.5)
    updates = data.updates_per_epoch(data.shape.train_size)
    assert updates == 1
    first, second = (data.train_batch(update, data.shape.train_size) for update in (0, 1))
    assert torch.equal(first.input_ids, again.train_batch(0, data.shape.train_size).input_ids)
    rows = {tuple(row) for row in first.input_ids.tolist()}
    assert len(rows & {tuple(row) for row in second.input_ids.tolist()}) < 0.2 * len(rows)
    other = load(window=32, val_fraction=0.5, seed=1).train_batch(0, data.shape.train_size)
    assert not torch.equal(first.input_ids, other.input_ids)


def test_validation_gaps_are_the_same_for_every_seed_and_batch_size(load):
    one, other = load(seed=0).val_sets[""], load(seed=1).val_sets[""]
    assert torch.equal(one.lengths, other.lengths)
    ids = [
        [[token for token in row if token] for batch in val.batches(size) for row in batch.input_ids.tolist()]
        for val, size in ((one, 4), (other, 3), (one, 11))
    ]
    assert ids[0] == ids[1] == ids[2]
    assert one.score([""] * len(one)) == {}


def test_the_built_in_sample_is_english():
    data = load_data("text", seed=0, tokenizer=TOKENS, cache_dir="/dev/null/none")
    shape = describe_data("text")
    assert data.shape == shape
    assert shape.train_size > 1000
    text = "".join(windows(data.train, torch.arange(200)))
    assert text.count(" the ") > 200
    assert headline("text") == "perplexity"


def test_a_single_file_and_the_cache(load, corpus, tmp_path):
    fresh, cached = load(path=str(corpus / "b.txt"), window=20), load(path=str(corpus / "b.txt"), window=20)
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 3
    assert torch.equal(fresh.train_batch(0, 8).input_ids, cached.train_batch(0, 8).input_ids)
    (corpus / "b.txt").write_text("Wein" * 125)
    other = load(path=str(corpus / "b.txt"), window=20)
    assert set("".join(windows(other.train, torch.arange(10)))) == set("Wein")


def test_a_byte_order_mark_is_no_text(load, corpus, tmp_path):
    size = describe_data("text", path=str(corpus), window=64)
    before = load().train_batch(0, 8)
    for name in ("b.txt", "more/a.txt"):
        (corpus / name).write_bytes(b"\xef\xbb\xbf" + (corpus / name).read_bytes())
    assert describe_data("text", path=str(corpus), window=64) == size
    after = load(cache_dir=str(tmp_path / "other"))
    assert after.shape == size
    assert torch.equal(after.train_batch(0, 8).input_ids, before.input_ids)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("latin-1", r"byte 401 \(0xe4\) is no UTF-8"), ("utf-16", r"byte 0 \(0xff\)"), ("utf-16-le", "byte 1 is NUL")],
)
def test_text_in_other_encodings_is_refused_when_planning_with_file_and_byte(encoding, message, corpus):
    (corpus / "b.txt").write_bytes(("Wein" * 100 + "Käse").encode(encoding))
    with pytest.raises(ValueError, match=rf"^data\.path: .*b\.txt cannot be read: {message}"):
        describe_data("text", path=str(corpus), window=64)


def test_characters_that_the_edge_of_a_window_cuts_are_no_fault(load, corpus):
    (corpus / "b.txt").write_text("ä" * 400)
    for path in (corpus / "more").iterdir():
        path.unlink()
    data = load(window=33, val_fraction=0.1)
    assert set("".join(windows(data.train, torch.arange(data.shape.train_size)))) == {"ä"}


def refusal(**options) -> str:
    with pytest.raises(ValueError, match=r"^data\.") as raised:
        describe_data("text", **options)
    return str(raised.value)


def test_bad_options_are_refused_with_what_is_allowed(tmp_path):
    assert refusal(path="/no/where") == "data.path=/no/where: there is no such file or folder"
    assert refusal(path=str(tmp_path)) == f"data.path={tmp_path}: there is no .txt file in this folder"
    (tmp_path / "a.txt").write_text("short")
    assert "the text is too short for two windows of data.window=256 bytes" in refusal(path=str(tmp_path))
    assert refusal(val_fraction=1.0).startswith("data.val_fraction: 1.0 is not allowed; allowed: what leaves some of")
    assert refusal(mean_span=0.5) == "data.mean_span: 0.5 is not allowed; allowed: numbers from 1 to 100"
    assert "has 150 gaps; T5 has sentinel tokens for 100" in refusal(window=3000)
    both = refusal(window=8, noise_density=-1).splitlines()
    assert [line.split(":")[0] for line in both] == ["data.window", "data.noise_density"]
