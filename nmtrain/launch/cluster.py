"""Where a sweep's runs are trained: what `cluster=` says, as settings of one of Hydra's launchers."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

from nmtrain.config.schema import ClusterConfig, LocalCluster, SlurmCluster, SubmititCluster
from nmtrain.errors import ConfigError

_LAUNCHER = "hydra/launcher"


def launcher_overrides(cluster: ClusterConfig, given: list[str], results: Path) -> list[str]:
    """What Hydra is told beside ``given``, the overrides of a sweep that are its own.

    Raises:
        ConfigError: where two launchers are named, or this machine has none of that name.
    """
    if cluster.name == "none":
        return []
    if named := [override for override in given if override.lstrip("+").startswith((_LAUNCHER, "hydra.launcher"))]:
        raise ConfigError([f"cluster={cluster.name}: {named[0]} names a launcher too; leave one of them out"])
    if isinstance(cluster, LocalCluster):
        return [f"{_LAUNCHER}=joblib", f"hydra.launcher.n_jobs={at_once(cluster)}"]
    if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        raise ConfigError([f"cluster={cluster.name}: needs submitit; pip install 'nmtrain[slurm]'"])
    options: dict[str, Any] = {"submitit_folder": f"{results}/.sweeps/submitit/%j", "name": "nmtrain"}
    if isinstance(cluster, SubmititCluster):
        return _settings("submitit_local", options | {"timeout_min": cluster.time})
    if shutil.which("sbatch") is None:
        raise ConfigError(["cluster=slurm: there is no sbatch on this machine; allowed: none, local, submitit_local"])
    return _settings("submitit_slurm", options | _of_slurm(cluster))


def _of_slurm(cluster: SlurmCluster) -> dict[str, Any]:
    options = {
        "partition": cluster.partition,
        "account": cluster.account,
        "timeout_min": cluster.time,
        "signal_delay_s": min(120, 15 * cluster.time),  # a quarter of the time at most
        "nodes": cluster.nodes if cluster.nodes > 1 else None,
        "gpus_per_node": cluster.gpus,
        "cpus_per_task": cluster.cpus,
        "mem_gb": cluster.memory,
        "constraint": cluster.constraint,
        "array_parallelism": cluster.jobs,
        "max_num_timeout": cluster.requeues,
        "additional_parameters": cluster.options,
        "setup": cluster.setup,
    }
    return {key: value for key, value in options.items() if value not in (None, {}, [])}


def _settings(launcher: str, options: dict[str, Any]) -> list[str]:
    return [f"{_LAUNCHER}={launcher}", *(f"++hydra.launcher.{key}={_written(value)}" for key, value in options.items())]


def _written(value: Any) -> str:
    """As Hydra reads it: strings in quotes, in which neither a quote nor an interpolation begins anything."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace('"', '\\"').replace("${", "\\${") + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def at_once(cluster: ClusterConfig) -> int:
    """How many runs are trained at a time on this machine."""
    if not isinstance(cluster, LocalCluster):
        return 1
    return cluster.jobs or len(_gpus()) * cluster.per_gpu or 2


def take_share(sharing: int, turn: int) -> None:
    """In a process that trains some of a local sweep's runs: its share of the cores, and its GPU by turns.

    Args:
        sharing: how many runs are trained at a time.
        turn: of the run that the process begins with.
    """
    import torch

    from nmtrain.data.images.files.ahead import cores

    torch.set_num_threads(max(1, cores() // sharing))
    if (gpus := _gpus()) and not torch.cuda.is_initialized():  # then it has its GPU already
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[turn % len(gpus)]


def _gpus() -> list[str]:
    """Those that CUDA_VISIBLE_DEVICES leaves, as it names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(number) for number in range(count)]
