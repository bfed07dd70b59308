"""Checkpoints that are written while training goes on."""

import threading
from collections import OrderedDict

import pytest
import torch
from torch import nn

from nmtrain.training import checkpoint
from nmtrain.training.checkpoint import CheckpointWriter, load_checkpoint


@pytest.fixture
def slow(monkeypatch):
    """Let a save wait until the test says so; the updates whose save has begun."""
    go, begun, save = threading.Event(), [], checkpoint.save_checkpoint

    def waiting(folder, update, content, keep):
        begun.append(update)
        assert go.wait(60)
        return save(folder, update, content, keep)

    monkeypatch.setattr(checkpoint, "save_checkpoint", waiting)
    return go, begun


def test_what_is_saved_is_what_was_there_when_saving_began(tmp_path, slow):
    weight, moments = torch.ones(3), [torch.ones(2)]
    content = {"model": OrderedDict(weight=weight), "moments": moments, "done": 4}
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.begin(4, content)
    weight.zero_()
    moments[0].zero_()
    moments.append(torch.zeros(1))
    content["done"] = 5
    slow[0].set()
    writer.finish()
    loaded = load_checkpoint(tmp_path)
    assert loaded["done"] == 4
    assert loaded["model"]["weight"].tolist() == [1, 1, 1]
    assert [one.tolist() for one in loaded["moments"]] == [[1, 1]]


def test_a_state_dict_keeps_what_it_says_of_versions(tmp_path):
    model = nn.BatchNorm1d(2)
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.begin(1, {"model": model.state_dict()})
    writer.finish()
    assert load_checkpoint(tmp_path)["model"]._metadata == model.state_dict()._metadata


def test_one_is_whole_before_the_next_begins(tmp_path, slow):
    go, begun = slow
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.begin(1, {"done": 1})
    second = threading.Thread(target=writer.begin, args=(2, {"done": 2}))
    second.start()
    second.join(0.3)
    assert (second.is_alive(), begun) == (True, [1])
    go.set()
    second.join(60)
    writer.finish()
    assert begun == [1, 2]
    assert load_checkpoint(tmp_path)["done"] == 2


def test_an_error_is_raised_once_by_the_next_call(tmp_path):
    writer = CheckpointWriter(tmp_path / "missing", keep=1)
    writer.begin(1, {"done": 1})
    with pytest.raises(FileNotFoundError):
        writer.begin(2, {"done": 2})
    writer.finish()
    (tmp_path / "missing").mkdir()
    writer.begin(3, {"done": 3})
    writer.finish()
    assert load_checkpoint(tmp_path / "missing")["done"] == 3
