"""Values that are allowed one by one and not together: an option without effect, or two that exclude each other."""

from __future__ import annotations

from typing import Any

from nmtrain.config.faults import written
from nmtrain.config.mixing import mixing_faults
from nmtrain.config.naming import AS_BEFORE
from nmtrain.config.schema import AdafactorConfig, LaunchConfig, MaskConfig, ModelConfig, OptimConfig, TrainConfig
from nmtrain.data import DataShape, TextShape, data_names, headline


def combination_faults(valid: dict[str, Any], data: Any, shape: DataShape | TextShape | None) -> list[str]:
    """A line for each fault of several values at once.

    Args:
        valid: those sections and root keys that are valid by themselves.
        data: the section as given.
        shape: of the data, where they could be described.
    """
    faults = []
    if model := valid.get("model"):
        faults += _model_faults(model, valid.get("train"), data, shape)
        if (start := valid.get("init_from")) and model.pretrained and not model.reads_text:
            faults.append(
                f"init_from={start}: model.pretrained={model.pretrained} gives weights too; leave one of them out"
            )
    if mask := valid.get("mask"):
        faults += _mask_faults(mask)
    if train := valid.get("train"):
        faults += _train_faults(train, data, shape)
    if (launch := valid.get("launch")) and train:
        faults += _launch_faults(launch, train)
    if (measure := valid.get("measure")) and measure.patterns and measure.every is None:
        patterns = written(list(map(str, measure.patterns)))
        faults.append(f"measure.patterns={patterns}: has no effect with measure.every=null")
    if optim := valid.get("optim"):
        faults += _optim_faults(optim)
        if launch and launch.strategy == "fsdp" and isinstance(optim, AdafactorConfig):
            told = "its second moments are of whole rows and columns"
            faults.append(f"launch.strategy=fsdp: not with optim.name=adafactor ({told}); allowed: adamw, sgd, or ddp")
    return faults


def _mask_faults(mask: MaskConfig) -> list[str]:
    roles = written(mask.roles)
    faults = [
        f"mask.patterns.{role}={pattern}: has no effect, since mask.roles is {roles}"
        for role, pattern in mask.patterns.items()
        if role not in mask.roles
    ]
    if not mask.roles and not mask.names:
        faults.append("mask.roles=[]: nothing would be sparse; name roles or mask.names (or use recipe=dense)")
    return faults


def _train_faults(train: TrainConfig, data: Any, shape: DataShape | TextShape | None) -> list[str]:
    faults = []
    if train.keep_best and isinstance(data, dict) and data.get("evaluate") == "test":
        faults.append(
            "train.keep_best=true: would choose the best update on test; allowed: data.evaluate=val, and then"
            " nmtrain eval RUN --best data.evaluate=test"
        )
    if train.updates is not None and train.flops is not None:
        faults.append(
            f"train.updates={train.updates}: train.flops={train.flops:g} says too how long to train; leave one null"
        )
    changed = {"teacher_weight": train.teacher_weight, "teacher_temperature": train.teacher_temperature}
    faults += [
        f"train.{option}={value}: has no effect without train.teacher"
        for option, value in changed.items()
        if train.teacher is None and value != AS_BEFORE["train", option]
    ]
    size = train.batch_size
    if size % train.micro_batches:
        faults.append(f"train.micro_batches={train.micro_batches}: does not divide train.batch_size {size}")
    if train.micro_batches > 1 and train.compile in ("reduce-overhead", "max-autotune"):
        faults.append(
            f"train.compile={train.compile}: its CUDA graphs reuse the memory of gradients, which"
            f" train.micro_batches={train.micro_batches} adds up; allowed: true"
        )
    if shape is not None and size > shape.train_size:
        faults.append(f"train.batch_size={size}: exceeds the {shape.train_size} training samples")
    return faults


def _launch_faults(launch: LaunchConfig, train: TrainConfig) -> list[str]:
    faults = []
    if launch.gpus is not None and launch.processes is not None:
        faults.append(f"launch.processes={launch.processes}: launch.gpus={launch.gpus} says so too; leave one null")
    if launch.gpus is not None and train.device == "cpu":
        faults.append(f"launch.gpus={launch.gpus}: train.device=cpu has none; allowed: launch.processes={launch.gpus}")
    if launch.nodes > 1 and launch.gpus is None and launch.processes is None:
        faults.append(f"launch.nodes={launch.nodes}: say how many processes each has: launch.gpus or launch.processes")
    if launch.strategy == "fsdp":
        faults += _sharding_faults(train)
    if faults or launch.world == 1:
        return faults
    return share_faults(train, launch.world)


def _sharding_faults(train: TrainConfig) -> list[str]:
    """Of what needs whole weights, or acts on each process by itself."""
    faults = []
    if train.compile:
        faults.append(f"launch.strategy=fsdp: not with train.compile={written(train.compile)}; allowed: false, or ddp")
    if train.precision == "fp16":
        told = "each process would find overflows in its own rows alone"
        faults.append(f"launch.strategy=fsdp: not with train.precision=fp16 ({told}); allowed: bf16, fp32, or ddp")
    return faults


def share_faults(train: TrainConfig, world: int) -> list[str]:
    """A line for each reason why ``world`` processes cannot share the batches of a run."""
    size, parts = train.batch_size, train.micro_batches
    told = f"train.batch_size={size} train.micro_batches={parts}"
    faults = []
    if size % (parts * world):
        faults.append(
            f"{told}: {world} processes cannot share micro-batches of {size // parts} samples equally; allowed: a"
            f" train.batch_size that is a multiple of {parts * world}"
        )
    elif train.mixes and (size // world) % 2:
        faults.append(
            f"{told}: mixing pairs the images of a batch, and {world} processes have {size // world} of them each;"
            f" allowed: a train.batch_size that is a multiple of {2 * world}"
        )
    if train.mixes and train.mix_mode != "batch":
        faults.append(
            f"train.mix_mode={train.mix_mode}: draws for one image after the other, of which {world} processes see but"
            " their own; allowed: batch"
        )
    return faults


def _optim_faults(optim: OptimConfig) -> list[str]:
    faults = []
    if optim.final_lr > optim.lr:
        scaled = "" if optim.lr_batch is None else f", scaled by optim.lr_batch={optim.lr_batch}"
        faults.append(f"optim.final_lr={optim.final_lr}: exceeds optim.lr {optim.lr}{scaled}")
    cooldown = optim.cooldown_fraction
    if optim.schedule != "wsd" and cooldown != AS_BEFORE["optim", "cooldown_fraction"]:
        faults.append(f"optim.cooldown_fraction={cooldown}: has no effect with optim.schedule={optim.schedule}")
    if optim.schedule == "wsd" and optim.warmup_fraction + cooldown > 1:
        faults.append(
            f"optim.cooldown_fraction={cooldown}: overlaps the warm-up; allowed: at most"
            f" {1 - optim.warmup_fraction:g}, what optim.warmup_fraction={optim.warmup_fraction} leaves"
        )
    if optim.name == "sgd" and optim.nesterov and optim.momentum == 0:
        faults.append("optim.nesterov=true: has no effect without optim.momentum")
    return faults


def _writing_faults(
    model: ModelConfig, train: TrainConfig, data: Any, shape: DataShape | TextShape | None
) -> list[str]:
    """Options of how a model's answers are had that have no effect with this model, data or each other."""
    changed = {
        f"train.{option}={getattr(train, option)}": option
        for option, default in (("score_by", "generation"), ("beams", 1), ("length_penalty", 1.0))
        if getattr(train, option) != default
    }
    of_writing = [setting for setting, option in changed.items() if option != "score_by"]
    if model.kind != "text_to_text":
        return [f"{setting}: has no effect with model.kind={model.kind}" for setting in changed]
    if of_writing and shape is not None and headline(**data) == "perplexity":
        return [f"{setting}: has no effect with data={data['name']}, which is not generated" for setting in of_writing]
    if train.score_by == "ranking":
        faults = [f"{setting}: has no effect with train.score_by=ranking" for setting in of_writing]
        if isinstance(shape, TextShape) and not shape.labels:
            faults.append(f"train.score_by=ranking: data={data['name']} has no labels to rank; allowed: generation")
        return faults
    if train.beams == 1:
        return [f"{setting}: has no effect with train.beams=1" for setting in of_writing]
    return []


def _model_faults(
    model: ModelConfig, train: TrainConfig | None, data: Any, shape: DataShape | TextShape | None
) -> list[str]:
    """Whether model and data go together, and options that have no effect with this kind of model."""
    faults = []
    if not model.reads_text and model.tokenizer is not None:
        faults.append(f"model.tokenizer={model.tokenizer}: has no effect with model.kind=image_classifier")
    if model.reads_text and train is not None and train.channels_last:
        faults.append(f"train.channels_last=true: has no effect with model.kind={model.kind}")
    if train is not None and model.reads_text and train.precision == "fp16":
        faults.append(
            "train.precision=fp16: overflows: the activations of T5 exceed the 65504 of half precision;"
            " allowed: fp32, bf16"
        )
    if train is not None:
        faults += _writing_faults(model, train, data, shape)
        faults += mixing_faults(model, train, shape)
    if shape is not None and model.reads_text != isinstance(shape, TextShape):
        holds = "text" if isinstance(shape, TextShape) else "images"
        fitting = data_names(text=model.reads_text)
        faults.append(
            f"data={data['name']}: holds {holds}, which model={model.name} ({model.kind}) does not read."
            f" Available: {fitting}"
        )
    elif isinstance(shape, TextShape) and model.kind == "text_classifier" and not shape.outputs:
        faults.append(f"data={data['name']}: has no labels for model.kind=text_classifier to tell apart")
    if train is not None and isinstance(shape, TextShape) and shape.is_regression and train.label_smoothing:
        smoothing = train.label_smoothing
        faults.append(f"train.label_smoothing={smoothing}: has no effect on the regression that this task is here")
    if train is not None and train.teacher and isinstance(shape, TextShape) and shape.is_regression:
        faults.append(f"train.teacher={train.teacher}: has no classes to tell of the regression that this task is here")
    if isinstance(data, dict) and data.get("form", "auto") != "auto" and model.kind == "text_to_text":
        faults.append(f"data.form={data['form']}: has no effect with model.kind=text_to_text")
    return faults
