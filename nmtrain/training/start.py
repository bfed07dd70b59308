"""The weights that a run starts from: random ones, a checkpoint's (`model.pretrained`), or another run's (`init_from`).

Once a run has a checkpoint of its own it needs them no more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nmtrain.config.check import Config
from nmtrain.config.faults import written
from nmtrain.config.schema import ModelConfig
from nmtrain.data import DataShape, TextShape
from nmtrain.data.digest import START, file_digests
from nmtrain.data.text.tokens import Tokenizer
from nmtrain.errors import ConfigError, DataError, RunFolderError
from nmtrain.models import build_model
from nmtrain.models.language import build_tokenizer, checkpoint_weights, new_weights
from nmtrain.models.registry import is_registered
from nmtrain.models.saved import load_saved, misfits, naming, shapes_of, some, untie
from nmtrain.runs.folder import RunFolder
from nmtrain.sparsity.rules import stock_name
from nmtrain.training.kept import kept_model, kept_shape


def start_told(config: Config, model: nn.Module) -> list[str]:
    """A line where weights to start from are not taken as they are; they are checked by their shapes alone.

    A dry run downloads none for that.

    Args:
        model: of the config, on the meta device.

    Raises:
        ConfigError: where they cannot be had or do not fit.
        DataError: where they have to come from a hub that cannot be reached.
    """
    try:
        if not (config.init_from or config.model.pretrained) or goes_on(config):
            return []
        if config.init_from is None and isinstance(config.data_shape, TextShape):
            return new_weights(config.model, config.data_shape, download=not config.dry_run)
        with naming(_setting(config)):
            if is_registered(config.model.name) and config.init_from is None:
                raise ValueError(f"is not for model.name={config.model.name} of a plug-in; init_from=RUN is")
            told = _told(config, model)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error
    return [f"{_setting(config)}: {'; '.join(told)}"] if told else []


def starting_model(config: Config, checkpoint: dict[str, Any] | None) -> nn.Module:
    """The model with the weights that a run starts from.

    Args:
        checkpoint: of the run itself, if it goes on from one: all weights are there, and not loaded here.

    Raises:
        ValueError, DataError: as `build_model`.
    """
    shape = config.data_shape
    if isinstance(shape, DataShape):
        if checkpoint or config.init_from is None:
            return build_model(config.model, shape, pretrained=checkpoint is None)
        if is_registered(config.model.name):
            model = build_model(config.model, shape, pretrained=False)
            load_saved(model, load_file(_weights(config.init_from)))
            return model
        from nmtrain.models.vision import build_vision_model

        return build_vision_model(config.model.name, shape, config.model.options, _weights(config.init_from))
    if checkpoint is None and config.init_from is None:
        return build_model(config.model, shape)
    model = build_model(config.model, shape, pretrained=False)
    if checkpoint:
        untie(model, {stock_name(name): tensor for name, tensor in checkpoint["model"].items()})
    elif config.init_from is not None:
        tensors = load_file(_weights(config.init_from))
        load_saved(model, tensors, leave=_text_head(config, model, misfits(model, tensors)[2]))
    return model


def start_digest(config: Config, before: dict[str, str], refuse: Callable[[str], None]) -> dict[str, str]:
    """The digest of the weights that a run starts from, to be kept beside those of its data.

    Args:
        before: the digests when the run began. Files that are gone since are not needed, and keep their digest.
        refuse: is told that the weights are others now.
    """
    files = _start_files(config)
    if not files:
        return {START: before[START]} if START in before else {}
    digest = " ".join(file_digests(files).values())
    if before.get(START, digest) != digest:
        named = files[0] if len(files) == 1 else files[0].parent
        refuse(f"{_setting(config)}: its weights ({named}) are not what this run began with")
    return {START: digest}


def goes_on(config: Config) -> bool:
    """Whether the run has weights of its own: a checkpoint, or those it ended with."""
    own = (*config.run_folder.glob("checkpoints/*.pt"), *config.run_folder.glob("model.safetensors"))
    return bool(own) and not config.force


def _setting(config: Config) -> str:
    pretrained = f"model.pretrained={config.model.pretrained}"
    return pretrained if config.init_from is None else f"init_from={config.init_from}"


def _weights(run: Path) -> Path:
    return run / "model.safetensors"


def _start_files(config: Config) -> list[Path]:
    """The local files of weights, if there are such."""
    if config.init_from is not None:
        return [_weights(config.init_from)] if _weights(config.init_from).is_file() else []
    if not config.model.pretrained:
        return []
    if config.model.reads_text:
        return checkpoint_weights(config.model.pretrained)
    from nmtrain.models.vision_weights import find_weights

    try:
        file = find_weights(config.model.pretrained, download=False)
    except (ValueError, DataError):
        return []
    return [] if file is None else [file]


def _told(config: Config, model: nn.Module) -> list[str]:
    """What is not taken as it is, in words. Raises ValueError, DataError as `start_told`, without the setting."""
    if config.init_from is None:
        from nmtrain.models.vision_weights import find_weights

        assert config.model.pretrained
        file = find_weights(config.model.pretrained, download=not config.dry_run)
        return _image_told(config, file) if file else []
    theirs = _run_to_start_from(config, config.init_from)
    if isinstance(config.data_shape, TextShape):
        return _text_told(config, model, theirs, config.init_from)
    if is_registered(config.model.name):
        # What options mean is the plug-in's to know, and those that neither says are its defaults.
        given = [{"name": one.name, **one.options} for one in (theirs, config.model)]
        shared = given[0].keys() & given[1].keys()
        _require_same(*({key: one[key] for key in shared} for one in given))
        return _fit_told(config, model, config.init_from)
    _require_same(_image_architecture(theirs, config.data_shape), _image_architecture(config.model, config.data_shape))
    return _image_told(config, _weights(config.init_from))


def _image_told(config: Config, file: Path) -> list[str]:
    from nmtrain.models.vision import vision_architecture
    from nmtrain.models.vision_weights import trial

    assert isinstance(config.data_shape, DataShape)
    return trial(*vision_architecture(config.model.name, config.data_shape, config.model.options), file)


def _image_architecture(model: ModelConfig, shape: DataShape) -> dict[str, Any]:
    from nmtrain.models.vision import vision_architecture

    architecture, arguments = vision_architecture(model.name, shape, model.options)
    return {"architecture": architecture, **arguments}


def _run_to_start_from(config: Config, run: Path) -> ModelConfig:
    """The model of the run that ``init_from`` names. Raises ValueError where nothing can start from it."""
    if not run.is_dir():
        raise ValueError("there is no such folder")
    if run == config.run_folder.resolve():
        raise ValueError("is the folder of this very run")
    try:
        RunFolder(run).require_finished()
        values = yaml.safe_load((run / "config.yaml").read_text())
        theirs = ModelConfig.model_validate(values["model"])
    except RunFolderError as error:
        raise ValueError(str(error).removeprefix(f"{run}: ")) from error
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValidationError) as error:
        raise ValueError("its config.yaml does not say what model it trained") from error
    if not _weights(run).is_file():
        raise ValueError("has no model.safetensors")
    if theirs.kind != config.model.kind:
        raise ValueError(f"is a run of model.kind={theirs.kind}, and this one is of model.kind={config.model.kind}")
    return theirs


def _require_same(there: dict[str, Any], here: dict[str, Any]) -> None:
    from nmtrain.models.vision_weights import differences

    if found := differences(there, here):
        pairs = [f"{key} is {written(one)} there and {written(other)} here" for key, one, other in found]
        raise ValueError(f"is a run of another architecture: {some(pairs)}")


def _text_told(config: Config, model: nn.Module, theirs: ModelConfig, run: Path) -> list[str]:
    ours = config.model
    _require_same(*({"name": one.name.rstrip("/"), **one.options} for one in (theirs, ours)))
    same_words = (theirs.tokenizer, theirs.pretrained) == (ours.tokenizer, ours.pretrained)
    if not same_words and _tokenizer_of(run, theirs).fingerprint != build_tokenizer(ours).fingerprint:
        raise ValueError("its tokenizer is another one, and its embeddings are of other tokens")
    return _fit_told(config, model, run)


def _fit_told(config: Config, model: nn.Module, run: Path) -> list[str]:
    """What of a run's weights a model will not take, in words. Raises ValueError where it is more than a head."""
    ours = config.model
    try:
        tensors = shapes_of(_weights(run))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"model.safetensors cannot be read as weights: {error}") from error
    absent, unknown, resized = misfits(model, tensors)
    head = _text_head(config, model, resized)
    sizes = {
        name: f"{name} ({list(tensors[name].shape)} there, {list(model.state_dict()[name].shape)} here)"
        for name in resized
    }
    faults = [f"it has no {some(absent)}"] if absent else []
    faults += [f"the model has no {some(unknown)}"] if unknown else []
    faults += (
        [f"other shapes: {some([sizes[name] for name in resized if name not in head])}"]
        if set(resized) - set(head)
        else []
    )
    if faults:
        raise ValueError(f"does not fit {ours.name} with {written(ours.options)}: {'; '.join(faults)}")
    return [f"a new head: {some([sizes[name] for name in head])}"] if head else []


def _tokenizer_of(run: Path, model: ModelConfig) -> Tokenizer:
    """What the run kept of it, wherever that came from; of a folder of before, from there."""
    folder = RunFolder(run)
    return build_tokenizer(model if kept_shape(folder) is None else kept_model(folder, model))


def _text_head(config: Config, model: Any, resized: list[str]) -> list[str]:
    """Those of a classifier's weights that depend on how many classes there are; an encoder-decoder has none."""
    if config.model.kind != "text_classifier":
        return []
    return [name for name in resized if not name.startswith(f"{model.base_model_prefix}.")]
