"""Language models from transformers: a few shapes under names of our own, every other one by hub name or folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nmtrain.config.choices import near
from nmtrain.config.faults import written
from nmtrain.data import TextShape
from nmtrain.data.text.tokens import ByteTokenizer, PretrainedTokenizer, Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from nmtrain.config.schema import ModelConfig

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
_DESCRIPTIONS = (".json", ".model", ".txt")  # of a checkpoint and its tokenizer
_UNREAD = ("generation_config.json",)  # never used, see `TextToText`
_VOCABULARY_MULTIPLE = 128  # sizes of embeddings are rounded up to it, as T5's own are


def build_tokenizer(model: ModelConfig) -> Tokenizer:
    """``model.tokenizer``, else the one that comes with the checkpoint, else bytes.

    Raises:
        ValueError: if there is no such tokenizer.
        DataError: if it is neither here nor can the hub be reached.
    """
    if reads_bytes(model):
        return ByteTokenizer()
    option, source = ("model.tokenizer", model.tokenizer) if model.tokenizer else _source(model)
    return _from_hub(PretrainedTokenizer, source, option)


def reads_bytes(model: ModelConfig) -> bool:
    """Whether a model's tokens are bytes, for which no vocabulary is needed."""
    own = not model.tokenizer and not model.pretrained and model.name in _SHAPES
    return own or model.tokenizer == "bytes"


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
    if model.pretrained or model.name not in _SHAPES:
        option, source = _source(model)
        with quiet():  # about a head of another size
            config, again = _from_hub(
                lambda name, **where: (
                    AutoConfig.from_pretrained(name, **where),
                    partial(AutoConfig.from_pretrained, name, **where),
                ),
                source,
                option,
            )
            if options:
                try:
                    config = again(**options)
                except Exception as error:
                    raise _refused(model, config.model_type, error) from error
        if model.kind == "text_classifier" and config.is_encoder_decoder:
            raise ValueError(
                f"{option}={source}: is an encoder-decoder ({config.model_type}), which model.kind=text_classifier does"
                " not take; allowed: encoders, or model.kind=text_to_text (model=t5)"
            )
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
    except Exception as error:
        raise _refused(model, family, error) from error
    return _checked(config, model)


def _refused(model: ModelConfig, family: str, error: Exception) -> ValueError:
    """What transformers says of options, by whatever exception; they are the user's."""
    reason = " ".join(str(error).split())
    return ValueError(f"model.options={written(model.options)}: transformers refuses them for {family}: {reason}")


def _ready(config: PretrainedConfig, model: ModelConfig) -> PretrainedConfig:
    """A checkpoint's configuration, checked for what would only show while training."""
    if model.tokenizer:
        _require_rows(f"model.tokenizer={model.tokenizer}", build_tokenizer(model), config.vocab_size)
    if model.kind == "text_to_text" and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id  # as T5 was trained; older configurations leave it out
    return config


def checkpoint_files(model: ModelConfig) -> list[Path]:
    """The local files that make a model what it is beside its weights: its configuration and its tokenizer."""
    named = (model.pretrained or model.name, model.tokenizer)
    folders = dict.fromkeys(Path(name).expanduser() for name in named if name)
    return [
        file
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix in _DESCRIPTIONS and file.name not in _UNREAD and not file.name.endswith(".index.json")
    ]


def checkpoint_weights(pretrained: str) -> list[Path]:
    """The files of a checkpoint's weights, in a folder or as they were downloaded before; none where there are none."""
    folder = Path(pretrained).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(pretrained, local_files_only=True))
        except (HFValidationError, LocalEntryNotFoundError):
            return []
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))


def require_vocabulary(model: ModelConfig, built: Any, tokenizer: Tokenizer) -> None:
    """Raise ValueError where a model has no embedding for a token that it would be given."""
    option, source = _source(model)
    rows = built.get_input_embeddings().num_embeddings
    _require_rows(f"model.tokenizer={model.tokenizer}" if model.tokenizer else f"{option}={source}", tokenizer, rows)
    if model.kind == "text_to_text" and built.config.decoder_start_token_id not in range(rows):
        raise ValueError(
            f"{option}={source}: its decoder starts with token {built.config.decoder_start_token_id}, and the model"
            f" embeds the tokens 0 to {rows - 1}"
        )


def _require_rows(source: str, tokenizer: Tokenizer, rows: int) -> None:
    if (size := tokenizer.vocab_size) > rows:
        raise ValueError(f"{source}: has {size} tokens, and the model embeds only {rows}")


def _source(model: ModelConfig) -> tuple[str, str]:
    """The option that says which model it is, and its value."""
    return ("model.pretrained", model.pretrained) if model.pretrained else ("model.name", model.name)


def _checked(config: PretrainedConfig, model: ModelConfig) -> PretrainedConfig:
    """Transformers takes any option without a word; one that the architecture does not have would change nothing."""
    config.use_cache = model.kind == "text_to_text"
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
        ValueError, DataError: as `language_architecture`, and where the weights are those of another architecture.
    """
    if pretrained and (loaded := _loaded(model, shape) if model.pretrained else None):
        return loaded[0]
    config = language_architecture(model, shape)
    try:
        return _library(model).from_config(config, dtype=torch.float32)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        option, source = _source(model)
        named = f"{option}={source}" + (f", model.options={written(model.options)}" if model.options else "")
        raise ValueError(f"{named}: is no {model.kind} of transformers: {reason}") from error


def new_weights(model: ModelConfig, shape: TextShape, download: bool) -> list[str]:
    """A line where weights of the model are not in its checkpoint and start at random, as a classifier's head does.

    Args:
        download: a checkpoint that this machine has not yet; otherwise such a one is not looked at.

    Raises:
        ValueError, DataError: as `build_language_model`.
    """
    if not model.pretrained or (loaded := _loaded(model, shape, download, device_map="meta")) is None:
        return []
    _, new = loaded
    named = ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "")
    return [f"model.pretrained={model.pretrained}: new weights, which start at random: {named}"] if new else []


def _loaded(
    model: ModelConfig, shape: TextShape, download: bool = True, **how: Any
) -> tuple[PreTrainedModel, list[str]] | None:
    """The model with the checkpoint's weights, and those that the checkpoint has not, or in another size.

    Returns None where it would have to be downloaded and must not be.
    """
    from transformers import GenerationConfig

    assert model.pretrained
    folder = Path(model.pretrained).expanduser()
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise ValueError(f"model.pretrained={model.pretrained}: the folder has no weights in safetensors")
    config = language_architecture(model, shape)
    with quiet():  # what it would report is in the list, or refused
        loaded = _from_hub(
            lambda name, **where: _library(model).from_pretrained(
                name,
                config=config,
                generation_config=GenerationConfig(),  # the checkpoint's own may be invalid, and is never used
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **where,
                **how,
            ),
            model.pretrained,
            "model.pretrained",
            download,
        )
    if loaded is None:
        return None
    built, report = loaded
    resized = {
        name: f"{list(ours)}, and {list(theirs)} in the checkpoint" for name, theirs, ours in report["mismatched_keys"]
    }
    body = f"{built.base_model_prefix}." if model.kind == "text_classifier" else ""
    if faults := [f"{name} is {sizes}" for name, sizes in sorted(resized.items()) if name.startswith(body)]:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise ValueError(
            f"model.pretrained={model.pretrained}: with model.options={written(model.options)} {faults[0]}{more}"
        )
    absent = set(report["missing_keys"])
    if not {name for name, _ in built.named_parameters() if name.startswith(body)} - absent:
        raise ValueError(f"model.pretrained={model.pretrained}: its weights are not those of a {config.model_type}")
    return built, [f"{name} ({resized[name]})" if name in resized else name for name in sorted(absent | resized.keys())]


def reads_token_types(model: PreTrainedModel) -> bool:
    """Whether a model tells the two texts of a pair apart by the types of their tokens."""
    takes = "token_type_ids" in signature(model.forward).parameters
    return takes and getattr(model.config, "type_vocab_size", 2) > 1


@contextmanager
def quiet() -> Iterator[None]:
    """Without the reports and progress bars of transformers."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _library(model: ModelConfig) -> Any:
    """The class of transformers that builds such models."""
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    return AutoModelForSeq2SeqLM if model.kind == "text_to_text" else AutoModelForSequenceClassification


def _from_hub(load: Any, source: str, option: str, download: bool = True) -> Any:
    """``load(source)`` from a folder, from what was downloaded before, or from the hub; None where only that has it
    and ``download`` is False."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        if not Path(source).expanduser().is_dir():
            if source.startswith(("/", ".", "~")):
                raise ValueError("there is no such folder")
            try:
                return load(source, local_files_only=True)
            except OSError:
                from nmtrain.data.hub import require_hub

                if not download:
                    return None
                require_hub(f"{option}={source}", f"{option}=FOLDER")
        else:
            source = str(Path(source).expanduser())
        return load(source)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{option}={source}: transformers cannot load it: {reason[:300]}") from error
