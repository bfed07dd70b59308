"""What only a trial shows of a language model before it trains: the texts that it cannot take, and what texts cost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nmtrain.config.check import Config
from nmtrain.data import TextShape
from nmtrain.data.text.batches import widths
from nmtrain.errors import ConfigError
from nmtrain.measure import LengthCost, length_cost
from nmtrain.models.indices import RealIndices
from nmtrain.models.language import build_tokenizer, require_vocabulary
from nmtrain.sparsity import SparseTensor


def text_inputs(model: Any, samples: int, source: int, target: int) -> dict[str, Tensor]:
    """Keyword arguments for a model on the meta device: ``samples`` of so many tokens each, none of them padding.

    They are on the CPU, for `RealIndices`.
    """
    token = int(model.config.pad_token_id == 0)
    inputs = {"input_ids": torch.full((samples, source), token)}
    if model.config.is_encoder_decoder and model.can_generate():
        inputs["decoder_input_ids"] = torch.full((samples, target), token)
    masks = {name.replace("input_ids", "attention_mask"): torch.ones_like(ids) for name, ids in inputs.items()}
    return inputs | masks


def require_texts_fit(config: Config, model: Any) -> None:
    """Raise ValueError, a line for each fault, where a model on the meta device cannot take the texts of a config:
    tokens that it does not embed, inputs or targets longer than it has positions for."""
    shape = config.data_shape
    assert isinstance(shape, TextShape)
    tokenizer = build_tokenizer(config.model)
    require_vocabulary(config.model, model, tokenizer)

    def refused(source: int, target: int) -> bool:
        """Whether a sample of these lengths does not go through, padded as the only one of its batch."""
        inputs = text_inputs(model, 1, *widths(torch.tensor([[source, target]])))
        for name, ids in inputs.items():
            length = target if name.startswith("decoder") else source
            ids[:, length:] = tokenizer.pad if name.endswith("ids") else 0
        try:
            with RealIndices():
                model(**inputs)
        except Exception:  # whatever transformers or torch object to
            return True
        return False

    if not refused(shape.input_length, shape.target_length) or refused(1, 1):
        return  # what is wrong with it is not the length
    faults = []
    for what, longest, at in (
        ("input", shape.input_length, lambda length: refused(length, 1)),
        ("target", shape.target_length, lambda length: refused(1, length)),
    ):
        usable = bisect_left(range(1, longest + 1), True, key=at)
        if usable < longest:
            key = next((key for key in (f"{what}_length", "max_length", "window") if key in config.data), "name")
            faults.append(
                f"data.{key}={config.data[key]}: gives {what}s of up to {longest} tokens, and the model has positions"
                f" for {usable}; allowed: {what}s of at most {usable} tokens"
            )
    if faults:
        raise ValueError("\n".join(faults))


def text_cost(config: Config, model: Any, tensors: Sequence[SparseTensor]) -> LengthCost:
    """What a text costs by its lengths, exact up to the longest of a config.

    Raises:
        ConfigError: where the model's cost cannot be told from few counts.
    """
    shape = config.data_shape
    assert isinstance(shape, TextShape)
    longest = (shape.input_length, shape.target_length)
    try:
        if getattr(model.config, "num_experts", None):
            raise ValueError("what a text costs depends on the experts it is sent to")
        return length_cost(model, lambda s, t: text_inputs(model, 1, s, t), tensors, longest, RealIndices)
    except Exception as error:  # also whatever transformers or torch object to in a text of one token
        reason = str(error).partition("\n")[0] or type(error).__name__
        source = "pretrained" if config.model.pretrained else "name"
        fault = f"model.{source}={getattr(config.model, source)}: its FLOPs cannot be told: {reason}"
        raise ConfigError([fault]) from error
