"""Image models from timm: small ones under names of our own, every other one under timm's name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from nmtrain.data import DataShape
from nmtrain.models.vision_weights import described_input, load_into_new

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


_AS_TIMM_SAYS = ("interpolation", "crop_pct", "crop_mode")
# What ours are given, not the 224 pixels of the architectures that they are cut from.
_SMALL_INPUT = {"input_size": (3, 32, 32), "interpolation": "bilinear", "crop_pct": 1.0}


def preprocessing(name: str, options: Mapping[str, Any], pretrained: str | None, channels: int) -> dict[str, Any]:
    """What timm says that a model is given: ``image_size``, ``interpolation``, ``crop_pct``, ``crop_mode``, ``mean``,
    ``std``. That of the weights it starts from goes before that of its name, and ``options.img_size`` before both.

    Of a name that timm does not know, it is what timm takes where a model says nothing.

    Args:
        channels: of the images; where they are not the model's, each has the average of its levels.

    Raises:
        ValueError, DataError: as `find_weights`.
    """
    said = _input_of(name) | (described_input(pretrained) if pretrained else {})
    resolved = resolve_data_config(pretrained_cfg=said)
    levels = {key: [float(value) for value in resolved[key]] for key in ("mean", "std")}
    if channels != len(levels["mean"]):
        levels = {key: [sum(values) / len(values)] * channels for key, values in levels.items()}
    size = options.get("img_size") or resolved["input_size"][-1]
    return {"image_size": size, **{key: resolved[key] for key in _AS_TIMM_SAYS}, **levels}


def _input_of(name: str) -> dict[str, Any]:
    if name in _SMALL:
        return _SMALL_INPUT
    try:
        listed = get_pretrained_cfg(name)
    except RuntimeError:  # of a known architecture, with a tag that it does not have
        listed = None
    return (listed or PretrainedCfg()).to_dict()


def vision_architecture(name: str, shape: DataShape, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The timm architecture and the arguments of ``timm.create_model`` that make a model fit the data.

    Raises:
        ValueError: if neither we nor timm know the name, or a rate of dropping is none.
    """
    timm_name, arguments = _SMALL.get(name, (name, {}))
    if not timm.is_model(timm_name):
        near = get_close_matches(timm_name, [*_SMALL, *timm.list_models()], n=5, cutoff=0.5)
        raise ValueError(
            f"model.name={name}: there is no such model. Available: {list(_SMALL)} and every name of timm"
            + (f"; near to it: {near}" if near else "")
        )
    for option, rate in options.items():
        if option.endswith("drop_rate") or option in ("drop_path_rate", "drop_block_rate"):
            _require_rate(f"model.options.{option}", rate)
    arguments = {**arguments, "num_classes": shape.num_classes, "in_chans": shape.channels}
    pretrained = get_pretrained_cfg(timm_name)
    if pretrained is not None and pretrained.fixed_input_size:  # others take any image size, and no such argument
        arguments["img_size"] = shape.image_size
    return timm_name, {**arguments, **options}


def _require_rate(option: str, rate: Any) -> None:
    """timm takes any number, drops nothing below 0, and fails above 1 when training begins."""
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (is_number and 0 <= rate <= 1):
        raise ValueError(f"{option}={rate}: is no rate of dropping; allowed: numbers from 0 to 1")


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
