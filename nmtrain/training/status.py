"""What becomes of a run, told in its folder: the log of all messages, and the status with the reason."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nmtrain.data.images.files.ahead import worker_fault
from nmtrain.errors import ConfigError, DataError, NmtrainError, Stopped, TakenOver, TrainingError
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.loaded import in_plugin
from nmtrain.training.distribution.ranks import ALONE, Ranks
from nmtrain.training.memory import full_memory

logger = logging.getLogger(__name__)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def status_kept(folder: RunFolder, ranks: Ranks = ALONE) -> Iterator[None]:
    """Whatever ends the run, its folder says so, with the reason; the traceback goes to its log."""
    try:
        with ranks.failing(lambda failure: folder.set_status("failed", str(failure))):
            yield
    except TakenOver:  # the folder is another's
        raise
    except Stopped as stopped:
        folder.set_status("preempted", str(stopped))
        raise
    except KeyboardInterrupt:  # a second one, which waits for no checkpoint
        folder.set_status("preempted", "SIGINT, at once; the last checkpoint is what is left")
        raise
    except Exception as error:
        failure: NmtrainError
        if (theirs := ranks.blamed(error)) is not None:
            failure = theirs
        elif isinstance(error, OSError) and error.errno in _DISK_FULL:
            failure = TrainingError(
                f"{folder.path}: {error.strerror}. Nothing already written is lost; free some space and repeat the"
                " command to resume"
            )
        elif isinstance(error, TrainingError | DataError | ConfigError):
            failure = error
        elif (told := worker_fault(error) or full_memory(error)) is not None:
            failure = TrainingError(told)
        else:
            failure = TrainingError(
                f"{type(error).__name__}: {error}{in_plugin(error)}"
                + (f" (traceback in {folder / 'train.log'})" if ranks.is_first else "")
            )
        logging.getLogger("nmtrain.traceback").debug("training failed", exc_info=error)
        try:
            folder.set_status("failed", str(failure))
        except OSError as full:
            logger.error("status.json could not be written either: %s", full)
        raise failure from error


class _Log(logging.FileHandler):
    """What a full disk does not take is left out: training itself tells of that."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # what it could not take before, once more
            super().close()


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """The run's own log gets every message, tracebacks too."""
    handler = _Log(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("nmtrain")
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
