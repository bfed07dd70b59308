"""The files of weights that a finished run may hold beside those it ended with."""

from __future__ import annotations

from dataclasses import dataclass

from nmtrain.errors import RunFolderError
from nmtrain.runs.folder import RunFolder


@dataclass(frozen=True)
class Weights:
    """One file of weights, with the stock model's keys.

    Attributes:
        name: what sets apart what is made of them, such as ``export_ema``; empty for the weights of the last update.
        setting: what makes a run keep them.
    """

    file: str
    name: str = ""
    setting: str = ""

    def named(self, name: str) -> str:
        return f"{name}_{self.name}" if self.name else name

    def require(self, folder: RunFolder) -> None:
        """Raises RunFolderError where a finished run keeps none of this kind."""
        if self.setting and not (folder / self.file).exists():
            raise RunFolderError(f"{folder.path}: has no {self.file}; runs with {self.setting} keep it")


LAST = Weights("model.safetensors")
EMA = Weights("model_ema.safetensors", "ema", "train.ema=DECAY")
BEST = Weights("best.safetensors", "best", "train.keep_best=true")
