"""The model of a run on the meta device: built, and called once, before any data is read."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from nmtrain.config.check import Config
from nmtrain.config.faults import written
from nmtrain.data import TextShape
from nmtrain.errors import ConfigError
from nmtrain.measure.products import ProductCounter
from nmtrain.models import build_model
from nmtrain.models.indices import RealIndices
from nmtrain.models.recompute import recompute_blocks
from nmtrain.models.saved import naming
from nmtrain.runs.loaded import in_plugin
from nmtrain.training.text_plan import require_texts_fit, text_inputs

# A micro-batch on the meta device: positional for images, whose argument no two libraries call the same.
Inputs = list[Tensor] | dict[str, Tensor]


def built(config: Config) -> tuple[nn.Module, Inputs, Collection[str]]:
    """The model on the meta device, one micro-batch that it can train on, and the weights that this multiplies by."""
    shape = config.data_shape
    samples = config.train.batch_size // config.train.micro_batches
    inputs: Inputs
    try:
        with torch.device("meta"), values(config):
            model = build_model(config.model, shape, pretrained=False)
        for module in model.modules():
            if hasattr(module, "layerdrop"):  # which layers transformers skips is chance, and none counts as skipped
                module.layerdrop = 0.0  # type: ignore[assignment]
        if isinstance(shape, TextShape):
            require_texts_fit(config, model)
        if config.train.gradient_checkpointing:
            with naming(f"train.gradient_checkpointing=true: model.name={config.model.name}"):
                recompute_blocks(deepcopy(model))
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error
    if isinstance(shape, TextShape):
        inputs = text_inputs(model, samples, shape.input_length, shape.target_length)
        expected = (samples, shape.outputs) if config.model.kind == "text_classifier" else None
    else:
        inputs = [torch.zeros(samples, shape.channels, shape.image_size, shape.image_size, device="meta")]
        expected = (samples, shape.num_classes)
    try:
        with values(config), ProductCounter(model) as counter:
            outputs = forward(model.train(), inputs)
        outputs = outputs if isinstance(outputs, Tensor) else outputs.logits
        fault = f"gives {tuple(outputs.shape)}" if expected and outputs.shape != expected else None
    except Exception as error:  # whatever timm, transformers or torch object to
        fault = (str(error).partition("\n")[0] or type(error).__name__) + in_plugin(error)
    if fault:
        given = ", ".join(
            str(tuple(tensor.shape)) for tensor in (inputs.values() if isinstance(inputs, dict) else inputs)
        )
        raise ConfigError(
            [
                f"model.name={config.model.name}: with model.options={written(config.model.options)} it does not map"
                f" micro-batches {given} to {f'{expected[1]} classes' if expected else 'text'}: {fault}"
            ]
        )
    return model, inputs, counter.by_weight


def forward(model: nn.Module, inputs: Inputs, **options: Any) -> Any:
    return model(**inputs, **options) if isinstance(inputs, dict) else model(*inputs, **options)


def values(config: Config) -> AbstractContextManager[Any]:
    """What a model on the meta device is built and called in: one of text needs the values of indices."""
    return RealIndices() if config.model.reads_text else nullcontext()


def has_idle_weights(config: Config) -> bool:
    """Whether an update may leave weights of the model without a gradient, as LED's of global attention."""
    model, inputs, _ = built(config)
    if rates_of_skipping(model):
        return True
    uncached = {"use_cache": False} if config.model.kind == "text_to_text" else {}
    with values(config):
        outputs = forward(model.train(), inputs, **uncached)
        (outputs if isinstance(outputs, Tensor) else outputs.logits).sum().backward()
    return any(parameter.grad is None for parameter in model.parameters() if parameter.requires_grad)


def rates_of_skipping(model: nn.Module) -> dict[str, float]:
    """By which options a model of transformers skips layers at random (LayerDrop), each with its rate."""
    settings = getattr(model, "config", None)
    rates = {name: getattr(settings, name, 0) for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")}
    return {name: rate for name, rate in rates.items() if rate}
