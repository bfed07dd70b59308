"""Shared by all tests: one torch thread per worker, no network, and small configs to run."""

import os
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
