"""Mirrors of a run's records, in wandb or TensorBoard. The files in the run folder are the truth."""

from nmtrain.tracking.opening import open_sink
from nmtrain.tracking.sinks import Sink

__all__ = ["Sink", "open_sink"]
