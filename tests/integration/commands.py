"""Commands that tests of faults start, disturb and start again, and whether what they leave is what it should be."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path

import torch
from safetensors.torch import load_file

from nmtrain import cli

# A run of 150 short updates.
LINE = [
    "experiment=smoke",
    "sparsity=1:8",
    "train.batch_size=32",
    "model.options.depth=1",
    "model.options.embed_dim=64",
]
LINE += ["train.updates=150", "train.eval_every=0.6", "train.checkpoint_every=10", "train.log_every=1", "measure=off"]
_FORK = multiprocessing.get_context("fork")  # of this process, which has imported everything: a start takes no time


def start(arguments: list[str], out: Path, before: Callable[[], None] | None = None) -> ForkProcess:
    """Begin a command, in a session of its own; ``out`` gets what it shows.

    Args:
        before: what is done first in its process.
    """
    process = _FORK.Process(target=_command, args=([str(argument) for argument in arguments], out, before))
    process.start()
    return process


def _command(arguments: list[str], out: Path, before: Callable[[], None] | None) -> None:
    os.setsid()
    terminal = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    sys.stdout = sys.stderr = os.fdopen(terminal, "w", buffering=1)  # in place of what pytest has put there
    torch.set_num_threads(1)
    if before is not None:
        before()
    os._exit(cli._main(arguments))


def ended(process: ForkProcess, seconds: float = 300) -> int | None:
    """The exit status of a command, once it has ended; it is killed after ``seconds``, which is None."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def wait_for(condition: Callable[[], object], process: ForkProcess, out: Path, seconds: float = 300) -> None:
    """Until ``condition`` holds, which it must before the command ends."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), out.read_text()
        assert time.monotonic() < until, out.read_text()
        time.sleep(0.01)


def starts(folder: Path) -> list[dict]:
    return [json.loads(file.read_text() or "{}") for file in sorted(folder.glob("starts/*.json"))]


def updates(results: Path) -> int:
    """How many lines of records the runs of a folder have together, one for each update and evaluation."""
    return sum(file.read_bytes().count(b"\n") for file in results.glob("*/metrics.jsonl"))


def assert_equal(one: Path, other: Path) -> None:
    """Weights to the bit, and every line of the records: no update missing or done twice."""
    names = sorted(file.parent.name for file in one.glob("*/summary.json"))
    assert sorted(file.parent.name for file in other.glob("*/summary.json")) == names != []
    for name in names:
        assert_equal_weights(one / name, other / name)
        assert (one / name / "metrics.jsonl").read_text() == (other / name / "metrics.jsonl").read_text()


def assert_equal_weights(one: Path, other: Path) -> None:
    weights, again = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[tensor], again[tensor]) for tensor in weights)
