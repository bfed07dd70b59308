"""Finding run folders and reading one (architecture.md, "run folder")."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import yaml

from nmtrain.errors import ReportError
from nmtrain.report.read.evaluation import read_evaluation
from nmtrain.report.read.records import Metrics, Noise, read_metrics, read_noise
from nmtrain.sparsity.pattern import NMPattern

SCHEMA = 1
# By these a run folder is known, so that one which lost a file, or never got it, is listed and not overlooked.
_OWN_FILE = "status.json"
_RUN_FILES = {"config.yaml", "summary.json", "metrics.jsonl"}  # two of them will do
_TOP_LEVEL_KEY = re.compile(rb"^(?=\w)", re.MULTILINE)
_AT_ONCE = 32  # folders
_NAMED = 5  # folders that a message names before it counts the rest

# libyaml reads a config ten times faster than the pure Python loader.
_YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONFIG_REQUIRED = ("model.name", "data.name", "recipe.name", "sparsity", "mask.roles", "seed")
# What a finished run's summary.json must hold for its numbers to stand in a table.
_SUMMARY_REQUIRED = (
    "run",
    "model",
    "data",
    "sparsity",
    "recipe.name",
    "recipe.variant",
    "recipe.gradient",
    "roles",
    "seed",
    "updates",
    "epochs",
    "metrics",
    "flops.training",
    "flops.training_dense",
    "flops.inference",
    "flops.inference_dense",
    "bytes.dense",
    "bytes.sparse",
    "density",
    "seconds.total",
    "seconds.train",
    "seconds.eval",
    "seconds.data",
)
_NUMBERS = ("updates", "epochs", "density", "flops.", "bytes.", "seconds.")


@dataclass(frozen=True)
class RunFolder:
    """What one run left. ``status`` is the run's own, or ``unreadable``; ``reason`` says why it is not finished.

    ``test`` is what the test split came to, where that was evaluated after training, and ``test_fault`` why what is
    there cannot be used. ``afterwards``: everything else is as that evaluation left it, see `by_split`.
    """

    path: Path
    status: str
    reason: str | None
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    metrics: Metrics | None = None
    noise: Noise | None = None
    test: dict[str, Any] | None = None
    test_fault: str | None = None
    afterwards: bool = False


class HasPath(Protocol):
    """Whatever stands for a run's folder."""

    @property
    def path(self) -> Path: ...


def find_run_folders(folders: Iterable[Path]) -> list[Path]:
    """All run folders in ``folders`` and below, linked ones too, each once, sorted by path.

    Raises:
        ReportError: if a folder does not exist or cannot be listed, or none holds a run.
    """
    folders = list(folders)
    found = search_run_folders(folders)
    if not found:
        searched = ", ".join(map(str, folders)) or "nothing"
        raise ReportError(f"no run folder found: searched {searched} for folders with config.yaml and status.json")
    return found


def search_run_folders(folders: Sequence[Path]) -> list[Path]:
    """As `find_run_folders`, but there may be none."""
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise ReportError(f"no such folder: {', '.join(missing)}")
    found, seen = set(), set()
    for folder in folders:
        for path, below, files in os.walk(folder, followlinks=True, onerror=_refuse):
            real = Path(path).resolve()
            if _OWN_FILE in files or len(_RUN_FILES.intersection(files)) > 1:
                found.add(real)
                below.clear()
            elif real in seen:  # a link led back
                below.clear()
            seen.add(real)
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise ReportError(f"{error.filename}: cannot be listed ({error.strerror}), and runs in it would be missing")


def read_runs(folders: Iterable[Path], pool: Executor | None = None) -> list[RunFolder]:
    """Read every run under ``folders``, ordered by path; processes of ``pool`` help as far as they are up by then.

    Raises:
        ReportError: as `find_run_folders`; and if a summary.json has another schema than this version reads.
    """
    paths = find_run_folders(folders)
    parts = [paths[first : first + _AT_ONCE] for first in range(0, len(paths), _AT_ONCE)]
    # This process reads from the front; the pool is given the parts from the back on, and what it has not begun when
    # this process gets there is taken from it again.
    helped = [pool.submit(_read_part, part) for part in reversed(parts[1:])][::-1] if pool else []
    runs = _read_part(parts[0])
    for part, future in zip_longest(parts[1:], helped):
        runs += _read_part(part) if future is None or future.cancel() else future.result()
    _check_schemas(runs)
    return runs


def _read_part(paths: list[Path]) -> list[RunFolder]:
    return [read_run(path) for path in paths]


def read_run(path: Path) -> RunFolder:
    """Read one run folder. What cannot be read makes the run ``unreadable`` and is named in its reason."""
    status, reason = "unreadable", None
    file = path
    try:
        file = path / "status.json"
        written = _read_json(file)
        status, reason = written["state"], written.get("reason")
        file = path / "config.yaml"
        config = _read_config(file)
        _require(config, _CONFIG_REQUIRED)
        if type(config["seed"]) is not int:
            raise ValueError(f"seed = {config['seed']}: must be an integer")
        target = None if config["recipe"]["name"] == "dense" else str(NMPattern.parse(config["sparsity"]))
        for pattern in (config["mask"].get("patterns") or {}).values():
            NMPattern.parse(pattern)
        file = path / "environment.json"
        environment = _read_json(file) if file.exists() else {}
        file = path / "summary.json"
        summary = _read_summary(file) if status == "finished" else None
        file = path / "metrics.jsonl"
        metrics = read_metrics(file, target) if file.exists() else None
        file = path / "noise.jsonl"
        noise = read_noise(file) if file.exists() else None
    except OSError as error:
        return RunFolder(path, "unreadable", f"{file.name}: {error.strerror}")
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        return RunFolder(path, "unreadable", f"{file.name}: {_one_line(error)}")
    test, test_fault = None, None
    if summary is not None and config["data"].get("evaluate", "val") == "val":
        try:
            test = read_evaluation(path, config, summary)
        except ValueError as error:
            test_fault = _one_line(error)
    return RunFolder(path, status, reason, config, environment, summary, metrics, noise, test, test_fault)


def _read_config(file: Path) -> Any:
    """What a config.yaml says. What it holds is shared with other runs' configs: not to be written to."""
    content = file.read_bytes()
    try:
        sections = [_parse_section(section) for section in _TOP_LEVEL_KEY.split(content) if section]
        return {key: value for section in sections for key, value in section.items()}
    except (yaml.YAMLError, AttributeError):  # in another layout than runs write: read as a whole
        return yaml.load(content, Loader=_YamlLoader)


@lru_cache(maxsize=1024)
def _parse_section(section: bytes) -> Any:
    """A top-level key and its value. Runs of a sweep have most of them in common: each is parsed once."""
    return yaml.load(section, Loader=_YamlLoader)


def _read_json(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    return content


def _read_summary(file: Path) -> dict[str, Any]:
    summary = _read_json(file)
    if summary.get("schema") == SCHEMA:  # other schemas are refused for all runs together
        _require(summary, _SUMMARY_REQUIRED)
        for key in _SUMMARY_REQUIRED:
            if key.startswith(_NUMBERS):
                _require_number(summary, key)
        if summary["updates"] < 1:
            raise ValueError(f"updates = {summary['updates']}: must be at least 1")
    return summary


def _require_number(mapping: Any, key: str) -> None:
    value = lookup(mapping, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} = {json.dumps(value)}: must be a number")


def _require(mapping: Any, keys: Iterable[str]) -> None:
    missing = [key for key in keys if not _holds(mapping, key)]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")


def _holds(mapping: Any, dotted: str) -> bool:
    try:
        lookup(mapping, dotted)
    except (KeyError, TypeError):
        return False
    return True


def lookup(mapping: Mapping[str, Any], dotted: str) -> Any:
    """``lookup(summary, "flops.training")``. Raises KeyError or TypeError where there is no such value."""
    value: Any = mapping
    for key in dotted.split("."):
        value = value[key]
    return value


def common_folder(runs: Sequence[HasPath]) -> Path:
    """The deepest folder that holds all runs: reports name runs relative to it, never by a machine's own paths."""
    return Path(os.path.commonpath([run.path.parent for run in runs]))


def _check_schemas(runs: Sequence[RunFolder]) -> None:
    folders, base = defaultdict(list), common_folder(runs)
    for run in runs:
        if run.summary is not None:
            folders[run.summary.get("schema")].append(run.path.relative_to(base).as_posix())
    if set(folders) <= {SCHEMA}:
        return
    seen = "; ".join(f"schema {schema}: {name_some(names)}" for schema, names in sorted(folders.items(), key=str))
    raise ReportError(
        f"summary.json: this version of nmtrain reads schema {SCHEMA} only, but found {seen}. "
        "Leave those folders out, or report on them with the version that wrote them."
    )


def name_some(names: Sequence[str]) -> str:
    """The names, or the first few and how many more there are."""
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def _one_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"lacks {error.args[0]!r}"
    return " ".join(str(error).split())
