"""Several processes that do one command together: found by what a launcher such as torchrun says, or started here."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtrain import errors
from nmtrain.config.check import Config
from nmtrain.errors import ConfigError, NmtrainError, Stopped, TrainingError
from nmtrain.launch.plugins import plugin_folders
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.starts import clock_of, is_alive, start_files
from nmtrain.training.distribution.place import Place, whole_number

if TYPE_CHECKING:
    from nmtrain.training.distribution.ranks import Ranks

_NODES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)  # passed on to the ranks
JOB, OUTCOME = "job.json", "outcome.json"  # of a folder that the processes started here share with who started them


def together(place: Place, work: Callable[[Ranks], None], tell: Callable[[NmtrainError], None]) -> None:
    """Do ``work`` as one of several ranks.

    What ends it ends all of them: the first rank tells it, and each ends with its exit status.
    """
    from nmtrain.training.distribution.ranks import joined

    try:
        with joined(place, tell) as ranks:
            work(ranks)
    except SystemExit as end:
        # Connections may be broken and other threads may wait for them: nothing of it is to hold up the end.
        sys.stdout.flush()
        sys.stderr.flush()
        logging.shutdown()
        os._exit(end.code if isinstance(end.code, int) else 1)


def require_started(config: Config, world: int) -> None:
    """Raises ConfigError where ``launch`` asks for other processes than those that a launcher has started."""
    asked = config.launch.world
    if asked not in (1, world):
        raise ConfigError([f"launch: asks for {asked} processes, and WORLD_SIZE={world} were started; leave it out"])


def start_ranks(config: Config) -> None:
    """Train a run by processes of its own, as torchrun starts them.

    Raises:
        ConfigError: where devices are missing, and what the processes raise.
        TrainingError: where one ends without a word.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    _require_gpus(config)
    with tempfile.TemporaryDirectory(prefix="nmtrain-job-") as folder:
        job = {"values": config.values, "plugins": plugin_folders(), "command": sys.argv}
        (Path(folder) / JOB).write_text(json.dumps(job))
        for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the ranks say themselves what ends them
        try:
            with _as_before(config):
                elastic_launch(_launch_config(config), sys.executable)("-m", "nmtrain.launch.rank", folder)
        except (ChildFailedError, SignalException) as error:
            outcome = _outcome(Path(folder), error)
            _note(config, outcome)
            raise outcome from error


@contextmanager
def _as_before(config: Config) -> Iterator[None]:
    """What is set here for the processes, and the handlers that torch sets to end them, are gone afterwards."""
    environment, handlers = dict(os.environ), {number: signal.getsignal(number) for number in _ENDING}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // config.launch.local_world)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(round(config.launch.timeout)))  # for a last checkpoint
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _require_gpus(config: Config) -> None:
    import torch

    if (gpus := config.launch.gpus) is not None and (found := torch.cuda.device_count()) < gpus:
        raise ConfigError([f"launch.gpus={gpus}: torch finds {found} CUDA devices here"])


def _launch_config(config: Config) -> Any:
    from torch.distributed.launcher.api import LaunchConfig

    launch = config.launch
    common: dict[str, Any] = {
        "min_nodes": launch.nodes,
        "max_nodes": launch.nodes,
        "nproc_per_node": launch.local_world,
        "run_id": config.run_name,
        "max_restarts": 0,
        "signals_to_handle": ",".join(number.name for number in _ENDING),
    }
    if launch.nodes == 1:
        return LaunchConfig(**common, rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost")
    _name_nodes_of_slurm()
    if missing := [name for name in _NODES if not os.environ.get(name)]:
        raise ConfigError([f"launch.nodes={launch.nodes}: {', '.join(missing)} are not set, by which the nodes meet"])
    address, port, node = os.environ["MASTER_ADDR"], whole_number("MASTER_PORT"), whole_number("NODE_RANK")
    return LaunchConfig(
        **common, rdzv_backend="static", rdzv_endpoint=f"{address}:{port}", rdzv_configs={"rank": node, "timeout": 900}
    )


def _name_nodes_of_slurm() -> None:
    """In a job of SLURM with a task on each node: where the nodes meet, and which one this is."""
    job, node = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_NODEID")
    if node is None or not job.isdecimal():
        return
    command = ["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
        meeting = (told[0] if told else "", str(20_000 + int(job) % 10_000), node)
        for name, value in zip(_NODES, meeting, strict=True):
            os.environ.setdefault(name, value)


def _outcome(folder: Path, error: Exception) -> NmtrainError:
    """What the first rank told, or else what ended the ranks."""
    if (folder / OUTCOME).exists():
        told = json.loads((folder / OUTCOME).read_text())
        kind = getattr(errors, told["kind"])
        if kind is Stopped:
            return Stopped(told["message"], told["by"])
        return kind(told["message"].splitlines()) if kind is ConfigError else kind(told["message"])
    if (number := getattr(error, "sigval", None)) is not None:
        return Stopped(number.name, number.name)
    codes = {rank: failure.exitcode for rank, failure in sorted(getattr(error, "failures", {}).items())}
    killed = {rank: code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}  # the others followed
    ended = [
        f"rank {rank} ended with {f'signal {-code}' if code < 0 else code}" for rank, code in (killed or codes).items()
    ]
    return TrainingError(f"{'; '.join(ended) or error}; the same command resumes")


def _note(config: Config, outcome: NmtrainError) -> None:
    """Let the run's folder tell what became of it, where no rank was left to say so."""
    folder = RunFolder(config.run_folder)
    files = start_files(folder.path)
    with suppress(NmtrainError, OSError):
        if folder.state == "running" and not (files and is_alive(files[-1], clock_of(files[-1].parent))):
            folder.set_status("preempted" if isinstance(outcome, Stopped) else "failed", str(outcome))
