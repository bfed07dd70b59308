"""Records go on behind a checkpoint's length, also where the file was damaged in between."""

import logging

import pytest

from nmtrain.runs.folder import Records, whole_record

LINES = b'{"update": 1}\n{"update": 2}\n{"update": 3}\n'


@pytest.fixture
def file(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINES)
    return path


def test_lines_behind_the_checkpoint_are_dropped_without_a_word(file, caplog):
    records = Records(file, 28)
    records.append({"update": 3})
    assert records.sync() == len(LINES)
    assert file.read_bytes() == LINES
    assert caplog.records == []


def test_a_damaged_line_stays_and_is_named(file, caplog):
    damaged = LINES.replace(b'{"update": 2}', b"\0" * 13)
    file.write_bytes(damaged)
    Records(file, len(LINES)).close()
    assert file.read_bytes() == damaged
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == f"{file}: line 2 is damaged; left out where records are shown, training goes on"


@pytest.mark.parametrize(("kept", "lines"), [(20, 3), (14, 3), (0, 2)])
def test_what_is_gone_is_one_blank_line_so_that_earlier_checkpoints_lengths_hold(kept, lines, file, caplog):
    file.write_bytes(LINES[:kept])
    records = Records(file, 28)
    records.append({"update": 3})
    assert records.sync() == len(LINES)
    found = file.read_bytes().splitlines()
    assert [whole_record(line) for line in found if whole_record(line)] == [{"update": 1}, {"update": 3}][-lines + 1 :]
    assert found[-1] == b'{"update": 3}'
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"the last {28 - kept} of 28 bytes are gone" in warning


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b"{}", b'{"update": null}', b"\xff\xfe", b"\0\0\0", b"   \n"])
def test_what_is_no_record_is_none(line):
    assert whole_record(line) is None
