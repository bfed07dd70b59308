"""A thread beside each rank: it says that the rank lives, and ends it where another one has failed, died or hangs."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch.distributed as dist

from nmtrain import errors
from nmtrain.errors import ConfigError, NmtrainError, TrainingError

logger = logging.getLogger(__name__)

_EVERY = 0.5  # seconds between two signs of life
_DEAD = 25.0  # seconds without one; launchers kill what is left of a broken run after 30
_DEAD_IF_BROKEN = 4.0  # where a connection has broken already
_GRACE = 5.0  # seconds in which the rank itself may find out that it has to end
_UNWINDING = 40.0  # seconds for it to end then, mirrors of its records among it
_VERDICT = 8.0  # seconds to wait for the reason of a broken connection
_TOLD = 30.0  # seconds to wait for the first rank to tell it
_FAILURE, _OVER = "failure", "over"


@dataclass(frozen=True)
class Failure:
    """What ended a rank, in a form that travels."""

    rank: int
    kind: str  # the class, of `nmtrain.errors`
    message: str
    status: int
    traceback: str = ""
    silent: bool = False  # the rank has not said it itself, or there is nowhere left to say it

    @classmethod
    def of(cls, rank: int, error: NmtrainError) -> Failure:
        """Of an error of ours; what caused it is in the traceback."""
        lines = traceback.format_exception(error)
        return cls(rank, type(error).__name__, str(error), error.exit_status, "".join(lines))

    def error(self) -> NmtrainError:
        """The same error, told by another rank."""
        lines = [f"rank {self.rank}: {line}" for line in self.message.splitlines()]
        kind = getattr(errors, self.kind, TrainingError)
        return kind(lines) if kind is ConfigError else kind("\n".join(lines))


class Watch:
    """Looks after the ranks of one run from within each of them.

    A thread, since the rank itself may wait in a collective operation that never ends. There it can only be ended as a
    whole process, after ``telling``.

    Args:
        tell: shows an error; called on the first rank only.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, tell: Callable[[NmtrainError], None]) -> None:
        self._own = dist.PrefixStore("nmtrain/", store.clone())  # waits of the rank itself do not block this one
        self._rank, self._world = rank, world
        self.telling = [tell]  # the last added is told first
        self.timeout = float("inf")
        self.failure: Failure | None = None
        self._dead, self._unwinding = _DEAD, False
        self._count, self._signs, self._where = 0, 0, "the start"
        # Seconds that count are those in which this thread looked: a cluster that stops all processes for a while, and
        # lets them go on, has ended none.
        self._now = 0.0
        self._seen: list[tuple[str, float]] = [("", self._now)] * world
        self._stands: list[tuple[list[int], float]] = [([0, 0], self._now)] * world
        self._over = threading.Event()
        self._own.set(f"rank{rank}", self._sign_of_life(0))
        self._own.compare_set(_FAILURE, "", "")
        self._thread = threading.Thread(target=self._run, name="nmtrain-ranks", daemon=True)
        self._thread.start()

    def mark(self, where: str) -> None:
        """The rank has come to a place that all ranks pass."""
        self._count += 1
        self.sign(where)

    def sign(self, where: str) -> None:
        """The rank gets on, by itself."""
        self._signs += 1
        self._where = where

    def fail(self, error: NmtrainError) -> None:
        """The rank itself ends by ``error``."""
        self._unwinding = True
        self._post(Failure.of(self._rank, error))

    def _post(self, failure: Failure) -> None:
        """Make a failure known to all; the first one counts."""
        self.failure = failure
        with suppress(RuntimeError):  # the store is gone with who kept it
            told = self._own.compare_set(_FAILURE, "", json.dumps(asdict(failure)))
            self.failure = Failure(**json.loads(told))

    def verdict(self) -> Failure | None:
        """What another rank failed by, if one did: waits a little for word of it, or for a rank to stay silent."""
        self._dead, self._unwinding = _DEAD_IF_BROKEN, True
        end = time.monotonic() + _VERDICT
        while time.monotonic() < end and not self._over.wait(_EVERY / 2):
            if self.failure is not None:
                if self.failure.rank == self._rank and not self.failure.silent:
                    return None
                self._log_traceback(self.failure)
                return self.failure
        return None

    def _log_traceback(self, failure: Failure) -> None:
        if failure.traceback:
            logging.getLogger("nmtrain.traceback").debug("rank %d failed\n%s", failure.rank, failure.traceback)

    def end(self) -> None:
        """Stop watching. Where the run failed, ranks wait for the first one to have told so: a launcher that sees one
        of them end sends signals to the rest."""
        with suppress(RuntimeError):
            if self._rank == 0:
                self._own.set(_OVER, "")
            elif self.failure is not None:
                self._wait_for_telling()
        self._over.set()
        self._thread.join()

    def _wait_for_telling(self) -> None:
        if self.failure is not None and self.failure.rank == 0 and self.failure.silent:
            return
        last = time.monotonic() + _TOLD
        while time.monotonic() < last and not self._own.check([_OVER]):
            time.sleep(0.1)

    def _run(self) -> None:
        beat = 0
        while not self._over.wait(_EVERY):
            beat += 1
            self._now += _EVERY
            try:
                self._own.set(f"rank{self._rank}", self._sign_of_life(beat))
                told = self._own.get(_FAILURE)
                if told:
                    self.failure = Failure(**json.loads(told))
                else:
                    self._look_around()
            except (dist.DistError, RuntimeError) as error:  # the store is gone, and who kept it
                reason = f"what the ranks share is gone, and the process that kept it ({error})"
                self.failure = Failure(0, "TrainingError", reason, 1, silent=True)
            if self.failure is not None:
                if self._over.wait(_GRACE) or (self._unwinding and self._over.wait(_UNWINDING)):
                    return
                self._end_process(self.failure)

    def _sign_of_life(self, beat: int) -> str:
        return json.dumps([beat, self._count, self._signs, self._where])

    def _look_around(self) -> None:
        """Post what is wrong with another rank."""
        now = self._now
        keys = [f"rank{rank}" for rank in range(self._world)]
        if not self._own.check(keys):
            return  # one has not begun yet
        wheres = []
        for rank, sign in enumerate(value.decode() for value in self._own.multi_get(keys)):
            _, *stand, where = json.loads(sign)
            wheres.append(where)
            if sign != self._seen[rank][0]:
                self._seen[rank] = (sign, now)
            if stand != self._stands[rank][0]:
                self._stands[rank] = (stand, now)
        silent = [rank for rank in range(self._world) if now - self._seen[rank][1] > self._dead]
        if silent:
            told = "ended without a word, or its machine did: it was killed, or memory ran out"
            told += f" (last seen at {wheres[silent[0]]})"
            self._post(Failure(silent[0], "TrainingError", told, 1, silent=True))
            return
        furthest = max(stand[0] for stand, _ in self._stands)
        for rank, ((count, _), since) in enumerate(self._stands):
            if count < furthest and now - since > self.timeout:
                told = f"launch.timeout={self.timeout:g}: has not come on from {wheres[rank]} for so many seconds,"
                self._post(Failure(rank, "TrainingError", f"{told} and the others wait for it", 1))
                return

    def _end_process(self, failure: Failure) -> None:
        """What is left where the rank itself waits without end."""
        try:
            if self._rank == 0:
                self._log_traceback(failure)
                for tell in reversed(self.telling):
                    tell(failure.error())
                self._own.set(_OVER, "")
            else:
                self._wait_for_telling()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(failure.status)
