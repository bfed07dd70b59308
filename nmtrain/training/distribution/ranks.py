"""The processes that train one run together ("ranks"), and what they tell each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nmtrain.config.combinations import share_faults
from nmtrain.config.schema import TrainConfig
from nmtrain.errors import ConfigError, NmtrainError, Stopped, TrainingError
from nmtrain.training.distribution.place import Place
from nmtrain.training.distribution.watch import Watch

_T = TypeVar("_T")
# Who waits for whom too long is the watch's to judge, which knows whether the others get on.
_NO_LIMIT = timedelta(days=30)
_TO_MEET = timedelta(minutes=10)


class Ranks:
    """A run's one process: there is nobody to tell anything, and nothing of torch.distributed is touched."""

    rank, world = 0, 1
    apart: tuple[int, ...] = ()  # what tells the seed of its dropout from that of others
    turns: Mapping[str, int] = MappingProxyType(
        {}
    )  # which batches of an evaluation are this rank's, as the data take it

    def begin(self, train: TrainConfig, timeout: float) -> torch.device:
        """The device to train on. From here on a rank that does not come on for ``timeout`` seconds while others wait
        for it is a failure. Raises ConfigError where devices are missing, or samples cannot be shared."""
        on_cuda = train.device != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if on_cuda else "cpu")

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that writes, and that talks to the terminal."""
        return self.rank == 0

    def gathered(self, value: _T) -> list[_T]:
        """What each rank has as ``value``, by rank. A pickle of it travels: for small things."""
        return [value]

    def of_first(self, make: Callable[[], _T]) -> _T:
        """What ``make`` gives on the first rank, which alone calls it."""
        return make()

    def summed(self, *values: Tensor) -> list[float]:
        """The sum over ranks of each value (0-dim, on any device), the same bits on each rank."""
        return [float(value) for value in values]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks of a 0-dim value on any device; on the CPU where there are several."""
        return value

    def most(self, number: int) -> int:
        """The largest number of any rank."""
        return number

    def whole(self, parts: list[list[_T]]) -> list[_T]:
        """What became of all batches, in their order, from what became of those by `turns`."""
        return [one for part in parts for one in part]

    def marked(self, batches: Iterable[_T], where: str) -> Iterator[_T]:
        """The batches; each one is a sign that this rank gets on."""
        yield from batches

    def mark(self, where: str) -> None:
        """Note that this rank gets on, and where it is now. Ranks pass the same places in the same order."""

    def require_same(self, what: dict[str, Any]) -> None:
        """Raise ConfigError where a rank has something else than the first one. Sections are compared key by key."""

    def blamed(self, error: Exception) -> NmtrainError | None:
        """The failure of another rank that ``error`` is but a consequence of; None where it is this rank's own."""
        return None

    @contextmanager
    def failing(self, tell: Callable[[NmtrainError], None]) -> Iterator[None]:
        """Inside, ``tell`` is what is left to do where another rank's failure ends this one in the middle of a wait."""
        yield


ALONE = Ranks()


class ManyRanks(Ranks):
    """One of several.

    What they tell each other goes by gloo, over the CPU, which waits for no GPU; gradients go by ``gradients``.

    Args:
        store: where they met.
        tell: shows an error where nothing else can any more.
    """

    def __init__(self, place: Place, store: dist.Store, tell: Callable[[NmtrainError], None]) -> None:
        self.rank, self.world, self._place = place.rank, place.world, place
        self.apart = (place.rank,)
        self.turns = {"first": place.rank, "step": place.world}
        self._watch = Watch(store, place.rank, place.world, tell)

    def gathered(self, value: _T) -> list[_T]:
        self.mark("telling the others")
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def of_first(self, make: Callable[[], _T]) -> _T:
        told = [make() if self.is_first else None]
        self.mark("waiting for rank 0")
        dist.broadcast_object_list(told, src=0)
        return told[0]  # type: ignore[return-value]

    def summed(self, *values: Tensor) -> list[float]:
        own = torch.tensor(super().summed(*values), dtype=torch.float64)
        self.mark("adding up")
        dist.all_reduce(own)
        found: list[float] = own.tolist()
        return found

    def mean(self, value: Tensor) -> Tensor:
        (total,) = self.summed(value)
        return torch.tensor(total / self.world, dtype=value.dtype)

    def most(self, number: int) -> int:
        self.mark("the end of an update")
        dist.all_reduce(held := torch.tensor(number), dist.ReduceOp.MAX)
        return int(held)

    def whole(self, parts: list[list[_T]]) -> list[_T]:
        found = self.gathered(parts)
        count = sum(map(len, found))
        return [one for i in range(count) for one in found[i % self.world][i // self.world]]

    def marked(self, batches: Iterable[_T], where: str) -> Iterator[_T]:
        for batch in batches:
            self._watch.sign(where)
            yield batch

    def mark(self, where: str) -> None:
        self._watch.mark(where)

    def require_same(self, what: dict[str, Any]) -> None:
        first, *others = self.gathered(dict(_flat(what)))
        faults = []
        for rank, other in enumerate(others, start=1):
            keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
            faults += [f"rank {rank}: {key}={other.get(key)}, and {first.get(key)} on rank 0" for key in keys]
        if faults:
            raise ConfigError(faults)

    def begin(self, train: TrainConfig, timeout: float) -> torch.device:
        """See `Ranks.begin`."""
        device = super().begin(train, timeout)
        if faults := share_faults(train, self.world):
            raise ConfigError(faults)
        if device.type == "cuda":
            self._require_cuda(train)
            device = torch.device("cuda", self._place.local_rank)
            torch.cuda.set_device(device)
        self._watch.timeout = timeout
        # Where the ranks are at the same place and none comes on, it is an operation between devices that hangs.
        limit = timedelta(seconds=math.ceil(timeout) + 60)
        group = dist.new_group(backend="nccl" if device.type == "cuda" else "gloo", timeout=limit)
        assert isinstance(group, dist.ProcessGroup), "all ranks are members"
        self.gradients = group
        return device

    def _require_cuda(self, train: TrainConfig) -> None:
        told = f"train.device={train.device}"
        if not dist.is_nccl_available():
            raise ConfigError(
                [f"{told}: this torch has no NCCL, by which GPUs share gradients; gloo does on CPUs: train.device=cpu"]
            )
        if (count := torch.cuda.device_count()) < self._place.local_world:
            needed = f"{self._place.local_world} ranks of this machine need a CUDA device each"
            raise ConfigError([f"{told}: {needed}, and torch finds {count}; start fewer, or train.device=cpu"])

    def blamed(self, error: Exception) -> NmtrainError | None:
        if not isinstance(error, RuntimeError | OSError):  # as operations of several ranks fail
            return None
        failure = self._watch.verdict()
        return None if failure is None else failure.error()

    @contextmanager
    def failing(self, tell: Callable[[NmtrainError], None]) -> Iterator[None]:
        self._watch.telling.append(tell)
        try:
            yield
        finally:
            self._watch.telling.remove(tell)

    def failed(self, error: NmtrainError) -> None:
        """Tell the others that this rank ends by ``error``. Call before anything is torn down."""
        self._watch.fail(error)

    def end(self) -> None:
        """End the watch once the first rank has nothing more to say."""
        self._watch.end()


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _as_ours(ranks: ManyRanks, error: BaseException) -> NmtrainError:
    if isinstance(error, NmtrainError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Stopped(str(error) or "SIGINT")
    blamed = ranks.blamed(error) if isinstance(error, Exception) else None
    ours = blamed or TrainingError(f"{type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours


@contextmanager
def joined(place: Place, tell: Callable[[NmtrainError], None]) -> Iterator[ManyRanks]:
    """Inside, the ranks are together. An error that leaves it ends them all.

    Raises:
        ConfigError: where they do not meet.
    """
    try:
        store, _, _ = next(dist.rendezvous("env://", place.rank, place.world, timeout=_TO_MEET))
        dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.world, timeout=_NO_LIMIT)
    except (dist.DistError, RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError([f"WORLD_SIZE={place.world}: the processes did not meet: {reason}"]) from error
    ranks = ManyRanks(place, store, tell)
    try:
        yield ranks
        ranks.mark("the end")
        dist.barrier()
    except SystemExit:  # of Hydra, which has shown something
        raise
    except BaseException as error:
        ours = _as_ours(ranks, error)
        ranks.failed(ours)
        if ranks.is_first:
            tell(ours)
        raise SystemExit(ours.exit_status) from error
    finally:
        ranks.end()
    dist.destroy_process_group()
