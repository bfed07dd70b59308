"""The Hugging Face hub: data sets from it, and one plain message at once where it cannot be reached."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from nmtrain.errors import DataError

if TYPE_CHECKING:
    from datasets import DatasetDict

ADVICE = ". Where there is a local copy, give "
_PATIENCE = 4.0  # seconds that the hub has to answer


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
    outcome = [f"no answer within {_PATIENCE:g} s"]

    def ask() -> None:
        try:
            status = get_session().head(constants.ENDPOINT, timeout=_PATIENCE).status_code
            outcome[0] = f"status {status}" if status >= 500 else ""
        except Exception as error:  # of whichever HTTP library the hub's client is built on; told to the user
            outcome[0] = f"{type(error).__name__}: {error}"

    # In a thread, since a time limit on the connection does not cover the look-up of the host's name.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return f"the Hugging Face hub at {constants.ENDPOINT} cannot be reached ({outcome[0]})" if outcome[0] else None


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
