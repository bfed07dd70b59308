"""Processes that read ahead leave alone what they were forked with."""

import gc
import os

from nmtrain.data.images.files.ahead import Ahead


class Left:
    """Garbage of the parent, such as a tensor on a GPU, whose end a fork must not bring about."""

    def __init__(self, told):
        self.me, self.told, self.of = self, told, os.getpid()

    def __del__(self):
        if os.getpid() != self.of:
            self.told.write_text("collected by a reader")


class Collecting:
    def __len__(self):
        return 4

    def __getitem__(self, key):
        gc.collect()
        return key


def test_a_reader_collects_no_garbage_of_its_parent(tmp_path):
    gc.collect()
    gc.disable()
    try:
        Left(tmp_path / "told")  # a cycle, which only a collection frees
        ahead = Ahead(Collecting(), list, workers=1, prefetch=1)
        batches = list(ahead.start([[0, 1], [2, 3]], batch_bytes=1, pin=False))
        ahead.close()
    finally:
        gc.enable()
    assert batches == [[0, 1], [2, 3]]
    assert not (tmp_path / "told").exists()
