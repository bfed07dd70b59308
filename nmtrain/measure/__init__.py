"""What training does and costs: gradient noise, mask churn, FLOPs, bytes. Names are loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmtrain.measure.active import active_share
    from nmtrain.measure.flops import (
        ForwardCost,
        TrainingCurve,
        forward_cost,
        inference_flops,
        training_flops,
        update_flops,
        updates_within,
    )
    from nmtrain.measure.lengths import LengthCost, LengthCurve, Lengths, length_cost, length_moments
    from nmtrain.measure.noise import NoiseMeter
    from nmtrain.measure.size import index_bits, index_floor_bits, model_bytes, sparse_bytes

__all__ = [
    "ForwardCost",
    "LengthCost",
    "LengthCurve",
    "Lengths",
    "NoiseMeter",
    "TrainingCurve",
    "active_share",
    "forward_cost",
    "index_bits",
    "index_floor_bits",
    "inference_flops",
    "length_cost",
    "length_moments",
    "model_bytes",
    "sparse_bytes",
    "training_flops",
    "update_flops",
    "updates_within",
]

_HOME = {
    "ForwardCost": "flops",
    "LengthCost": "lengths",
    "LengthCurve": "lengths",
    "Lengths": "lengths",
    "NoiseMeter": "noise",
    "TrainingCurve": "flops",
    "active_share": "active",
    "forward_cost": "flops",
    "index_bits": "size",
    "index_floor_bits": "size",
    "inference_flops": "flops",
    "length_cost": "lengths",
    "length_moments": "lengths",
    "model_bytes": "size",
    "sparse_bytes": "size",
    "training_flops": "flops",
    "update_flops": "flops",
    "updates_within": "flops",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
