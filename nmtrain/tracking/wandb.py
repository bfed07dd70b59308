"""Weights & Biases, offline unless asked for; what is online and fails goes on offline."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import wandb
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from nmtrain.config.schema import WandbConfig
from nmtrain.runs.folder import write_whole
from nmtrain.tracking.sinks import Mirror, numbers, one_line

logger = logging.getLogger(__name__)
_PATIENCE = 12  # seconds that a server which cannot be reached may take, at the start and again at the end


class WandbMirror(Mirror):
    """One wandb run per run folder: its id is kept there, so that a resumed run goes on in the same one."""

    name = "wandb"
    # ValueError: of its settings, which it also reads from variables such as WANDB_MODE.
    failures = (OSError, ValueError, wandb.Error, HandleAbandonedError, MailboxClosedError)

    def start(self) -> None:
        tracking = self.config.tracking
        assert isinstance(tracking, WandbConfig)
        self._redirect()
        if tracking.mode == "online":
            try:
                self._run = self._init(tracking, "online")
            except self.failures as error:
                self._teardown()  # until then wandb takes the run's id to be in use
                logger.warning(
                    "tracking.mode=online failed and goes on offline, to upload later with wandb sync %s (%s)",
                    self._home,
                    one_line(error),
                )
                self._run = self._init(tracking, "offline")
        else:
            self._run = self._init(tracking, "offline")
        self._first = self._run.starting_step  # 0, but for a resumed run what the server waits for
        self._drop_superseded()

    def write(self, update: int, values: dict[str, float]) -> None:
        if update >= self._first:
            self._run.log(values, step=update)

    def end(self, summary: dict[str, Any] | None) -> None:
        if summary is not None:
            result = numbers(summary)
            self._run.summary.update(result)
            # A wandb.Table is an artifact, for which wandb would ask the server for leave and wait 20 s for an answer.
            self._run.log({"summary": wandb.Html(_table(result), inject=False)})
        self._run.finish(exit_code=0 if summary is not None else 1)
        self.release()

    def release(self) -> None:
        with suppress(*self.failures):
            self._teardown()
        for variable in self._redirected:
            os.environ.pop(variable, None)
        self._redirected.clear()

    def _init(self, tracking: WandbConfig, mode: Literal["offline", "online"]) -> wandb.Run:
        wandb.setup(wandb.Settings(silent=True))  # before init, or wandb asks a terminal for a key
        return wandb.init(
            mode=mode,
            project=tracking.project,
            group=tracking.group,
            name=self.folder.name,
            id=self._id(),
            resume="allow",
            dir=str(self.folder.path),
            config=self.config.values,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                symlink=False,
                disable_git=True,  # of whatever repository the user stands in; environment.json has ours
                init_timeout=_PATIENCE,
                finish_timeout=_PATIENCE,
                finish_timeout_raises=True,
            ),
        )

    @property
    def _home(self) -> Path:
        return self.folder / "wandb"

    def _id(self) -> str:
        file = self.folder / "wandb_id.txt"
        if not file.exists():
            write_whole(file, lambda out: out.write(secrets.token_hex(4).encode()))
        return file.read_text()

    def _redirect(self) -> None:
        """Into the run folder with wandb's logs and caches, which it would keep in the user's home."""
        places = {"WANDB_CACHE_DIR": self._home / "cache", "WANDB_DATA_DIR": self._home / "data"}
        self._redirected = [variable for variable in places if variable not in os.environ]
        for variable in self._redirected:
            os.environ[variable] = str(places[variable].absolute())

    def _drop_superseded(self) -> None:
        """Remove what earlier starts left to upload: this one logs it again, and wandb sync would double it."""
        current = Path(self._run.settings.sync_dir).name
        for earlier in self._home.glob("offline-run-*"):
            if earlier.name != current and not any(earlier.glob("*.synced")):
                shutil.rmtree(earlier)

    def _teardown(self) -> None:
        """End wandb's own process, and with it what it has open."""
        with suppress(SystemExit):  # wandb's way to say that its process died; ours goes on
            wandb.teardown()


def _table(values: dict[str, float]) -> str:
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>\n" for name, value in values.items())
    return f"<table>\n{rows}</table>\n"
