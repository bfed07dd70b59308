import logging

import pytest
import torch

from nmtrain.data.cache import cached, default_cache_folder

CONTENT = {"size": 3}
TENSORS = {"images": torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2), "labels": torch.tensor([4, 5, 6])}


def never():
    raise AssertionError("made anew although it is in the cache")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_second_call_reads_what_the_first_made(tmp_path, caplog):
    assert same(cached(lambda: TENSORS, "data", CONTENT, tmp_path / "new"), TENSORS)
    assert same(cached(never, "data", CONTENT, tmp_path / "new"), TENSORS)
    assert len(list((tmp_path / "new").iterdir())) == 1  # and no temporary file
    assert not caplog.records


def test_other_content_has_another_file(tmp_path):
    cached(lambda: TENSORS, "data", CONTENT, tmp_path)
    other = {"images": torch.zeros(1)}
    assert same(cached(lambda: other, "data", {"size": 4}, tmp_path), other)
    assert same(cached(never, "data", CONTENT, tmp_path), TENSORS)


def truncated(file: bytes) -> bytes:
    return file[:-3]


def one_bit_changed(file: bytes) -> bytes:
    return file[:-1] + bytes([file[-1] ^ 1])


def foreign(file: bytes) -> bytes:
    return b"not a safetensors file"


@pytest.mark.parametrize("damage", [truncated, one_bit_changed, foreign])
def test_a_damaged_file_is_made_anew_with_a_warning(tmp_path, caplog, damage):
    cached(lambda: TENSORS, "data", CONTENT, tmp_path)
    (file,) = tmp_path.iterdir()
    intact = file.read_bytes()
    file.write_bytes(damage(intact))
    with caplog.at_level(logging.WARNING):
        assert same(cached(lambda: TENSORS, "data", CONTENT, tmp_path), TENSORS)
    assert len(caplog.records) == 1
    assert "making its content anew" in caplog.text
    assert file.read_bytes() == intact


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert same(cached(lambda: TENSORS, "data", CONTENT, tmp_path / "file" / "folder"), TENSORS)
    assert "going on without" in caplog.text


def test_default_folder_follows_the_xdg_rule(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "nmtrain"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "nmtrain"
