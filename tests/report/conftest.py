"""Synthetic run folders: written here as a training run leaves them, with numbers chosen by the tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nmtrain.report import write_report
from nmtrain.report.compare.quality import quality_table
from nmtrain.report.compare.sections import Section, build_sections
from nmtrain.report.compare.table import Cell
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames

GRADIENT = {"static": "masked", "mdgf": "masked"}
VARIANT = {"mdgf": "mdgf_exponential", "sdgf": "sdgf_stepwise"}

CONFIG: dict[str, Any] = {
    "model": {"name": "vit", "roles": ["ff"], "options": {}},
    "data": {"name": "glyphs", "cache_dir": None},
    "mask": {"axis": "input", "roles": ["ff"], "patterns": {}, "names": [], "indivisible": "error"},
    "optim": {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.999]},
    "train": {"epochs": 3.0, "updates": None, "batch_size": 64, "log_every": 20},
    "results_dir": "results/runs",
}


def write_run(
    root: Path,
    recipe: str = "sr_ste",
    sparsity: str = "1:4",
    seed: int = 0,
    accuracy: float | None = 0.7,
    *,
    variant: str | None = None,
    gradient: str | None = None,
    options: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    name: str | None = None,
    status: str = "finished",
    reason: str | None = None,
    training_flops: float = 6e9,
    inference_flops: float = 2e6,
    size: float = 3e4,
    updates: int = 300,
    curve: Iterable[tuple[int, float]] = (),
    strict_from: int = 0,
    noise: Iterable[dict[str, Any]] = (),
    commit: str = "0123456789abcdef",
    schema: int = 1,
    metrics_tail: str = "",
    headline: str = "accuracy",
    summary: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
) -> Path:
    """Write one run folder and return it.

    ``accuracy`` is the final value of ``headline``, whatever that is; a summary names it only if ``summary`` does.
    ``curve``: (update, validation value) along the run; FLOPs grow evenly up to ``training_flops`` at ``updates``.
    ``config``: dotted keys to change in `CONFIG`. ``summary``, ``environment``: top-level keys to change in
    summary.json and environment.json.
    """
    dense = recipe == "dense"
    variant = variant or VARIANT.get(recipe, recipe)
    name = name or f"{variant}-{'dense' if dense else sparsity.replace(':', 'of')}-s{seed}"
    folder = root / name
    folder.mkdir(parents=True)
    rule = gradient or GRADIENT.get(recipe, "straight_through")
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(recipe, sparsity, seed, options, config)))
    _write(folder / "status.json", {"state": status, "reason": reason})
    trained_by = {"versions": {"nmtrain": "0.1.0"}, "device": "cpu", "git_commit": commit}
    _write(folder / "environment.json", trained_by | (environment or {}))
    lines = [
        _train_line(update, updates, training_flops, sparsity, dense, strict_from) for update in range(0, updates, 20)
    ]
    lines += [_val_line(update, "val", headline, value, training_flops * update / updates) for update, value in curve]
    if status == "finished":
        lines.append(_val_line(updates, "final", headline, accuracy, training_flops))
        _write(
            folder / "summary.json",
            {
                "schema": schema,
                "run": name,
                "model": "vit",
                "data": "glyphs",
                "sparsity": None if dense else sparsity,
                "recipe": {"name": recipe, "variant": variant, "gradient": rule},
                "roles": ["ff"],
                "seed": seed,
                "updates": updates,
                "epochs": 3.0,
                "metrics": {"val/accuracy": accuracy, "val/loss": 1.0},
                "flops": {
                    "training": training_flops,
                    "training_dense": 1e10,
                    "inference": inference_flops,
                    "inference_dense": 4e6,
                },
                "bytes": {"dense": 1e5, "sparse": 1e5 if dense else size},
                "density": 1.0 if dense else 0.25,
                "seconds": {"total": 12.0, "train": 10.0, "eval": 1.0, "data": 1.0},
                "peak_memory_bytes": 5e8,
                "status": "finished",
            }
            | (summary or {}),
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + metrics_tail)
    if noise:
        (folder / "noise.jsonl").write_text("".join(json.dumps(line) + "\n" for line in noise))
    return folder


def _config(recipe: str, sparsity: str, seed: int, options: Any, changes: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    config |= {"sparsity": sparsity, "seed": seed, "recipe": {"name": recipe} | (options or {})}
    for dotted, value in (changes or {}).items():
        *path, key = dotted.split(".")
        section = config
        for part in path:
            section = section[part]
        section[key] = value
    return config


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _train_line(
    update: int, updates: int, flops: float, sparsity: str, dense: bool, strict_from: int
) -> dict[str, Any]:
    strict = update >= strict_from
    return {
        "update": update, "epoch": 3 * update / updates, "split": "train", "loss": 1.0, "learning_rate": 1e-3,
        "grad_norm": 0.5, "pattern": None if dense else sparsity, "decay": 0.0 if strict else 0.5,
        "flops": flops * update / updates,
    }  # fmt: skip


def _val_line(update: int, split: str, headline: str, value: float | None, flops: float) -> dict[str, Any]:
    return {"update": update, "epoch": 1.0, "split": split, "loss": 1.0, headline: value, "flops": flops}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` below the test's own ``runs`` folder."""

    def write(*args: Any, **kwargs: Any) -> Path:
        return write_run(tmp_path / "runs", *args, **kwargs)

    return write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder that `run` writes into."""
    return tmp_path / "runs"


@pytest.fixture
def sections(runs: Path) -> Callable[[], list[Section]]:
    """Read what `run` has written so far."""
    return lambda: build_sections(build_frames(read_runs([runs])))


@pytest.fixture
def table(sections: Callable[[], list[Section]]) -> Callable[[], dict[tuple[str, str], Cell]]:
    """The accuracy table of the only group, by (pattern, column)."""

    def build() -> dict[tuple[str, str], Cell]:
        ((group,),) = (section.groups for section in sections())
        accuracy = quality_table(group, "title")
        return {
            (row[0].text, name): cell for row in accuracy.rows for name, cell in zip(accuracy.head, row, strict=True)
        }

    return build


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep with everything in it: dense, three recipes, two patterns, seeds, noise, uncounted runs."""
    root = tmp_path_factory.mktemp("sweep")
    for place, (recipe, flops) in enumerate([("dense", 1e10), ("sr_ste", 5e9), ("mdgf", 9e9), ("sdgf", 6e9)]):
        for pattern in ["1:8"] if recipe == "dense" else ["1:4", "1:8"]:
            for seed in range(3):
                accuracy = 0.9 - 0.02 * place + 0.003 * seed
                write_run(
                    root, recipe, pattern, seed, accuracy, training_flops=flops, curve=_curve(accuracy),
                    inference_flops={"dense": 4e6}.get(recipe, 2e6 if pattern == "1:4" else 1e6),
                    noise=_noise(recipe, pattern), strict_from=270 if recipe == "mdgf" else 0,
                )  # fmt: skip
    log = root / "ste-1of8-s0" / "train.log"
    write_run(root, "ste", "1:8", 0, status="failed", reason=f"loss is NaN at update 40 (see {log})")
    write_run(root, "ste", "1:8", 1, status="running", metrics_tail='{"update": 300, "ep')
    return root


def _curve(accuracy: float) -> list[tuple[int, float]]:
    return [(update, accuracy * update / 300) for update in (100, 200, 300)]


def _noise(recipe: str, pattern: str) -> list[dict[str, Any]]:
    """Ten measurements of one tensor and of the average; SDGF changes its pattern at update 150."""
    lines = []
    for update in range(0, 300, 30):
        force = None if recipe == "dense" else "4:8" if recipe == "sdgf" and update < 150 else pattern
        metrics = {
            f"{metric}{part}": 1e-6 / (1 + update)
            for metric in ("grad_noise", "second_moment_var")
            for part in ("", "/kept", "/pruned")
        }
        decay = 1 - update / 300 if recipe == "mdgf" else 0.0
        line = {"update": update, "tensor": "mean", "pattern": force, "decay": decay, "flip_rate": 1e-2, "sad": 30}
        lines += [line | metrics | {"tensor": "blocks.0.mlp.fc1.weight"}, line | metrics]
    return lines


@pytest.fixture(scope="session")
def report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on `sweep`."""
    out = tmp_path_factory.mktemp("report")
    write_report([sweep], out)
    return out
