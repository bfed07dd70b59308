"""Finished runs scored again: as they were, on data that moved, or on another split."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import nn

from nmtrain.config.check import Config, check_config
from nmtrain.config.compose import EVALUATION_KEYS, overridden
from nmtrain.config.faults import written
from nmtrain.data import (
    DataShape,
    TextShape,
    describe_data,
    local_digests,
    local_files,
    options_not_held_out,
    options_of_model,
)
from nmtrain.data.digest import EXAMPLES, foreign_files
from nmtrain.errors import ConfigError, DataError, RunFolderError, TrainingError
from nmtrain.models import build_model
from nmtrain.runs.folder import RunFolder
from nmtrain.runs.weights import LAST, Weights
from nmtrain.training.environment import FIXES, package_versions, require_device
from nmtrain.training.export import load_model, origin_told, saved_values
from nmtrain.training.kept import kept_images, kept_model, kept_shape, other_classes
from nmtrain.training.loading import input_digests, load_task, other_examples, other_files
from nmtrain.training.memory import full_memory
from nmtrain.training.precision import autocast
from nmtrain.training.task import Task

logger = logging.getLogger(__name__)


def evaluate_run(path: Path, overrides: Sequence[str] = (), weights: Weights = LAST) -> dict[str, Any]:
    """Metrics of a run's projected model, computed anew.

    Args:
        overrides: what `evaluation_overrides` gives: other data, or the same in another place.
        weights: which of those that the run keeps.

    Returns:
        The content of ``RUN/test/metrics.json``: the metrics as ``val/accuracy`` or ``test/accuracy``, with what they
        were computed on and by.

    Raises:
        ConfigError: for data that are not there, options that are not allowed, and data that the model is not made for.
        DataError: as `load_data`, and for a test split that is cut anew from files that the run trained on.
        RunFolderError: as `load_run`.
    """
    folder = RunFolder(path)
    folder.require_finished()
    weights.require(folder)
    values = saved_values(folder)
    kept = kept_shape(folder)
    config = _config(folder, values, list(overrides), kept)
    model = load_model(folder, config, weights)
    device = torch.device("cuda" if config.train.device != "cpu" and torch.cuda.is_available() else "cpu")
    model.to(device)
    try:
        with origin_told(folder):
            task, digests = _load_task(folder, config, values["data"]["evaluate"], model, kept is not None)
    except ValueError as error:  # of a tokenizer that is gone
        raise RunFolderError(f"{path}: {error}") from error
    if told := other_classes(folder, task.data):
        logger.warning("%s; the score may be another", told)
    try:
        with autocast(device, config.train.precision):
            metrics = task.evaluate(model, config.train.eval_batch_size)
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"{path}: {full_memory(error)}") from error
    finally:
        task.close()
    split = config.split
    return {
        "run": path.resolve().name,
        "split": split,
        "headline": task.headline,
        "metrics": {f"{split}/{name}": value for name, value in metrics.items()},
        "fixes": FIXES,
        **({"signatures": task.signatures} if task.signatures else {}),
        **({"damaged": len(task.damaged)} if task.damaged else {}),
        "data": config.data,
        "digests": digests,
        "versions": package_versions(),
    }


def write_evaluation(path: Path, evaluation: dict[str, Any], weights: Weights = LAST) -> Path | None:
    """Keep what `evaluate_run` gives, in ``RUN/SPLIT/metrics.json``; of other weights, in ``metrics_ema.json`` or so.

    Returns:
        Where an earlier evaluation that came to something else, or was on other data, is kept now: a file beside it.

    Raises:
        RunFolderError: where it cannot be written.
    """
    file = Path(evaluation["split"]) / f"{weights.named('metrics')}.json"
    earlier = None
    try:
        (path / file).parent.mkdir(exist_ok=True)
        if (path / file).exists() and not _is_of_same(path / file, evaluation):
            places = (path / file.with_suffix(f".{number}.json") for number in count(1))
            earlier = next(place for place in places if not place.exists())
            (path / file).rename(earlier)
        RunFolder(path).write_json(str(file), evaluation)
    except OSError as error:
        raise RunFolderError(
            f"{path / file}: cannot be written ({error.strerror}); the metrics are not kept"
        ) from error
    return earlier


def _is_of_same(file: Path, evaluation: dict[str, Any]) -> bool:
    """Whether a file holds the same metrics of the same data; earlier versions may have computed fewer of them."""
    try:
        before = json.loads(file.read_bytes())
        return before["data"] == evaluation["data"] and dict(before["metrics"]).items() <= evaluation["metrics"].items()
    except (ValueError, KeyError, TypeError):
        return False


def _config(
    folder: RunFolder, values: dict[str, Any], overrides: list[str], kept: DataShape | TextShape | None
) -> Config:
    """The config to evaluate by, its data looked at; its model is the one that the run kept."""
    given = [override.lstrip("+") for override in overrides]
    chosen = ["++train.keep_best=false"] if overrides else []  # on validation; now it is chosen
    changed = _as_trained(folder, overridden(values, [*overrides, *chosen]), kept)
    try:
        config = check_config(changed, kept)
        shape = config.data_shape if kept is None else _described(config)
    except ValueError as error:
        faults = str(error).splitlines()
        if not all(fault.startswith(("data.", *EVALUATION_KEYS)) for fault in faults):
            raise RunFolderError(f"{folder / 'config.yaml'}: does not hold what this run left: {error}") from error
        if not any(setting.startswith("data.path=") for setting in given):
            faults = [_with_remedy(fault, folder) for fault in faults]
        raise ConfigError(faults) from error
    if faults := _trained_on(config.data, values["data"]):
        raise ConfigError(faults)
    if any(setting.startswith("train.device=") for setting in given):
        require_device(config.train.device)
    if kept is None:
        return config
    if faults := _misfits(shape, kept, " ".join(given) or f"data={config.data['name']}"):
        raise ConfigError(faults)
    config = replace(config, data_shape=shape, model=kept_model(folder, config.model))
    if given and isinstance(shape, TextShape):
        _require_texts_fit(config)
    return config


def _as_trained(folder: RunFolder, values: dict[str, Any], kept: DataShape | TextShape | None) -> dict[str, Any]:
    """Other data, whose images go through what those of the run did, as far as the options do not say otherwise."""
    data, images = values.get("data"), kept_images(folder)
    if images is None or not isinstance(kept, DataShape) or not isinstance(data, dict):
        return values
    known = asdict(images[0]) | {"image_size": kept.image_size}
    unsaid = [option for option in options_of_model(str(data.get("name"))) if data.get(option) is None]
    return values | {"data": data | {option: known[option] for option in unsaid}}


def _trained_on(data: dict[str, Any], trained: dict[str, Any]) -> list[str]:
    """A line for each option by which data would be scored that the run may have trained on."""
    return [
        f"data.{option}={written(data[option])}: was {written(trained[option])} in training, so that this run may have"
        " trained on what would be scored"
        for option in options_not_held_out(trained, data)
        if option in trained
    ]


def _described(config: Config) -> DataShape | TextShape:
    options = {option: value for option, value in config.data.items() if option != "name"}
    return describe_data(config.data["name"], config.model.kind == "text_classifier", **options)


def _with_remedy(fault: str, folder: RunFolder) -> str:
    if not (fault.startswith("data.path=") and "there is no such" in fault):
        return fault
    return f"{fault}; name where it is now: nmtrain eval {quote(str(folder.path))} data.path=NEW"


def _misfits(shape: DataShape | TextShape, kept: DataShape | TextShape, given: str) -> list[str]:
    """A line for each way in which data are not those that a model is made for."""
    if isinstance(shape, DataShape) and isinstance(kept, DataShape):
        sizes = [f"{s.channels}x{s.image_size}x{s.image_size}" for s in (shape, kept)]
        classes = [str(s.num_classes) for s in (shape, kept)]
        compared = {"images of {}": sizes, "{} classes": classes}
    else:
        assert isinstance(shape, TextShape)
        assert isinstance(kept, TextShape)
        compared = {"{}": [_answers(s) for s in (shape, kept)]}
    return [
        f"{given}: gives {what.format(now)}; the model of this run is made for {what.format(then)}"
        for what, (now, then) in compared.items()
        if now != then
    ]


def _answers(shape: TextShape) -> str:
    if shape.is_regression:
        return "numbers"
    return f"the labels {', '.join(shape.labels)}" if shape.labels else "free text"


def _require_texts_fit(config: Config) -> None:
    """Raise ConfigError for texts that are longer than the model takes."""
    from nmtrain.models.indices import RealIndices
    from nmtrain.training.text_plan import require_texts_fit

    try:
        with torch.device("meta"), RealIndices():
            model = build_model(config.model, config.data_shape, pretrained=False)
        require_texts_fit(config, model)
    except ValueError as error:
        raise ConfigError(str(error).splitlines()) from error


def _load_task(
    folder: RunFolder, config: Config, trained: str, model: nn.Module, alone: bool
) -> tuple[Task, dict[str, str]]:
    """`load_task`, and the digests of its data; what is not as it was when the run began is named in a warning.

    Args:
        trained: the split that was evaluated during the run: digests of another one are not known.
        alone: whether the run kept what describes its checkpoint, which then may have changed.
    """
    before: dict[str, str] = folder.environment.get("data", {})
    digests = local_digests(**config.data) if alone else input_digests(config)
    same_split = config.split == trained
    of_trained = digests if same_split else _digests_of(config, trained)
    foreign = foreign_files(before, of_trained) if before else []
    if foreign:
        logger.warning("%s; the score may be another", other_files(foreign))
    device = next(model.parameters()).device
    if before and not same_split and _are_cut_anew(config, trained, model, before, digests):
        raise DataError(
            f"data.path={config.data['path']}: holds files of this run, but not the same ones in the same order, so"
            " that this run may have trained on what would be scored"
        )
    task = load_task(config, model, device)
    digests[EXAMPLES] = task.data.digest()
    if before and same_split and not foreign and before[EXAMPLES] != digests[EXAMPLES]:
        logger.warning("%s; the score may be another", other_examples(config))
    return task, digests


def _are_cut_anew(
    config: Config, trained: str, model: nn.Module, before: dict[str, str], digests: dict[str, str]
) -> bool:
    """Whether splits are cut from files that the run has seen, and otherwise than when it began."""
    on_trained = config.data | {"evaluate": trained}
    known = set(before.values()) & set(digests.values())
    if not known or local_files(**config.data) != _files_of(config, trained):
        return False
    task = load_task(replace(config, data=on_trained), model, next(model.parameters()).device)
    return task.data.digest() != before[EXAMPLES]


def _files_of(config: Config, split: str) -> list[Path]:
    """Of the same data for another split; none where they are not there."""
    try:
        return local_files(**config.data | {"evaluate": split})
    except ValueError:
        return []


def _digests_of(config: Config, split: str) -> dict[str, str]:
    """Of the same data for another split; none where they are not there."""
    try:
        return local_digests(**config.data | {"evaluate": split})
    except ValueError:
        return {}
