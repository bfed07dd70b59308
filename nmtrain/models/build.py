"""The model of a config, whichever library it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from nmtrain.data import DataShape, TextShape
from nmtrain.models.registry import build_registered, is_registered
from nmtrain.models.saved import naming

if TYPE_CHECKING:
    from nmtrain.config.schema import ModelConfig


def build_model(model: ModelConfig, shape: DataShape | TextShape, pretrained: bool = True) -> nn.Module:
    """A stock or registered model for data of the given shape, randomly initialised or pretrained.

    Random weights are drawn from torch's global generator.

    Args:
        pretrained: False leaves out the weights of ``model.pretrained``: others take their place, or none are wanted.

    Raises:
        ValueError: if there is no such model, its library refuses the options, or weights do not fit.
        DataError: if it has to come from a hub that cannot be reached.
    """
    if isinstance(shape, TextShape):
        from nmtrain.models.language import build_language_model

        return build_language_model(model, shape, pretrained)
    if is_registered(model.name):
        return build_registered(model.name, shape, model.options)
    from nmtrain.models.vision import build_vision_model
    from nmtrain.models.vision_weights import find_weights

    if not model.pretrained or not pretrained:
        return build_vision_model(model.name, shape, model.options)
    with naming(f"model.pretrained={model.pretrained}"):
        return build_vision_model(model.name, shape, model.options, find_weights(model.pretrained, download=True))
