"""Batches made ahead of their use by worker processes, with torch's DataLoader."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from nmtrain.errors import DataError, TrainingError

_SHARED_MEMORY = Path("/dev/shm")
_MOST_BY_DEFAULT = 8
# Forked workers start in milliseconds and share what is read already; the new interpreter of "spawn" and "forkserver"
# imports torch and timm for seconds, and a fork server dies of the SIGTERM that a cluster sends to all processes of a
# run. Forking beside threads is safe here: a worker runs torch with one thread and never touches a GPU.
_START = "fork" if sys.platform == "linux" else None
# As torch, the kernel and the C library call it, in turn.
_OUT_OF_SHARED_MEMORY = ("Bus error", "shared memory", "No space left on device")
# What may be sent to all processes of a run, and what training answers: see `nmtrain.training.signals`.
_FOR_TRAINING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(given: int | None) -> int:
    """The worker processes that ``data.workers`` means: of None, one for each core, up to 8."""
    return min(cores(), _MOST_BY_DEFAULT) if given is None else given


class Ahead:
    """Turns lists of keys into batches, in their order.

    Args:
        samples: from a key to a sample; workers get copies.
        gather: from the samples of a list to a batch.
        workers: processes; as `workers_for` takes them; 0 to make each batch here when it is asked for.
        prefetch: batches that each worker makes ahead.
    """

    def __init__(
        self, samples: Dataset[Any], gather: Callable[[list[Any]], Any], workers: int | None, prefetch: int
    ) -> None:
        self.samples, self.gather = samples, gather
        self.workers = workers_for(workers)
        self.prefetch = prefetch
        self._keys = _Keys()
        self._loader: DataLoader[Any] | None = None
        self._iterator: Any = None

    def start(self, keys: Iterable[list[Any]], batch_bytes: int, pin: bool) -> Iterator[Any]:
        """The batches of ``keys``; those of an earlier call end here, its workers go on with these.

        Args:
            batch_bytes: about what a batch takes.
            pin: in memory that is copied to a GPU beside other work.

        Raises:
            DataError: where shared memory cannot hold what would be made ahead.
            TrainingError: while iterating, where a worker ends.
        """
        self._keys.lists = keys
        with warnings.catch_warnings(), _worker_faults():
            warnings.simplefilter("ignore")  # of more workers than cores, which were asked for
            if self._loader is None:
                self._require_shared_memory(batch_bytes)
                self._loader = self._open(pin)
                atexit.register(self.close)  # a worker that ignores signals would be waited for without end
            self._iterator = iter(self._loader)
        return self._batches(self._iterator)

    def _batches(self, iterator: Iterator[Any]) -> Iterator[Any]:
        while True:
            with _worker_faults():
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def _open(self, pin: bool) -> DataLoader[Any]:
        return DataLoader(
            self.samples,
            batch_sampler=self._keys,
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            persistent_workers=self.workers > 0,
            multiprocessing_context=_START if self.workers else None,
            worker_init_fn=_begin_worker,
            collate_fn=self.gather,
            pin_memory=pin,
            generator=torch.Generator(),  # from which, in place of the global one, torch draws seeds of no use here
        )

    def _require_shared_memory(self, batch_bytes: int) -> None:
        if not self.workers or not _SHARED_MEMORY.is_dir():
            return
        needed = self.workers * self.prefetch * batch_bytes
        there = os.statvfs(_SHARED_MEMORY)
        if (free := there.f_bavail * there.f_frsize) < needed:
            raise DataError(
                f"data.workers={self.workers}: the batches they make ahead need {needed / 1e6:.0f} MB of shared memory,"
                f" and {_SHARED_MEMORY} has {free / 1e6:.0f} MB free; give it more (docker run --shm-size=8g), lower"
                " data.workers or data.prefetch, or do without: data.workers=0"
            )

    def close(self) -> None:
        """End the workers; a later `start` starts others."""
        iterator, self._iterator, self._loader = self._iterator, None, None
        atexit.unregister(self.close)
        if self.workers and iterator is not None:
            workers = iterator._workers
            iterator._shutdown_workers()  # torch has no public way that does not wait for the garbage collector
            for worker in workers:
                if worker.is_alive():  # in the middle of a read that hangs
                    worker.kill()


class _Keys:
    """What the loader goes over next."""

    lists: Iterable[list[Any]] = ()

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.lists)


def _begin_worker(worker: int) -> None:
    """Leave to training what is training's: its signals, and what it holds on a GPU.

    Training saves and ends its workers; should it die instead, they notice that their parent is another. And a fork
    that collected garbage of its parent would free pinned memory by calls of CUDA, which abort it.
    """
    gc.freeze()
    for number in _FOR_TRAINING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _worker_faults() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        if (told := worker_fault(error)) is None:
            raise
        raise TrainingError(told) from error
    except EOFError as error:
        raise TrainingError(_ended(error)) from error


def worker_fault(error: Exception) -> str | None:
    """What torch says when a worker cannot go on, in plain words and with what to do; None of another error.

    It is raised wherever training is when a worker dies, not only where a batch is waited for.
    """
    told = str(error)
    if isinstance(error, ConnectionError):  # of a worker whose end torch has not seen yet
        return _ended(error)
    if "DataLoader worker" not in told:
        return None
    if any(words in told for words in _OUT_OF_SHARED_MEMORY):
        return (
            f"the processes that read images have too little shared memory ({_SHARED_MEMORY}): give it more (docker run"
            " --shm-size=8g), lower data.workers or data.prefetch, or do without: data.workers=0"
        )
    if "killed by signal" in told or "exited unexpectedly" in told:
        return _ended(error)
    return None


def _ended(error: Exception) -> str:
    reason = " ".join(str(error).split()) or "the connection to it was closed"
    return f"a process that reads images ended ({reason}); if memory ran out, lower data.workers; 0 does without"
