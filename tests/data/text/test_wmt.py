import json

import datasets
import pytest

from nmtrain.data import describe_data, headline, load_data
from nmtrain.data.shapes import TextShape
from nmtrain.data.text.tokens import ByteTokenizer
from nmtrain.data.text.wmt import _score
from nmtrain.errors import DataError

TOKENS = ByteTokenizer()
SIZES = {"train": 20, "validation": 7, "test": 3}


def pairs(split: str) -> list[dict[str, str]]:
    return [{"en": f"{split} {number}", "de": f"Satz {number} in {split}\x85 ü"} for number in range(SIZES[split])]


def write_plain(folder):
    for split in SIZES:
        for language in ("en", "de"):
            lines = "".join(pair[language] + "\n" for pair in pairs(split))
            (folder / f"{split}.{language}").write_text(lines, encoding="utf-8")


def write_parquet(folder):
    (folder / "de-en").mkdir()  # as in a copy of the hub's folder
    for split in SIZES:
        table = datasets.Dataset.from_dict({"translation": pairs(split)})
        table.to_parquet(folder / "de-en" / f"{split}-00000-of-00001.parquet")


def write_json(folder):
    for split in SIZES:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"translation": p}) + "\n" for p in pairs(split)))


def write_columns(folder):
    for split in SIZES:
        datasets.Dataset.from_list(pairs(split)).to_csv(folder / f"{split}.csv")


WRITERS = [write_plain, write_parquet, write_json, write_columns]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.fixture
def load(folder, tmp_path):
    options = {"path": str(folder), "cache_dir": str(tmp_path / "cache"), "seed": 0, "tokenizer": TOKENS}
    return lambda **changes: load_data("wmt", **(options | changes))


def texts(examples) -> list[tuple[str, str]]:
    count = len(examples.lengths)
    return [(TOKENS.decode(examples.inputs[i]), TOKENS.decode(examples.targets[i])) for i in range(count)]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_pairs(write, folder, load):
    write(folder)
    shape = TextShape(20, 7, input_length=128, target_length=128, labels=())
    assert describe_data("wmt", path=str(folder)) == shape
    data = load()
    assert data.shape == shape
    expected = [(f"translate English to German: {pair['en']}", pair["de"]) for pair in pairs("train")]
    assert texts(data.train) == expected
    assert data.val_sets[""].references == [pair["de"] for pair in pairs("validation")]
    assert data.train_batch(0, 4).classes is None
    assert data.cut == 0


@pytest.mark.parametrize("write", [write_plain, write_parquet])
def test_the_other_direction_and_the_test_set(write, folder, load):
    write(folder)
    data = load(pair="de-en", evaluate="test")
    assert texts(data.train)[3] == ("translate German to English: Satz 3 in train\x85 ü", "train 3")
    assert data.val_sets[""].references == ["test 0", "test 1", "test 2"]


@pytest.mark.parametrize("write", [write_plain, write_json])
def test_fewer_pairs_are_taken_at_equal_distances(write, folder, load):
    write(folder)
    data = load(train_size=5, val_size=2)
    assert [target for _, target in texts(data.train)] == [pairs("train")[index]["de"] for index in (0, 4, 8, 12, 16)]
    assert data.val_sets[""].references == [pairs("validation")[index]["de"] for index in (0, 3)]
    assert data.shape == describe_data("wmt", path=str(folder), train_size=5, val_size=2)


def test_both_sides_are_cut_and_tokens_cached(folder, load, tmp_path):
    write_plain(folder)
    data = load(input_length=36, target_length=20)
    assert data.cut == 27
    assert data.train.lengths.amax(dim=0).tolist() == [36, 20]
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 2
    assert data.val_sets[""].references[0] == pairs("validation")[0]["de"]  # scored against the whole


def test_changed_files_are_read_anew(folder, load):
    write_plain(folder)
    load()
    (folder / "train.de").write_text("neu\n" * 20)
    assert texts(load().train)[0][1] == "neu"


def test_only_line_feeds_end_a_line(folder, load):
    write_plain(folder)
    (folder / "train.de").write_bytes(b"ein\rWort\r\n" * 20)
    assert texts(load().train)[7] == ("translate English to German: train 7", "ein\rWort")


def test_a_byte_order_mark_is_no_text_and_other_line_ends_are(folder, load):
    write_plain(folder)
    (folder / "train.en").write_bytes(b"\xef\xbb\xbf" + "one\r\ntwo\u2028more\n\nfour".encode())
    (folder / "train.de").write_text("eins\nzwei\ndrei\nvier\n")
    assert [source.removeprefix("translate English to German: ") for source, _ in texts(load().train)] == [
        "one",
        "two\u2028more",
        "",
        "four",
    ]


@pytest.mark.parametrize(
    ("encoding", "message"), [("latin-1", r"byte 20002 \(0xf6\) is no UTF-8"), ("utf-16-le", "byte 1 is NUL")]
)
def test_other_encodings_are_refused_when_planning_with_file_and_byte(encoding, message, folder):
    write_plain(folder)
    (folder / "train.de").write_bytes(("ja\n" * 20_000)[:20_000].encode(encoding) + "Größe\n".encode(encoding))
    assert len(refusal(path=str(folder))) == 1
    with pytest.raises(ValueError, match=rf"^data\.path: .*train\.de cannot be read: {message}"):
        describe_data("wmt", path=str(folder))


def test_bleu_and_chrf_by_hand():
    # Of 5 words 4 are right, of 4 pairs 3, of 3 triples 2, of 2 fours 1: (4/5 * 3/4 * 2/3 * 1/2) ** (1/4)
    assert _score("de", ["a b c d f"], ["a b c d e"])["bleu"] == pytest.approx(100 * 0.2**0.25)
    # Of 3 characters 2 are right, of 2 pairs 1, the triple is wrong: precision and recall are (2/3 + 1/2 + 0) / 3.
    assert _score("de", ["abd"], ["abc"])["chrf"] == pytest.approx(100 * 7 / 18)
    assert _score("en", ["The cat sat on the mat."] * 2, ["The cat sat on the mat."] * 2) == pytest.approx(
        {"bleu": 100.0, "chrf": 100.0}
    )


def test_chinese_is_scored_by_character():
    assert _score("zh", ["我们喜欢学习语言"], ["我们喜欢学习语文"])["bleu"] > 50
    assert _score("de", ["我们喜欢学习语言"], ["我们喜欢学习语文"])["bleu"] == 0


def test_the_tokenisation_of_bleu_can_be_chosen_and_stands_in_its_signature(folder, load):
    write_plain(folder)
    # 13a leaves the dash in its word: 3 of 4 words, 2 of 3 pairs, 1 of 2 triples are right; no four is half a one.
    # To intl it is a word: 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, and of 3 fours half a one.
    given, wanted = ["a-b c d e"], ["a-x c d e"]
    assert _score("de", wanted, given)["bleu"] == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)
    intl = _score("de", wanted, given, "intl")
    assert intl["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)
    assert intl["chrf"] == _score("de", wanted, given)["chrf"]
    signatures = load().signatures
    assert signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert signatures["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert "|tok:intl|" in load(tokenize="intl").signatures["bleu"]
    assert refusal(tokenize="moses") == ["data.tokenize: 'moses' is not allowed; allowed: 13a, intl, char, zh, none"]


def test_val_set_scores_in_the_order_of_references(folder, load):
    write_plain(folder)
    data = load()
    assert headline("wmt") == data.headline == "bleu"
    val = data.val_sets[""]
    assert val.score(val.references)["bleu"] == pytest.approx(100)
    assert val.score(val.references[::-1])["bleu"] < 95


def test_sizes_of_the_hub_need_no_data():
    assert describe_data("wmt").train_size == describe_data("wmt", pair="de-en").train_size == 4508785
    assert describe_data("wmt", pair="ro-en", edition="wmt16", evaluate="test").val_size == 1999


def test_a_pair_without_a_text_is_named(folder, load):
    write_json(folder)
    (folder / "train.jsonl").write_text(json.dumps({"translation": {"en": "a", "de": None}}) + "\n")
    with pytest.raises(DataError, match=r"wmt/en-de \(train\): there is a pair without a text in 'de': 'a' \(ex.* 0\)"):
        load()
    (folder / "train.jsonl").write_text('{"translation": {"en": "a", "de": "b"}}\n{"translation": null}\n')
    with pytest.raises(DataError, match=r"without a text in 'en': None \(example 1\)"):
        load()
    (folder / "train.jsonl").write_text('{"translation": {"en": 3, "de": "b"}}\n')
    with pytest.raises(DataError, match=r"^wmt/en-de \(train\): example 0, 'en', is 3, which is no text"):
        load()


def test_only_an_empty_field_of_csv_is_a_missing_text(folder, load):
    write_columns(folder)
    rows = [("null", "NA"), ("None", "n/a"), ("2019-01-01", "nan"), ("007", "1e5")]
    (folder / "train.csv").write_text("en,de\n" + "".join(f"{en},{de}\n" for en, de in rows))
    assert texts(load().train) == [(f"translate English to German: {en}", de) for en, de in rows]
    (folder / "train.csv").write_text("en,de\n" + "a,b\n" * 6 + "c,\n")
    load(train_size=2)  # the first and the fourth
    with pytest.raises(DataError, match=r"there is a pair without a text in 'de': 'c' \(example 6\)"):
        load()


def refusal(**options) -> list[str]:
    with pytest.raises(ValueError, match=r"^data\.") as raised:
        describe_data("wmt", **options)
    return str(raised.value).splitlines()


@pytest.mark.parametrize("pair", ["en", "en-en", "en-xx", "ende", 3, "en-de-fr"])
def test_a_pair_is_two_known_languages(pair):
    assert refusal(pair=pair)[0].startswith(
        f"data.pair: {pair!r} is not allowed; allowed: SOURCE-TARGET, such as en-de"
    )


def test_bad_options_are_refused_with_what_is_allowed(folder):
    assert refusal(pair="ro-en") == [
        "data.pair: 'ro-en' is not allowed; allowed: of wmt14, either way: cs-en, de-en, fr-en, hi-en, ru-en; "
        "others need data.path"
    ]
    assert refusal(path="/no/where") == ["data.path=/no/where: there is no such folder"]
    assert refusal(path=str(folder), edition="wmt16") == ["data.edition=wmt16: has no effect with data.path"]
    assert refusal(path=str(folder))[0].endswith("and a folder train; or train.en and train.de")
    (folder / "train.en").touch()
    (folder / "train.de").touch()
    (folder / "validation.en").touch()
    (folder / "validation.de").touch()
    assert refusal(path=str(folder)) == [f"data.path: there is no line in {folder}/train.en"]
    write_plain(folder)
    assert refusal(path=str(folder), train_size=21, val_size=8) == [
        "data.train_size: 21 is not allowed; allowed: at most 20, as many as there are, or null for all",
        "data.val_size: 8 is not allowed; allowed: at most 7, as many as there are, or null for all",
    ]
    with open(folder / "train.de", "a") as file:
        file.write("one more\n")
    assert refusal(path=str(folder)) == [f"data.path: {folder}/train.en has 20 lines and {folder}/train.de has 21"]
