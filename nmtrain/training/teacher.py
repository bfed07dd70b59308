"""The teacher that `train.teacher` names: found and checked when planning, loaded when training."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nmtrain.config.check import Config
from nmtrain.data import DataShape, TextShape
from nmtrain.data.digest import TEACHER, file_digests
from nmtrain.data.images.batches import ImageBatches
from nmtrain.data.text.batches import TextData
from nmtrain.errors import ConfigError, RunFolderError
from nmtrain.models import build_model
from nmtrain.models.indices import RealIndices
from nmtrain.models.language import build_tokenizer
from nmtrain.runs.folder import RunFolder
from nmtrain.training.distillation import Teacher
from nmtrain.training.export import load_model, run_config
from nmtrain.training.kept import kept_images, other_classes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Found:
    """A teacher of timm: what `timm.create_model` takes, and the file of its weights."""

    architecture: str
    arguments: dict[str, Any]
    file: Path


def planned_teacher(config: Config) -> tuple[nn.Module | None, list[str]]:
    """The teacher on the meta device, checked against the run; None where there is none or only the hub has it. With it
    come lines to tell. A finished run needs its teacher no more.

    Raises:
        ConfigError: where it cannot be had, or its answers are not about the same classes or tokens.
        DataError: where it has to come from a hub that cannot be reached.
    """
    source = config.train.teacher
    if source is None or (RunFolder(config.run_folder).state == "finished" and not config.force):
        return None, []
    try:
        model, told = _of_run(config, Path(source)) if _is_run(source) else _of_timm(config, source)
    except (ValueError, RunFolderError) as error:
        faults = str(error).removeprefix(f"{source}: ").splitlines()
        raise ConfigError([f"train.teacher={source}: {fault}" for fault in faults]) from error
    return model, [f"train.teacher={source}: {line}" for line in told]


def load_teacher(config: Config, data: ImageBatches | TextData, device: torch.device) -> Teacher | None:
    """The teacher with its weights. A warning says where the classes of ``data`` have other names than those that a run
    of ours learned. Raises what `planned_teacher` does, and RunFolderError for damaged weights.
    """
    source = config.train.teacher
    if source is None:
        return None
    if _is_run(source):
        folder = RunFolder(Path(source))
        model = load_model(folder, run_config(folder))
        if told := other_classes(folder, data):
            logger.warning("train.teacher=%s: %s; its answers may be about others", source, told)
        images = kept_images(folder)
        known = None if images is None else (images[0].mean, images[0].std)
    else:
        from nmtrain.models.vision import preprocessing
        from nmtrain.models.vision_weights import described_input, load_into_new

        found = _found(config, source, download=True)
        assert found is not None
        model = load_into_new(found.architecture, found.arguments, found.file)
        assert isinstance(config.data_shape, DataShape)
        said = preprocessing(found.architecture, {}, source, config.data_shape.channels)
        known = (said["mean"], said["std"]) if {"mean", "std"} <= described_input(source).keys() else None
        if known is None:
            logger.warning(
                "train.teacher=%s: nothing beside its weights says mean and std; its images have the student's", source
            )
    return Teacher(model.to(device), config.train, _levels(data, known, device))


def _levels(
    data: ImageBatches | TextData, known: tuple[list[float], list[float]] | None, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """What turns images normalised as ``data`` are into those normalised by the ``known`` mean and std, if it is not
    the same: ``x * factor + offset``."""
    if (
        known is None
        or not isinstance(data, ImageBatches)
        or known == (data.preprocessing.mean, data.preprocessing.std)
    ):
        return None
    mean, std, known_mean, known_std = (
        torch.tensor(values, device=device).view(-1, 1, 1)
        for values in (data.preprocessing.mean, data.preprocessing.std, *known)
    )
    return std / known_std, (mean - known_mean) / known_std


def teacher_digest(config: Config, before: dict[str, str], refuse: Callable[[str], None]) -> dict[str, str]:
    """The digest of the teacher's weights, to be kept beside those of the data.

    Args:
        before: the digests when the run began.
        refuse: is told that the weights are others now.
    """
    source = config.train.teacher
    if source is None:
        return {}
    if _is_run(source):
        file = Path(source) / "model.safetensors"
    else:
        found = _found(config, source, download=True)
        assert found is not None
        file = found.file
    digest = file_digests([file])[str(file)]
    if before.get(TEACHER, digest) != digest:
        refuse(f"train.teacher={source}: its weights ({file}) are not what this run began with")
    return {TEACHER: digest}


def _is_run(source: str) -> bool:
    return (Path(source) / "config.yaml").is_file()


def _of_run(config: Config, path: Path) -> tuple[nn.Module, list[str]]:
    """The model of a finished run. Raises ValueError, RunFolderError as it cannot teach."""
    if path.resolve() == config.run_folder.resolve():
        raise ValueError("is the folder of this very run")
    folder = RunFolder(path)
    folder.require_finished()
    if not (folder / "model.safetensors").is_file():
        raise ValueError("has no model.safetensors")
    theirs = run_config(folder)
    if theirs.model.kind != config.model.kind:
        raise ValueError(f"is a run of model.kind={theirs.model.kind}, and this one is of {config.model.kind}")
    _require_same_answers(_answers(config), _answers(theirs))
    with torch.device("meta"), RealIndices() if config.model.reads_text else nullcontext():
        model: Any = build_model(theirs.model, theirs.data_shape, pretrained=False)
        if config.model.kind == "text_to_text":
            student: Any = build_model(config.model, config.data_shape, pretrained=False)
            _require_same_answers(_outputs(student), _outputs(model))
    other = theirs.data["name"] != config.data["name"]
    told = [f"learned data={theirs.data['name']}, and this run learns {config.data['name']}"] if other else []
    return model, told


def _answers(config: Config) -> dict[str, str]:
    """What must be the same of teacher and student, in words."""
    shape = config.data_shape
    if isinstance(shape, DataShape):
        size = f"{shape.channels}x{shape.image_size}x{shape.image_size}"
        return {"classes": str(shape.num_classes), "images": size}
    assert isinstance(shape, TextShape)
    labels = {"labels": ", ".join(shape.labels)} if config.model.kind == "text_classifier" else {}
    return {**labels, "tokenizer": build_tokenizer(config.model).fingerprint}


def _outputs(model: Any) -> dict[str, str]:
    first = str(model.config.decoder_start_token_id)
    return {"tokens in the vocabulary": str(model.config.vocab_size), "token that a decoder starts with": first}


def _require_same_answers(here: dict[str, str], there: dict[str, str]) -> None:
    if other := [key for key in here if here[key] != there[key]]:
        pairs = [f"{key}: {there[key]} there, {here[key]} here" for key in other]
        raise ValueError(f"its answers are about something else ({'; '.join(pairs)})")


def _of_timm(config: Config, source: str) -> tuple[nn.Module | None, list[str]]:
    """A model of timm, from the hub, a folder or a file. Raises ValueError, DataError as it cannot teach."""
    import timm

    from nmtrain.models.vision_weights import trial

    if config.model.reads_text:
        raise ValueError("there is no such run folder")
    found = _found(config, source, download=not config.dry_run)
    if found is None:
        return None, ["is not looked at, since a dry run downloads nothing"]
    told = trial(found.architecture, found.arguments, found.file)
    if wrong := [line for line in told if not line.startswith("resized")]:
        raise ValueError(f"its answers are about something else: {'; '.join(wrong)}")
    with torch.device("meta"):
        return timm.create_model(found.architecture, **found.arguments), told


def _found(config: Config, source: str, download: bool) -> _Found | None:
    """What a source of timm names; None where it would have to be downloaded and must not be."""
    from nmtrain.models.vision import vision_architecture
    from nmtrain.models.vision_weights import find_weights

    assert isinstance(config.data_shape, DataShape)
    if source.count("/") > 1 and not Path(source).exists():
        raise ValueError("there is no such folder")
    file = find_weights(source, download, "train.teacher")
    if file is None:
        return None
    try:
        described = json.loads(file.with_name("config.json").read_text())
        architecture, options = described["architecture"], described.get("model_args") or {}
    except (OSError, ValueError, KeyError, TypeError):
        if Path(source).exists():
            told = f"there is no config.json beside {file.name} that names the architecture"
            raise ValueError(f"{told}; name a folder as timm or nmtrain export writes it") from None
        architecture, options = source.rpartition("/")[2].partition(".")[0], {}
    given = {key: value for key, value in options.items() if key not in ("num_classes", "in_chans", "img_size")}
    return _Found(*vision_architecture(architecture, config.data_shape, given), file)
