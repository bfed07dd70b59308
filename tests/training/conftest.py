"""Shared by tests of training: the resume of a run from each of some updates."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def assert_resumes(tmp_path) -> Callable:
    """Train a config (with ``train.checkpoint_every=1``), and again from its state after each of ``updates``.

    Returns the summary; the folder is that of the last resume. Weights and all records must be the same.
    """

    def content(folder):
        records = [(folder / name).read_text() for name in ("metrics.jsonl", "noise.jsonl")]
        return load_file(folder / "model.safetensors"), records

    def check(config, updates):
        from nmtrain.training.run import run

        config = replace(config, train=config.train.model_copy(update={"keep": 1000, "keep_after": True}))
        summary = run(config)
        folder, reference = config.run_folder, tmp_path / "reference"
        shutil.move(folder, reference)
        weights, records = content(reference)
        for update in updates:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(reference, folder)  # later lines are there, later files not, as a kill leaves it
            for path in (folder / "checkpoints").iterdir():
                if int(path.name.split("-")[0]) > update:
                    path.unlink()
            for name in ("summary.json", "model.safetensors"):
                (folder / name).unlink()
            (folder / "status.json").write_text(json.dumps({"state": "running", "reason": None}))
            run(config)
            again, lines = content(folder)
            assert again.keys() == weights.keys()
            assert all(torch.equal(weights[name], again[name]) for name in weights)
            assert lines == records
        return summary

    return check
