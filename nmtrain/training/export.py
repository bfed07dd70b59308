"""Models out of a run folder: evaluated again, or exported for plain timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from nmtrain.config import Config, check_config
from nmtrain.data import load_data
from nmtrain.errors import RunFolderError
from nmtrain.models import architecture, build_model, sparsity_rules
from nmtrain.sparsity import verify_sparsity
from nmtrain.training.folder import RunFolder, write_whole
from nmtrain.training.task import ImageClassification


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict as safetensors: dense shapes, exact zeros, the stock model's keys."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    write_whole(path, lambda file: file.write(content))


def load_run(path: Path) -> tuple[Config, nn.Module]:
    """Config and final projected model of a finished run, the model checked group by group.

    Raises:
        RunFolderError: if the folder is not a finished run's, if a file of it is missing or damaged, or if a group of
            a sparse tensor has not exactly N weights.
    """
    folder = RunFolder(path)
    folder.require_finished()
    file = folder / "config.yaml"
    try:
        values = yaml.safe_load(file.read_text())
        if not isinstance(values, dict):
            raise ValueError("no keys and values")
        config = check_config(values)
        model = build_model(config.model.name, config.data_shape, config.model.options)
        file = folder / "model.safetensors"
        model.load_state_dict(load_file(file))
        if not config.is_dense:
            verify_sparsity(model, sparsity_rules(model, config.mask, config.sparsity))
    except OSError as error:
        raise RunFolderError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RuntimeError, SafetensorError, yaml.YAMLError) as error:
        raise RunFolderError(f"{file}: does not hold what this run left: {error}") from error
    return config, model


def evaluate_run(path: Path) -> dict[str, float]:
    """Validation metrics of a run's final model, computed anew."""
    config, model = load_run(path)
    device = "cuda" if config.train.device != "cpu" and torch.cuda.is_available() else "cpu"
    data = load_data(**config.data, seed=config.seed).to(device)
    task = ImageClassification(data, config.train.batch_size, config.train.micro_batches, 0.0)
    with torch.autocast(device, torch.bfloat16, enabled=config.train.precision == "bf16"):
        return task.evaluate(model.to(device), config.train.eval_batch_size)


def export_run(path: Path, out: Path) -> Path:
    """Write a folder that ``timm.create_model("local-dir:OUT", pretrained=True)`` loads.

    Raises RunFolderError as `load_run` does, and where ``out`` cannot be written.
    """
    config, model = load_run(path)
    name, arguments = architecture(config.model.name, config.data_shape, config.model.options)
    shape = config.data_shape
    description: dict[str, Any] = {
        "architecture": name,
        "num_classes": shape.num_classes,
        "global_pool": getattr(model, "global_pool", ""),
        "model_args": {key: value for key, value in arguments.items() if key != "num_classes"},
        "pretrained_cfg": {
            "input_size": [shape.channels, shape.image_size, shape.image_size],
            "num_classes": shape.num_classes,
        },
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_weights(model, out / "model.safetensors")
        write_whole(out / "config.json", lambda file: file.write(json.dumps(description, indent=1).encode()))
    except OSError as error:
        raise RunFolderError(
            f"{out}: cannot be written ({error.strerror}); name a folder that can: --out DIR"
        ) from error
    return out
