"""Shared by all tests: one torch thread per worker, no network, small configs to run, and the command line."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"

# A run of a second: 12 updates of a one-layer ViT on scanned digits.
TINY = [
    "experiment=smoke",
    "sparsity=1:8",
    "train.updates=12",
    "train.batch_size=32",
    "train.log_every=5",
    "train.eval_every=0.1",
    "model.options.depth=1",
    "model.options.embed_dim=64",
]


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Command-line overrides of a run of a second, in a results folder of its own."""
    return [*TINY, f"results_dir={tmp_path}/runs"]


@pytest.fixture
def make_config(tiny: list[str]) -> Callable:
    """A checked tiny config with further overrides, as the command line would give it."""

    def make(*overrides: str):
        from nmtrain.compose import compose_values, prepare_overrides
        from nmtrain.config import check_config

        return check_config(compose_values(prepare_overrides([*tiny, *overrides])))

    return make


@pytest.fixture
def _handlers_as_before():
    """The terminal handlers of a command, ours and Hydra's, belong to its test's captured output."""
    loggers = [logging.getLogger("nmtrain"), logging.getLogger()]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers


@pytest.fixture
def nm(capsys, tmp_path, monkeypatch, _handlers_as_before):
    """Run a command in an empty folder of its own: ``status, stdout, stderr``."""
    from nmtrain import cli

    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["nmtrain"])

    def command(*arguments):
        try:
            status = cli._main(list(arguments))
        except SystemExit as end:  # Hydra's own commands
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return command


@pytest.fixture
def refused(nm):
    """The message of a command that must be refused, before anything is read or written."""

    def message(*arguments):
        status, out, err = nm(*arguments)
        assert status == 2, (out, err)
        assert out == ""
        assert err.endswith("\n")
        assert list(Path.cwd().iterdir()) == []
        return err.removesuffix("\n")

    return message
