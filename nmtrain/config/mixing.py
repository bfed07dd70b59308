"""What mixed images and their losses ask of model, data and batch. Imports nothing heavy."""

from __future__ import annotations

from nmtrain.config.naming import AS_BEFORE
from nmtrain.config.schema import ModelConfig, TrainConfig
from nmtrain.data import DataShape, TextShape

_OF_IMAGES = ("loss", "mixup", "cutmix", "mix_mode", "mix_switch", "mix_prob")


def mixing_faults(model: ModelConfig, train: TrainConfig, shape: DataShape | TextShape | None) -> list[str]:
    """A line for each option of loss or mixing that this model, data or batch cannot have, or that has no effect."""
    changed = {
        option: f"train.{option}={value}"
        for option in _OF_IMAGES
        if (value := getattr(train, option)) != AS_BEFORE["train", option]
    }
    if model.reads_text:
        return [
            f"{setting}: is for images, which model.kind={model.kind} does not read;"
            f" allowed: {AS_BEFORE['train', option]}"
            for option, setting in changed.items()
        ]
    if not train.mixes:
        return [
            f"{setting}: has no effect without train.mixup or train.cutmix"
            for option, setting in changed.items()
            if option.startswith("mix_")
        ]
    faults = []
    if "mix_switch" in changed and not (train.mixup and train.cutmix):
        faults.append(f"{changed['mix_switch']}: has no effect unless both train.mixup and train.cutmix are on")
    mixes = " ".join(changed[option] for option in ("mixup", "cutmix") if option in changed)
    if train.batch_size % 2:
        faults.append(f"train.batch_size={train.batch_size}: {mixes} mixes images in pairs; allowed: even numbers")
    if isinstance(shape, DataShape) and shape.num_classes < 2:
        faults.append(f"{mixes}: has nothing to mix, since the data have one class; allowed: 0")
    return faults
