"""Models out of a run folder: loaded and checked, or exported for plain timm and transformers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from nmtrain.config.check import Config, check_config
from nmtrain.config.choices import groups
from nmtrain.data import DataShape, TextShape, data_names
from nmtrain.data.earlier import completed
from nmtrain.data.hub import ADVICE
from nmtrain.data.images.batches import Preprocessing
from nmtrain.errors import DataError, RunFolderError
from nmtrain.models import build_model
from nmtrain.models.registry import is_registered
from nmtrain.models.saved import aliases, load_saved
from nmtrain.models.vision import vision_architecture
from nmtrain.recipes import list_recipes
from nmtrain.runs.folder import RunFolder, write_whole
from nmtrain.runs.loaded import changed_plugins, missing_plugin, provider
from nmtrain.runs.weights import LAST, Weights
from nmtrain.sparsity import NMPattern, SparsityRule, verify_sparsity
from nmtrain.training.kept import kept_images, kept_model, kept_shape

logger = logging.getLogger(__name__)

_ORIGINS = ("data.path=", "data=", "model.pretrained=", "model.name=", "model.tokenizer=")


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict as safetensors: dense shapes, exact zeros, the stock model's keys.

    A model of timm gets every key, since timm asks for each; shared weights are written under all of their names.
    Transformers ties weights itself when it loads: there they are written once, under their first name.
    """
    once = aliases(model) if hasattr(model, "save_pretrained") else {}
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in once}
    # Copies, because safetensors refuses tensors that share memory.
    content = save(
        {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}, {"format": "pt"}
    )
    write_whole(path, lambda file: file.write(content))


def load_run(path: Path, weights: Weights = LAST) -> tuple[Config, nn.Module]:
    """Config and projected model of a finished run, the model checked group by group.

    Data, checkpoint and tokenizer need not be where they were: what the run kept of them takes their place.

    Raises:
        RunFolderError: if the folder is not a finished run's, if a file of it is missing or damaged, or if a group of
            a sparse tensor has more than N non-zero weights; where the run keeps no such weights.
    """
    folder = RunFolder(path)
    folder.require_finished()
    weights.require(folder)
    config = run_config(folder)
    return config, load_model(folder, config, weights)


def run_config(folder: RunFolder) -> Config:
    """The config of a finished run, whose model is the one that it kept. Raises RunFolderError as `load_run`."""
    shape = kept_shape(folder)
    values = saved_values(folder)
    with damage_told(folder / "config.yaml"), origin_told(folder):
        config = check_config(values, shape)
    return config if shape is None else replace(config, model=kept_model(folder, config.model))


def saved_values(folder: RunFolder) -> dict[str, Any]:
    """The content of config.yaml, as this version reads it.

    Raises:
        RunFolderError: if there are no keys and values, or a plug-in that they name is not loaded.
    """
    with damage_told(folder / "config.yaml"):
        values = yaml.safe_load((folder / "config.yaml").read_text())
        if not isinstance(values, dict):
            raise ValueError("no keys and values")
    environment = folder.environment
    known = {"recipe": list_recipes(), "data": data_names(), "model": groups()["model"]}
    if lacking := missing_plugin(values, environment, known):
        raise RunFolderError(f"{folder.path}: {lacking}")
    for change in changed_plugins(values, environment):
        logger.warning("%s: %s", folder.path, change)
    return _completed(values)


def load_model(folder: RunFolder, config: Config, weights: Weights = LAST) -> nn.Module:
    """The projected model of a run, as `load_run`, for a config that is checked."""
    with damage_told(folder / "config.yaml"), origin_told(folder):
        model = build_model(config.model, config.data_shape, pretrained=False)
    file = folder / weights.file
    with damage_told(file):
        load_saved(model, load_file(file))
        verify_sparsity(model, _recorded_rules(folder))
    return model


@contextmanager
def damage_told(file: Path) -> Iterator[None]:
    """Turn what goes wrong with a file of a run folder into RunFolderError with its name."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{file}: {error.strerror or error}") from error
    except (ValueError, KeyError, RuntimeError, SafetensorError, yaml.YAMLError) as error:
        raise RunFolderError(f"{file}: does not hold what this run left: {error}") from error


@contextmanager
def origin_told(folder: RunFolder) -> Iterator[None]:
    """Say what is gone of the data or the checkpoint that a folder of before, which keeps nothing of them, needs.

    What else errors advise, such as other settings, is nothing that a finished run takes.
    """
    try:
        yield
    except (DataError, ValueError) as error:
        needed = [line.partition(ADVICE)[0] for line in str(error).splitlines()]
        if kept_shape(folder) is not None or not all(line.startswith(_ORIGINS) for line in needed):
            raise
        raise RunFolderError(
            f"{folder.path}: was made by an earlier version, and needs what it was trained with where that was:"
            f" {'; '.join(needed)}"
        ) from error


def _recorded_rules(folder: RunFolder) -> list[SparsityRule]:
    """What the run made sparse, as it wrote it down: a later version may know the rows of q, k and v better."""
    return [
        SparsityRule(
            tensor["name"],
            NMPattern.parse(tensor["pattern"]),
            tensor["role"],
            tensor["axis"],
            tuple(tensor["rows"]) if tensor["rows"] else None,
        )
        for tensor in folder.read_json("sparse_tensors.json")
    ]


def _completed(values: dict[str, Any]) -> dict[str, Any]:
    """The config of a run, with what the absence of later options meant."""
    model, data = values.get("model"), values.get("data")
    if not isinstance(model, dict) or not isinstance(data, dict):
        return values
    return values | {"data": completed(data, model.get("kind"))}


def export_run(path: Path, out: Path, weights: Weights = LAST) -> str:
    """Write a folder that the model's own library loads; returns the expression that loads it.

    Raises RunFolderError as `load_run` does, and where ``out`` cannot be written.
    """
    config, model = load_run(path, weights)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with origin_told(RunFolder(path)):
            if config.model.reads_text:
                return _export_text(config, model, out)
            return _export_image(config, model, out, kept_images(RunFolder(path)))
    except ValueError as error:  # of a tokenizer that is gone
        raise RunFolderError(f"{path}: {error}") from error
    except OSError as error:
        raise RunFolderError(
            f"{out}: cannot be written ({error.strerror or error}); name a folder that can: --out DIR"
        ) from error


def _export_image(config: Config, model: nn.Module, out: Path, images: tuple[Preprocessing, list[str]] | None) -> str:
    """With what timm's `resolve_model_data_config` then gives, where the run kept it."""
    shape = config.data_shape
    assert isinstance(shape, DataShape)
    if is_registered(config.model.name):
        return _export_registered(config, model, out)
    name, arguments = vision_architecture(config.model.name, shape, config.model.options)
    description: dict[str, Any] = {
        "architecture": name,
        "num_classes": shape.num_classes,
        "model_args": {key: value for key, value in arguments.items() if key != "num_classes"},
        "pretrained_cfg": {
            "input_size": [shape.channels, shape.image_size, shape.image_size],
            "num_classes": shape.num_classes,
            **({} if images is None else asdict(images[0]) | {"label_names": images[1]}),
        },
    }
    save_weights(model, out / "model.safetensors")
    write_whole(out / "config.json", lambda file: file.write(json.dumps(description, indent=1).encode()))
    return f'timm.create_model("local-dir:{out}", pretrained=True)'


def _export_registered(config: Config, model: nn.Module, out: Path) -> str:
    """A model from outside, which only the code that it is from can build."""
    plugin = provider("model", config.model.name)
    description = {
        "model": config.model.name,
        "shape": vars(config.data_shape),
        "options": config.model.options,
        "plugin": plugin.record() if plugin else None,
    }
    save_weights(model, out / "model.safetensors")
    write_whole(out / "config.json", lambda file: file.write(json.dumps(description, indent=1).encode()))
    weights = out / "model.safetensors"
    return f'model.load_state_dict(safetensors.torch.load_file("{weights}")), model as {config.model.name} builds it'


def _export_text(config: Config, model: Any, out: Path) -> str:
    """With the tokenizer, the label words of a classifier, and the settings by which an encoder-decoder was scored."""
    from nmtrain.models.language import build_tokenizer, quiet
    from nmtrain.training.text_task import generation_settings

    shape = config.data_shape
    assert isinstance(shape, TextShape)
    tokenizer = build_tokenizer(config.model)
    labels = shape.labels or ("LABEL_0",)  # as transformers calls the one number of a regression
    if config.model.kind == "text_classifier":
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
    else:
        model.generation_config = generation_settings(model, shape, tokenizer, config.train)
    with quiet():
        model.save_pretrained(out)
    for weights in out.glob("*.safetensors"):  # which safetensors writes for the owner alone
        weights.chmod((out / "config.json").stat().st_mode)
    tokenizer.save(out)
    kind = "Seq2SeqLM" if config.model.kind == "text_to_text" else "SequenceClassification"
    return f'transformers.AutoModelFor{kind}.from_pretrained("{out}")'
