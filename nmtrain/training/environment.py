"""What a run's numbers may depend on beside its config: versions, the device, variables of the environment."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nmtrain.errors import ConfigError
from nmtrain.runs.loaded import LOADED
from nmtrain.runs.sweeps import code_digest

logger = logging.getLogger(__name__)

# Faults of earlier versions that change results and that this one has mended: reports mark the runs that lack them.
FIXES = ["penalty-once", "needed-gradients", "junk-answers"]

_PACKAGES = (
    "nmtrain",
    "torch",
    "torchvision",
    "timm",
    "hydra-core",
    "omegaconf",
    "numpy",
    "transformers",
    "tokenizers",
    "datasets",
    "sacrebleu",
)
# By these transformers, which knows Accelerate, loads weights for another engine than ours.
_OF_ACCELERATE = ("ACCELERATE_*", "FSDP_*", "PARALLELISM_CONFIG_*")
# By these torch, its libraries of kernels, timm and transformers choose another precision, kernel or module.
_CHANGING = (
    *("ATEN_CPU_CAPABILITY", "PYTORCH_SUM_INNER_TREE", "TORCH_LINEAR_FLATTEN_3D", "TORCH_MKLDNN_*"),
    *("MKL_CBWR", "MKL_DISABLE_FAST_MM", "MKL_ENABLE_INSTRUCTIONS", "DNNL_*", "ONEDNN_*"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "TORCH_BLAS_PREFER_*"),
    *("TORCH_CUDNN_*", "TORCH_LINALG_PREFER_*", "PYTORCH_TUNABLEOP_*", "PYTORCH_MIOPEN_*", "TORCH_ROCM_*"),
    *("FLASH_ATTENTION_DETERMINISTIC", "USE_TORCH_XLA", "XLA_*"),
    *("TIMM_*", "TRANSFORMERS_SDPA_*", "TRANSFORMERS_DISABLE_DEEPGEMM_LINEAR", "USE_HUB_KERNELS"),
)
_CHANGING_COMPILED = ("TORCH_COMPILE*", "TORCHDYNAMO_*", "TORCHINDUCTOR_*")
_HARMLESS = ("*_VERBOSE*", "*_LOG*", "*_DEBUG*", "*_CACHE*", "TIMM_DATASET_*")


def describe_environment(device: torch.device, compiled: bool) -> dict[str, Any]:
    """The content of environment.json.

    Args:
        compiled: whether the run uses torch.compile, whose variables then count.
    """
    return {
        "versions": package_versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "variables": _set(*_CHANGING, *(_CHANGING_COMPILED if compiled else ())),
        "git_commit": _git_commit(),
        "code": code_digest(),
        "plugins": [plugin.record() for plugin in LOADED],
        "fixes": FIXES,
        "command": sys.argv[1:],
    }


def _git_commit() -> str | None:
    """Of our source; None where that is no working tree of git, or there is no git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


def require_device(device: str) -> None:
    """Raise ConfigError for ``train.device=cuda`` where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["train.device=cuda: torch finds no CUDA device here; allowed: auto, cpu"])


def package_versions() -> dict[str, str]:
    """Of Python and of the packages that a number may depend on."""
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


def environments_before(last: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """What trained the run before this resume, oldest first: each time that code, device or variables were others."""
    before: list[dict[str, Any]] = last.pop("before", [])
    same = all(last.get(key) == now[key] for key in ("versions", "git_commit", "fixes", "device"))
    if same and last.get("variables", {}) == now["variables"] and _hashes(last) == _hashes(now):
        return before
    logger.warning(
        "resuming with other code, plug-ins or library versions than before, another device or other variables;"
        " environment.json keeps both"
    )
    return [*before, last]


def _hashes(environment: dict[str, Any]) -> dict[str, str]:
    """What the plug-ins were, wherever they lay."""
    return {plugin["name"]: plugin["hash"] for plugin in environment.get("plugins", ())}


def warn_of_variables(environment: dict[str, Any]) -> None:
    """One line for what is set outside the config and may change results."""
    if environment["variables"]:
        listed = ", ".join(f"{name}={value}" for name, value in environment["variables"].items())
        logger.warning("set in the environment, and may change results: %s (environment.json keeps it)", listed)


@contextmanager
def without_accelerate_variables() -> Iterator[None]:
    """Inside, no variable of Accelerate is seen, and one line names them."""
    hidden = _set(*_OF_ACCELERATE)
    if hidden:
        logger.warning("ignored, since a run depends on its config alone: %s", ", ".join(hidden))
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _set(*patterns: str) -> dict[str, str]:
    """The variables that are set and match a pattern, by name."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and not any(fnmatchcase(name, pattern) for pattern in _HARMLESS)
    }


def _processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
