"""Weights & Biases, offline unless asked for; what is online and fails goes on offline."""

from __future__ import annotations

import logging
from typing import Any

import wandb
from wandb.errors import Error as WandbError

from nmtrain.config import Config
from nmtrain.tracking.sinks import Sink, scalars
from nmtrain.training.folder import RunFolder

logger = logging.getLogger(__name__)
_PATIENCE = 15  # seconds that an unreachable server may take at start and at the end


class WandbSink(Sink):
    """One wandb run per run folder: its id is kept there, so that a resumed run goes on in the same one."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        id_file = folder / "wandb_id.txt"
        if not id_file.exists():
            id_file.write_text(wandb.util.generate_id())
        options: dict[str, Any] = {
            "project": config.tracking.project,
            "group": config.tracking.group,
            "name": folder.name,
            "id": id_file.read_text(),
            "resume": "allow",
            "dir": str(folder.path),
            "config": config.values,
            "settings": wandb.Settings(init_timeout=_PATIENCE, finish_timeout=_PATIENCE, silent=True, console="off"),
            "reinit": "finish_previous",
        }
        try:
            self._run = wandb.init(mode=config.tracking.mode, **options)
        except WandbError as error:
            if config.tracking.mode == "offline":
                raise
            logger.warning("wandb cannot be reached (%s); tracking offline, for wandb sync to upload later", error)
            self._run = wandb.init(mode="offline", **options)

    def log(self, record: dict[str, Any]) -> None:
        self._run.log(scalars(record), step=record["update"])

    def finish(self, summary: dict[str, Any] | None) -> None:
        if summary is not None:
            table = wandb.Table(columns=["metric", "value"])
            for section in ("metrics", "flops", "bytes", "seconds"):
                for name, value in summary[section].items():
                    table.add_data(f"{section}/{name}", value)
                    self._run.summary[f"{section}/{name}"] = value
            self._run.log({"summary": table})
        self._run.finish(exit_code=0 if summary is not None else 1)
