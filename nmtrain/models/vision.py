"""Image models from timm: small ones under names of our own, every other one under timm's name."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg
from torch import nn

from nmtrain.data import DataShape
from nmtrain.models.vision_weights import load_into_new

# A small model is a timm architecture with arguments of timm.create_model; a new one is one line here and a YAML file.
# Every axis that a role covers is a multiple of 64, so that all patterns up to 1:64 fit.
_SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    # timm's own initial weights (standard deviation 0.02) are small for this width; Xavier's learn sooner.
    "vit": (
        "vit_tiny_patch16_224",
        {"patch_size": 4, "embed_dim": 128, "depth": 3, "num_heads": 4, "weight_init": "jax"},
    ),
    "vit_compact": ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 192, "depth": 3, "num_heads": 3}),
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (64, 64, 128, 128)}),
    "swin": (
        "swinv2_tiny_window8_256",
        {"patch_size": 2, "embed_dim": 64, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
    ),
}


def vision_architecture(name: str, shape: DataShape, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The timm architecture and the arguments of ``timm.create_model`` that make a model fit the data.

    Raises:
        ValueError: if neither we nor timm know the name.
    """
    timm_name, arguments = _SMALL.get(name, (name, {}))
    if not timm.is_model(timm_name):
        near = get_close_matches(timm_name, [*_SMALL, *timm.list_models()], n=5, cutoff=0.5)
        raise ValueError(
            f"model.name={name}: there is no such model. Available: {list(_SMALL)} and every name of timm"
            + (f"; near to it: {near}" if near else "")
        )
    arguments = {**arguments, "num_classes": shape.num_classes, "in_chans": shape.channels}
    pretrained = get_pretrained_cfg(timm_name)
    if pretrained is not None and pretrained.fixed_input_size:  # others take any image size, and no such argument
        arguments["img_size"] = shape.image_size
    return timm_name, {**arguments, **options}


def build_vision_model(name: str, shape: DataShape, options: dict[str, Any], weights: Path | None = None) -> nn.Module:
    """A stock timm model, randomly initialised from torch's global generator, for images of the given shape.

    Args:
        weights: a file of weights to start from, see `nmtrain.models.vision_weights`.

    Raises:
        ValueError: if the name is unknown, timm refuses the arguments, or the weights do not fit.
    """
    timm_name, arguments = vision_architecture(name, shape, options)
    if weights is not None:
        return load_into_new(timm_name, arguments, weights)
    try:
        return timm.create_model(timm_name, **arguments)
    except Exception as error:  # the arguments are the user's, and timm hands them to anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"model.name={name}: timm cannot build {timm_name} with {arguments}: {reason}") from error
