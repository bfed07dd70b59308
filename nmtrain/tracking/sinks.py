"""The one small interface of all mirrors, what they have in common, and the one that mirrors nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from nmtrain.runs.folder import RunFolder, whole_record

if TYPE_CHECKING:
    from nmtrain.config.check import Config

logger = logging.getLogger(__name__)


class Sink:
    """What mirrors a run's records; this one drops them."""

    def log(self, record: dict[str, Any]) -> None:
        """Take one line of metrics.jsonl, or the line of noise.jsonl that is the mean over tensors."""

    def finish(self, summary: dict[str, Any] | None) -> None:
        """End the mirror: with the summary of a finished run, with None where it failed or was stopped."""


class Mirror(Sink):
    """Records kept by a tool of others. What fails in there ends the mirror, with one warning, and never the run.

    A mirror begins with all lines that the run folder holds already, so that one that starts late, or after a kill
    that cost the tool its last lines, is as whole as any other.
    """

    name: ClassVar[str]
    failures: ClassVar[tuple[type[Exception], ...]] = (OSError,)  # what the tool raises where it cannot work

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        self._works = True
        self._attempt(self.start)
        for record in recorded(folder):
            self.log(record)

    def log(self, record: dict[str, Any]) -> None:
        self._attempt(self.write, record["update"], scalars(record, str(self.config.sparsity)))

    def finish(self, summary: dict[str, Any] | None) -> None:
        self._attempt(self.end, summary)

    def start(self) -> None:
        """Open the tool's run. Like the three below, may raise ``failures``."""
        raise NotImplementedError

    def write(self, update: int, values: dict[str, float]) -> None:
        """Hand over the numbers of one record; updates never decrease."""
        raise NotImplementedError

    def end(self, summary: dict[str, Any] | None) -> None:
        """Hand over the summary, if there is one, and close."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of what a mirror that failed still holds; raises nothing."""

    def _attempt(self, act: Callable[..., None], *arguments: Any) -> None:
        if not self._works:
            return
        try:
            act(*arguments)
        except self.failures as error:
            self._works = False
            self.release()
            logger.warning(
                "tracking=%s failed and is off for the rest of this run, whose own files go on (%s)",
                self.name,
                one_line(error),
            )


def scalars(record: dict[str, Any], sparsity: str) -> dict[str, float]:
    """The numbers of a record under the names that mirrors show: ``train/loss``, ``noise/grad_noise/kept``.

    What a dense run measured by the masks of further patterns than its ``sparsity`` is under ``noise-1of8/...``.
    """
    prefix = record.get("split", "noise")
    if (other := record.get("sparsity", sparsity)) != sparsity:
        prefix = f"noise-{other.replace(':', 'of')}"
    return {f"{prefix}/{name}": value for name, value in numbers(record).items() if name != "update"}


def numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in a nested dict, under keys such as ``metrics/val/loss``."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found


def recorded(folder: RunFolder) -> list[dict[str, Any]]:
    """What a mirror shows of the lines that the folder holds, in the order of their updates."""
    means = (record for record in _lines(folder, "noise.jsonl", b'"mean"') if record.get("tensor") == "mean")
    return sorted([*means, *_lines(folder, "metrics.jsonl", b"")], key=lambda record: record["update"])


def _lines(folder: RunFolder, name: str, holding: bytes) -> Iterator[dict[str, Any]]:
    """The whole lines with these bytes in them; most of noise.jsonl is not worth reading as JSON."""
    if (folder / name).exists():
        with open(folder / name, "rb") as file:
            yield from (record for line in file if holding in line and (record := whole_record(line)) is not None)


def one_line(error: Exception) -> str:
    """An error's kind and message, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
