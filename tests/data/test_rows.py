import json

import datasets
import pytest

from nmtrain.data.rows import FileRows
from nmtrain.data.splits import examples, find_split
from nmtrain.errors import DataError

# What readers that guess take for missing values, dates, numbers or truth values.
MEANT = ["null", "NA", "None", "n/a", "nan", "NaN", "-", "2019-01-01", "2019-01-01T10:00:00", "1e5", "007", "1", "True"]
MEANT += [" spaced ", 'quo"ted', "two\nlines", "comma, separated", "\u2028", "\ufeff", "</s>", "日本"]


def write_jsonl(folder, rows):
    (folder / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_json(folder, rows):
    (folder / "train.json").write_text(json.dumps(rows), "utf-8-sig")


def write_csv(folder, rows):
    datasets.Dataset.from_list(rows).to_csv(folder / "train.csv")


def write_parquet(folder, rows):
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")


def write_saved(folder, rows):
    datasets.Dataset.from_list(rows).save_to_disk(folder / "train")


WRITERS = [write_jsonl, write_json, write_csv, write_parquet, write_saved]


@pytest.fixture
def read(tmp_path):
    def values(*columns):
        split = find_split(tmp_path, "train")
        found = list(examples(split.read(str(tmp_path / "cache")), columns, "set"))
        assert split.count() == len(found)
        return found

    return values


@pytest.mark.parametrize("write", WRITERS)
def test_texts_stay_as_they_are_written(write, read, tmp_path):
    write(tmp_path, [{"text": text, "label": number % 2} for number, text in enumerate(MEANT)])
    assert read("label", "text") == [(number % 2, text) for number, text in enumerate(MEANT)]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("texts", [["2019-01-01", "2020-02-02"], ["1", "007"], ["true", "false"], ["NA", "NA"]])
def test_a_column_of_nothing_but_dates_or_numbers_is_text(write, texts, read, tmp_path):
    write(tmp_path, [{"text": text, "label": 0.5} for text in texts])
    assert read("text", "label") == [(text, 0.5) for text in texts]


def test_only_an_empty_field_of_csv_is_missing(read, tmp_path):
    (tmp_path / "train.csv").write_text('text,label\n,1\n"",\nnull,2.5\n NA ,one\n')
    assert read("text", "label") == [(None, 1), (None, None), ("null", 2.5), (" NA ", "one")]


def test_missing_values_of_json(read, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": null, "label": 1}\n\n{"label": "1"}\n{"text": "", "label": NaN}\n')
    found = read("text", "label")
    assert found[:2] == [(None, 1), (None, "1")]
    assert found[2][0] == ""
    assert found[2][1] != found[2][1]


def test_csv_with_quotes_line_breaks_blank_lines_and_a_byte_order_mark(read, tmp_path):
    content = '\ufefftext,label\r\n"a ""b"", c\r\nd",0\r\n\r\n5" screen,1\r\n'
    (tmp_path / "train.csv").write_bytes(content.encode())
    assert read("text", "label") == [('a "b", c\r\nd', 0), ('5" screen', 1)]


def test_several_files_are_read_in_order(read, tmp_path):
    (tmp_path / "train-0.csv").write_text("text,label\na,0\n")
    (tmp_path / "train-1.csv").write_text("label,text\n1,b\n")
    (tmp_path / "train-2.csv").write_text("")
    assert read("text", "label") == [("a", 0), ("b", 1)]


@pytest.mark.parametrize("write", [write_jsonl, write_json, write_csv, write_parquet, write_saved])
def test_chosen_examples(write, tmp_path):
    write(tmp_path, [{"text": str(number), "label": number} for number in range(10)])
    table = find_split(tmp_path, "train").read(str(tmp_path / "cache"))
    assert list(examples(table, ("text",), "set", [0, 3, 9])) == [("0",), ("3",), ("9",)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "text,label\na,0\nb\n", "line 3: has 1 fields, and the header 2"),
        ("train.csv", "text,label\na,0\nb,0,c\n", "line 3: has 3 fields, and the header 2"),
        ("train.csv", 'text,label\na,0\n"b,0\nc,1\n', "line 4: unexpected end of data"),
        ("train.jsonl", '{"text": "a"}\n\n{"text": }\n', r"line 3: Expecting value \(column 10\)"),
        ("train.jsonl", '{"text": "a"}\n"b"\n', "line 2: is no object"),
        ("train.json", '[{"text": "a"}, 3]', "item 2: is no object"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"^data\.path: .*{name} cannot be read: {message}$"):
        list(examples(find_split(tmp_path, "train").read(None), ("text",), "set"))


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl", "train.json"])
def test_files_that_are_no_utf_8_are_refused_when_counted(name, tmp_path):
    (tmp_path / name).write_bytes('[{"text": "Grö"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"^data\.path: .*{name} cannot be read: byte 13 \(0xf6\) is no UTF-8"):
        find_split(tmp_path, "train").count()


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("sentence,label,label\nhi,1,0\n")
    with pytest.raises(DataError, match=r"a\.csv cannot be read: the header has label more than once$"):
        list(FileRows("csv", (tmp_path / "a.csv",)))


def test_a_csv_field_may_be_a_long_document(tmp_path):
    (tmp_path / "a.csv").write_text(f"sentence,label\n{'x' * 200_000},1\n")
    ((row,)) = list(FileRows("csv", (tmp_path / "a.csv",)))
    assert len(row["sentence"]) == 200_000


def test_a_row_of_another_width_is_found_while_counting(tmp_path):
    (tmp_path / "train.csv").write_text("sentence,label\na,1\nb,0,0\n")
    with pytest.raises(ValueError, match=r"train\.csv cannot be read: line 3: has 3 fields, and the header 2$"):
        find_split(tmp_path, "train").count()
