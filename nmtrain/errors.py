"""What goes wrong for reasons that a user can mend: each says itself in plain words and knows its exit status."""

from __future__ import annotations


class NmtrainError(Exception):
    """Ends a command with its message, without a traceback."""

    exit_status = 2
    telling = "{}"

    def told(self) -> str:
        """The message as the terminal shows it."""
        return self.telling.format(self)


class UsageError(NmtrainError):
    """A command line that cannot be understood."""


class ConfigError(NmtrainError, ValueError):
    """All faults of one config, one line each: key, value, what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults)  # what an exception that crosses processes is made again from
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(self.faults)


class PluginError(NmtrainError):
    """What comes from outside and cannot be loaded or registered, or is not there; the message says what and where."""


class DataError(NmtrainError):
    """Data, or a pretrained model, that cannot be read or reached; the message says what to do."""


class RunFolderError(NmtrainError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


class RunHeld(RunFolderError):
    """A run that another process trains right now."""


class TakenOver(RunFolderError):
    """A run that another process took over while this one did not show itself: its folder is not ours to write."""


class ReportError(NmtrainError, ValueError):
    """Run folders that no report can be made of."""


class TrainingError(NmtrainError):
    """Training that cannot go on; the message is the run's reason."""

    exit_status = 1
    telling = "failed: {}"


class SweepError(NmtrainError):
    """A sweep of which some runs did not finish; the others did."""

    exit_status = 1
    telling = "failed: {}"


class Stopped(NmtrainError):
    """Training that was asked to stop, and saved where it was.

    Attributes:
        by: the name of the signal that asked, or "time limit".
    """

    exit_status = 130
    telling = "stopped: {}; the same command resumes"

    def __init__(self, message: str, by: str = "") -> None:
        super().__init__(message)
        self.by = by
