"""Who trains a run: ``starts/0001.json`` and on, one file for each process that began or went on with it.

The last file is the owner's. It is alive while its process touches the file; a run whose owner ended, or is gone, is
taken by whoever makes the file of the next number, which a file system lets one process do, NFS included. No number is
given twice, so that a judgement of the owner of before can do no harm when it comes late.

    {"host": "node7", "machine": [...], "pid": 4711, "clock": 815, "job": "97_3", "restart": 0, "began": 1.76e9,
     "first": 0, "done": 120, "total": 900, "ended": false}

``machine`` and ``clock`` tell one process from another of the same number; ``first`` is the update that this start
began with, and ``done`` what it has come to.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

from nmtrain.errors import RunHeld, TakenOver
from nmtrain.runs.whole import write_whole

FOLDER = "starts"
BEAT = 15.0  # seconds between two touches by the owner
GONE_AFTER = 300.0  # seconds without one; file systems of networks may show one a minute late
_LATE = 5.0  # seconds that a touch may take to be seen
_KILLED_WITHIN = 120.0  # seconds that a cluster takes to kill what is left of a job on a machine


@dataclass(frozen=True)
class Start:
    """The content of one file, see the module."""

    host: str
    machine: list[str]
    pid: int
    clock: int | None
    job: str | None
    restart: int
    began: float
    first: int = 0
    done: int = 0
    total: int | None = None
    ended: bool = False

    def described(self) -> str:
        """``process 4711 on node7, job 97_3``."""
        return f"process {self.pid} on {self.host}" + (f", job {self.job}" if self.job else "")


def this_process() -> Start:
    """What a start of this process says of it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    pid = os.getpid()
    return Start(
        socket.gethostname(), _machine(), pid, _clock(pid), job, int(restart) if restart.isdigit() else 0, time.time()
    )


def start_files(run: Path) -> list[Path]:
    """The files of a run's starts, the first one first; none for a run of before they were kept."""
    try:
        names = [name for name in os.listdir(run / FOLDER) if name.endswith(".json") and name[:-5].isdigit()]
    except OSError:
        return []
    return [run / FOLDER / name for name in sorted(names, key=lambda name: int(name[:-5]))]


def read_start(file: Path) -> Start | None:
    """None for a file that is not whole: it was just made, or is damaged."""
    try:
        content = json.loads(file.read_bytes())
        return Start(**{field.name: content[field.name] for field in fields(Start)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(file: Path, now: float) -> bool:
    """Whether the owner that a start file names is training.

    Args:
        now: by `clock_of` the folder; it may have been set back.
    """
    start, touched = read_start(file), _touched(file)
    if touched is None or abs(now - touched) > GONE_AFTER or (start is not None and start.ended):
        return False
    if start is None:
        return True
    me = this_process()
    return _runs(start) if start.machine == me.machine else not _is_before(start, me)


class Owner:
    """This process as the owner of a run; a thread touches its file until `release`."""

    def __init__(self, run: Path) -> None:
        """Take the run. Raises RunHeld, naming the process, where another one trains it."""
        self._run = run
        (run / FOLDER).mkdir(exist_ok=True)
        files = start_files(run)
        if files and _stays_alive(files[-1]):
            raise _held(run, files[-1])
        self.file = run / FOLDER / f"{int(files[-1].stem) + 1 if files else 1:04d}.json"
        self._start = this_process()
        self._lost = False
        try:
            with open(self.file, "xb") as file:
                file.write(self._content())
        except FileExistsError:
            raise _held(run, self.file) from None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="owner", daemon=True)
        self._thread.start()

    def begins(self, done: int, total: int) -> None:
        """Note at which update this start begins, and how many there are in all."""
        self._start = replace(self._start, first=done, done=done, total=total, began=time.time())
        self._write()

    def reached(self, done: int) -> None:
        """Note the updates done. Raises TakenOver if another process owns the run by now."""
        if self._lost:
            raise TakenOver(
                f"{self._run}: another process took the run over, since this one did not show itself for a while"
            )
        self._start = replace(self._start, done=done)

    def forget_before(self) -> None:
        """Remove the files of earlier starts: the run begins anew."""
        for file in start_files(self._run):
            if file != self.file:
                file.unlink(missing_ok=True)

    def release(self) -> None:
        """End this start; the run is free."""
        self._released.set()
        self._thread.join()
        self._start = replace(self._start, ended=True)
        self._write()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            self._lost = self._lost or start_files(self._run)[-1:] != [self.file]
            self._write()

    def _write(self) -> None:
        content = self._content()
        try:
            write_whole(self.file, lambda file: file.write(content))
        except OSError:  # a full disk, which leaves the file as it is: its time alone says enough
            try:
                os.utime(self.file)
            except OSError:
                return  # the folder is gone or cannot be reached, which the next checkpoint tells

    def _content(self) -> bytes:
        return json.dumps(asdict(self._start)).encode() + b"\n"


def _stays_alive(file: Path) -> bool:
    """Whether an owner is there, and is not this very job before it was put back in line, which is being killed."""
    until = time.monotonic() + _KILLED_WITHIN
    while is_alive(file, clock_of(file.parent)):
        start = read_start(file)
        if start is None or not _is_before(start, this_process()) or time.monotonic() > until:
            return True
        time.sleep(0.5)
    return _shows_itself(file)


def _shows_itself(file: Path) -> bool:
    """Whether an owner that is gone by the time of its file touches it all the same: somebody has set the clock.

    Looked at where that may be: the file is of a time to come, or its process is still there.
    """
    start, touched = read_start(file), _touched(file)
    if start is None or start.ended or touched is None:
        return False
    here = start.machine == this_process().machine
    if not (_runs(start) if here else touched > clock_of(file.parent)):
        return False
    until = time.monotonic() + BEAT + _LATE
    while time.monotonic() < until:
        if _touched(file) != touched:
            return True
        time.sleep(min(0.5, BEAT))
    return False


def _touched(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except OSError:
        return None


def _is_before(start: Start, me: Start) -> bool:
    """Whether a start is of this process's job, before that was put back in line."""
    return start.job is not None and start.job == me.job and start.restart != me.restart


def _held(run: Path, file: Path) -> RunHeld:
    start = read_start(file)
    who = f" ({start.described()})" if start else ""
    return RunHeld(f"{run}: another process is training this run right now{who}")


def clock_of(folder: Path) -> float:
    """The time by the clock that stamps the files of a folder, which may be another machine's; by our own where no
    file can be made."""
    probe = folder / f".clock-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    except OSError:
        return time.time()


@cache
def _machine() -> list[str]:
    """What a process number is of: this boot of a machine, and its name space where containers have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, os.readlink("/proc/self/ns/pid")]
    except OSError:  # not Linux
        return [socket.gethostname()]


def _clock(pid: int) -> int | None:
    """When a process began, in ticks since the boot; None for one that is no more, or where the system does not say."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(rest[18])  # a zombie has ended


def _runs(start: Start) -> bool:
    """Whether the process of a start on this machine is still there."""
    if start.clock is not None:
        return _clock(start.pid) == start.clock
    try:
        os.kill(start.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
