"""Language models from transformers: a few shapes under names of our own, every other one by hub name or folder."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nmtrain.choices import near
from nmtrain.data import TextShape
from nmtrain.data.tokens import ByteTokenizer, PretrainedTokenizer, Tokenizer
from nmtrain.faults import written

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from nmtrain.schema import ModelConfig

# Shapes that need no download. The released T5 sizes are those of Raffel et al. (2020) and of T5 1.1.
# Every axis that a role covers is a multiple of 64, so that all patterns up to 1:64 fit.
_T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
_SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 3, "num_decoder_layers": 1, "num_heads": 4}),
    "t5_small": ("t5", {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}),
    "t5_base": ("t5", _T5_BASE),
    "t5_v1_1_base": (
        "t5",
        {**_T5_BASE, "d_ff": 2048, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bert": (
        "bert",
        {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4},
    ),
}
_VOCABULARY_MULTIPLE = 128  # sizes of embeddings are rounded up to it, as T5's own are


def build_tokenizer(model: ModelConfig) -> Tokenizer:
    """``model.tokenizer``, else the one that comes with the checkpoint, else bytes.

    Raises:
        ValueError: if there is no such tokenizer.
        DataError: if it is neither here nor can the hub be reached.
    """
    if model.tokenizer == "bytes":
        return ByteTokenizer()
    source = model.tokenizer or model.pretrained or (None if model.name in _SHAPES else model.name)
    if source is None:
        return ByteTokenizer()
    option = "model.tokenizer" if model.tokenizer else "model.pretrained" if model.pretrained else "model.name"
    return _from_hub(PretrainedTokenizer, source, option)


def language_architecture(model: ModelConfig, shape: TextShape) -> PretrainedConfig:
    """The configuration of transformers: of the checkpoint or hub name, or one of our shapes; with ``model.options``.

    Raises:
        ValueError: if there is no such model or it does not take the options.
        DataError: if it is neither here nor can the hub be reached.
    """
    from transformers import AutoConfig

    options: dict[str, Any] = dict(model.options)
    if model.kind == "text_classifier":
        problem = "regression" if shape.is_regression else "single_label_classification"
        said = {"num_labels": shape.outputs, "problem_type": problem}
        if given := sorted(said.keys() & options.keys()):
            raise ValueError(
                "\n".join(f"model.options.{key}={options[key]}: the data say it ({said[key]})" for key in given)
            )
        options |= said
    source = model.pretrained or (None if model.name in _SHAPES else model.name)
    if source is not None:
        option = "model.pretrained" if model.pretrained else "model.name"
        config = _from_hub(lambda name, **where: AutoConfig.from_pretrained(name, **where, **options), source, option)
        return _ready(_checked(config, model), model)
    family, arguments = _SHAPES[model.name]
    tokenizer = build_tokenizer(model)
    rounded = -(-tokenizer.vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
    tokens = {"vocab_size": rounded, "pad_token_id": tokenizer.pad, "eos_token_id": tokenizer.end}
    if model.kind == "text_to_text":
        tokens["decoder_start_token_id"] = tokenizer.pad
    elif shape.input_length > 512:
        arguments = {**arguments, "max_position_embeddings": shape.input_length}
    try:
        config = AutoConfig.for_model(family, **{**arguments, **tokens, **options})
    except Exception as error:  # the options are the user's
        reason = " ".join(str(error).split())
        raise ValueError(
            f"model.options={written(options)}: transformers refuses them for {family}: {reason}"
        ) from error
    return _checked(config, model)


def _ready(config: PretrainedConfig, model: ModelConfig) -> PretrainedConfig:
    """A checkpoint's configuration, checked for what would only show while training."""
    folder = Path(model.pretrained or "").expanduser()
    if model.pretrained and folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise ValueError(f"model.pretrained={model.pretrained}: the folder has no weights in safetensors")
    if model.tokenizer and (size := build_tokenizer(model).vocab_size) > config.vocab_size:
        raise ValueError(
            f"model.tokenizer={model.tokenizer}: has {size} tokens, and the model embeds only {config.vocab_size}"
        )
    if model.kind == "text_to_text" and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id  # as T5 was trained; older configurations leave it out
    return config


def _checked(config: PretrainedConfig, model: ModelConfig) -> PretrainedConfig:
    """Transformers takes any option without a word; one that the architecture does not have would change nothing."""
    known = sorted(type(config)().to_dict())
    unknown = [option for option in model.options if option not in known and option not in config.attribute_map]
    if unknown:
        raise ValueError(
            "\n".join(
                f"model.options.{option}={written(model.options[option])}: {config.model_type} has no such option."
                f" Available: {known}{near(option, known)}"
                for option in unknown
            )
        )
    return config


def build_language_model(model: ModelConfig, shape: TextShape, pretrained: bool = True) -> PreTrainedModel:
    """A stock model of transformers, in fp32.

    Random weights come from torch's global generator. Never runs a repository's own code; reads safetensors only.

    Args:
        pretrained: load the weights of ``model.pretrained``; False where others take their place or none are wanted.

    Raises:
        ValueError, DataError: as `language_architecture`.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = language_architecture(model, shape)
    kind: Any = AutoModelForSeq2SeqLM if model.kind == "text_to_text" else AutoModelForSequenceClassification
    config.use_cache = model.kind == "text_to_text"
    if model.pretrained and pretrained:
        built = _from_hub(
            lambda name, **where: kind.from_pretrained(
                name, config=config, use_safetensors=True, dtype=torch.float32, **where
            ),
            model.pretrained,
            "model.pretrained",
        )
    else:
        try:
            built = kind.from_config(config, dtype=torch.float32)
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"model.name={model.name}: is no {model.kind} of transformers: {reason}") from error
    return built


def reads_token_types(model: PreTrainedModel) -> bool:
    """Whether a model tells the two texts of a pair apart by the types of their tokens."""
    takes = "token_type_ids" in signature(model.forward).parameters
    return takes and getattr(model.config, "type_vocab_size", 2) > 1


def _from_hub(load: Any, source: str, option: str) -> Any:
    """``load(source)`` from a folder, from what was downloaded before, or from the hub."""
    try:
        if not Path(source).expanduser().is_dir():
            if source.startswith(("/", ".", "~")):
                raise ValueError("there is no such folder")
            try:
                return load(source, local_files_only=True)
            except OSError:
                from nmtrain.data.hub import require_hub

                require_hub(f"{option}={source}", f"{option}=FOLDER")
        else:
            source = str(Path(source).expanduser())
        return load(source)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{option}={source}: transformers cannot load it: {reason[:300]}") from error
