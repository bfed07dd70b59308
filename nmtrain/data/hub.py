"""The Hugging Face hub: data sets from it, and one plain message at once where it cannot be reached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from nmtrain.errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict

ADVICE = ". Where there is a local copy, give "
PATIENCE = 4.0  # seconds that a server has to answer


def require_hub(what: str, option: str) -> None:
    """Return if the hub answers, through the proxy and at the address (``HF_ENDPOINT``) of its own client.

    Args:
        what: what is wanted from it, such as "data=glue".
        option: what to give for a local copy, such as "data.path=FOLDER".

    Raises:
        DataError: within a few seconds, where it does not; the message names ``option``.
    """
    if reason := _unreachable():
        raise DataError(f"{what} is not on this machine, and {reason}{ADVICE}{option}")


def _unreachable() -> str | None:
    """Why the hub cannot be asked, or None."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the Hugging Face hub"

    def ask() -> str:
        status = get_session().head(constants.ENDPOINT, timeout=PATIENCE).status_code
        return f"status {status}" if status >= 500 else ""

    reason = outcome_in_time(ask)
    return f"the Hugging Face hub at {constants.ENDPOINT} cannot be reached ({reason})" if reason else None


def outcome_in_time(ask: Callable[[], str]) -> str:
    """What a question over the network comes to within a few seconds: empty if all is well, else what is wrong.

    In a thread, since a time limit on the connection does not cover the look-up of the host's name.
    """
    outcome = [f"no answer within {PATIENCE:g} s"]

    def run() -> None:
        try:
            outcome[0] = ask()
        except Exception as error:  # of whichever HTTP library is behind it; told to the user
            outcome[0] = f"{type(error).__name__}: {error}"

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return outcome[0]


def load_from_hub(repository: str, subset: str | None, what: str, cache_dir: str | None) -> DatasetDict:
    """All splits of a data set: what this machine has of it, else from the hub.

    Raises:
        DataError: where neither works.
    """
    import datasets

    no_bars_in_logs()
    try:
        with _offline():
            return datasets.load_dataset(repository, subset, cache_dir=cache_dir)
    except (OSError, ValueError):
        require_hub(what, "data.path=FOLDER")
    try:
        return datasets.load_dataset(repository, subset, cache_dir=cache_dir)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        name = f"{repository} ({subset})" if subset else repository
        gated = "gated" in str(error).lower()
        remedy = ". Accept its terms on the hub and log in (hf auth login); or where" if gated else ". Where"
        raise DataError(
            f"{what}: {name} cannot be loaded from the Hugging Face hub: {str(error).rstrip('.')}{remedy} there is a "
            "local copy, give data.path=FOLDER"
        ) from error


def no_bars_in_logs() -> None:
    """Progress bars of `datasets` only where somebody watches."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


@contextmanager
def _offline() -> Iterator[None]:
    """`datasets` as with HF_HUB_OFFLINE=1, and without its warning that the hub does not know the data set."""
    import datasets

    before, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.logging.get_verbosity()
    datasets.config.HF_HUB_OFFLINE = True
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        datasets.logging.set_verbosity(verbosity)
