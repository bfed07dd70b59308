"""The schema of conf/, every check that needs no data, and the run's name. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nmtrain.data import DataShape, describe_data
from nmtrain.recipes import Recipe, RecipeError, build_recipe
from nmtrain.sparsity.pattern import NMPattern

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]

# Keys that change nothing about a run's result, and so do not enter its name.
_NOT_RESULT = {
    ("results_dir",),
    ("force",),
    ("dry_run",),
    ("data", "cache_dir"),
    ("train", "log_every"),
    ("train", "checkpoint_every"),
    ("train", "eval_batch_size"),
}


class ConfigError(ValueError):
    """All faults of one config, one line each: key, value, what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Section(BaseModel):
    """A section of the config: unknown keys are refused, types are not coerced, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelConfig(Section):
    name: str
    roles: list[str]
    options: dict[str, Any] = {}


class MaskConfig(Section):
    axis: Literal["input", "output"]
    roles: list[str]
    patterns: dict[str, NMPattern]
    names: list[str]
    indivisible: Literal["error", "skip"]

    @field_validator("patterns", mode="before")
    @classmethod
    def _parse_patterns(cls, patterns: Any) -> Any:
        if not isinstance(patterns, dict):
            return patterns
        return {role: _parse_pattern(pattern) for role, pattern in patterns.items()}


class _Schedule(Section):
    lr: Positive
    weight_decay: NonNegative
    warmup_fraction: Fraction
    final_lr: NonNegative
    clip_norm: Positive | None


class AdamWConfig(_Schedule):
    name: Literal["adamw"]
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)]
    eps: Positive


class SGDConfig(_Schedule):
    name: Literal["sgd"]
    momentum: Beta
    nesterov: bool


class TrainConfig(Section):
    epochs: Positive
    updates: Count | None
    batch_size: Count
    micro_batches: Count
    eval_batch_size: Count
    label_smoothing: Beta
    precision: Literal["fp32", "bf16"]
    compile: bool
    device: Literal["auto", "cpu", "cuda"]
    eval_every: Positive
    checkpoint_every: Count | None
    log_every: Count


class _Root(Section):
    model: ModelConfig
    data: dict[str, Any]
    sparsity: NMPattern
    mask: MaskConfig
    recipe: dict[str, Any]
    optim: AdamWConfig | SGDConfig = Field(discriminator="name")
    train: TrainConfig
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    results_dir: str
    force: bool
    dry_run: bool

    @field_validator("sparsity", mode="before")
    @classmethod
    def _parse_sparsity(cls, written: Any) -> NMPattern:
        return _parse_pattern(written)


def _parse_pattern(written: Any) -> NMPattern:
    try:
        return NMPattern.parse(written)
    except TypeError as error:  # pydantic collects ValueErrors only
        raise ValueError(str(error)) from None


@dataclass(frozen=True)
class Config:
    """A checked config. ``values`` is the plain nested dict that config.yaml holds."""

    model: ModelConfig
    data: dict[str, Any]
    sparsity: NMPattern
    mask: MaskConfig
    optim: AdamWConfig | SGDConfig
    train: TrainConfig
    seed: int
    results_dir: Path
    force: bool
    dry_run: bool
    data_shape: DataShape
    recipes: Mapping[NMPattern, Recipe]  # one per target pattern: that of `sparsity` first
    values: dict[str, Any] = field(repr=False)

    @property
    def recipe(self) -> Recipe:
        return self.recipes[self.sparsity]

    @property
    def is_dense(self) -> bool:
        return self.recipe.name == "dense"

    @property
    def updates_per_epoch(self) -> int:
        return self.data_shape.train_size // self.train.batch_size

    @property
    def total_updates(self) -> int:
        if self.train.updates is not None:
            return self.train.updates
        return max(1, round(self.train.epochs * self.updates_per_epoch))

    @property
    def run_name(self) -> str:
        """Readable parts and a hash of everything that changes the result; the same config gives the same name."""
        pattern = [] if self.is_dense else [f"{self.sparsity.n}of{self.sparsity.m}"]
        parts = [self.model.name, self.data["name"], *pattern, self.recipe.variant, f"s{self.seed}"]
        content = json.dumps(_result_values(self.values, self.is_dense), sort_keys=True)
        return "-".join([*parts, hashlib.blake2b(content.encode(), digest_size=4).hexdigest()]).replace("/", "_")

    @property
    def run_folder(self) -> Path:
        return self.results_dir / self.run_name


def _result_values(values: dict[str, Any], is_dense: bool) -> dict[str, Any]:
    kept = {
        key: {k: v for k, v in value.items() if (key, k) not in _NOT_RESULT} if isinstance(value, dict) else value
        for key, value in values.items()
        if (key,) not in _NOT_RESULT
    }
    if is_dense:  # trained once for every pattern
        kept = {key: value for key, value in kept.items() if key not in ("sparsity", "mask")}
        kept["model"] = {key: value for key, value in values["model"].items() if key != "roles"}
    return kept


def check_config(values: dict[str, Any]) -> Config:
    """Check a resolved config that came from YAML or the command line.

    Raises:
        ConfigError: listing every fault that can be seen without building the model or reading data.
    """
    faults: list[str] = []
    root: _Root | None = None
    try:
        root = _Root.model_validate(values)
    except ValidationError as error:
        faults += [_describe(fault) for fault in error.errors()]
    shape = _check_data(values.get("data"), faults)
    recipes = _check_recipes(values, root, faults)
    if root is not None:
        faults += _cross_checks(root, shape)
    if faults or root is None or shape is None:
        raise ConfigError(faults)
    return Config(
        root.model,
        root.data,
        root.sparsity,
        root.mask,
        root.optim,
        root.train,
        root.seed,
        Path(root.results_dir),
        root.force,
        root.dry_run,
        shape,
        recipes,
        values,
    )


def _describe(fault: Any) -> str:
    """One line for one of pydantic's faults: key=value and what is allowed."""
    key = ".".join(str(part) for part in fault["loc"] if part not in ("adamw", "sgd"))
    if fault["type"] == "missing":
        return f"{key}: is missing"
    if fault["type"] == "extra_forbidden":
        section: Any = _Root
        for part in fault["loc"][:-1]:
            if part in ("adamw", "sgd"):
                section = {"adamw": AdamWConfig, "sgd": SGDConfig}[part]
            else:
                section = section.model_fields[part].annotation
        return f"{key}={fault['input']}: there is no such key. Available: {sorted(section.model_fields)}"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("'", "")
    return f"{key}={fault['input']}: {message}"


def _check_data(data: Any, faults: list[str]) -> DataShape | None:
    if not isinstance(data, dict) or "name" not in data:
        return None  # the schema has said so
    try:
        return describe_data(**data)
    except ValueError as error:
        faults += str(error).splitlines()
        return None


def _check_recipes(values: dict[str, Any], root: _Root | None, faults: list[str]) -> dict[NMPattern, Recipe]:
    """A recipe per distinct target pattern; faults of the options are listed once, whatever the patterns are."""
    options = values.get("recipe")
    if not isinstance(options, dict) or "name" not in options:
        return {}
    targets = [NMPattern(1, 4)] if root is None else [root.sparsity, *root.mask.patterns.values()]
    recipes: dict[NMPattern, Recipe] = {}
    for target in targets:
        try:
            recipes[target] = build_recipe(target=target, **options)
        except RecipeError as error:
            found = [f"recipe.{option}={options.get(option)}: {fault}" for option, fault in error.faults.items()]
            if root is None:  # the target is a stand-in, and only `custom` depends on it
                found = [fault for fault in found if not fault.startswith("recipe.patterns=")]
            faults += [fault for fault in found if fault not in faults]
    return recipes


def _cross_checks(root: _Root, shape: DataShape | None) -> list[str]:
    faults = []
    for role in root.mask.patterns:
        if role not in root.mask.roles:
            faults.append(f"mask.patterns.{role}: has no effect, since mask.roles is {root.mask.roles}")
    if not root.mask.roles and not root.mask.names:
        faults.append("mask.roles=[]: nothing would be sparse; name roles or mask.names (or use recipe=dense)")
    train = root.train
    if train.batch_size % train.micro_batches:
        faults.append(f"train.micro_batches={train.micro_batches}: does not divide train.batch_size {train.batch_size}")
    if shape is not None and train.batch_size > shape.train_size:
        faults.append(f"train.batch_size={train.batch_size}: exceeds the {shape.train_size} training samples")
    if root.optim.final_lr > root.optim.lr:
        faults.append(f"optim.final_lr={root.optim.final_lr}: exceeds optim.lr {root.optim.lr}")
    if root.optim.name == "sgd" and root.optim.nesterov and root.optim.momentum == 0:
        faults.append("optim.nesterov=True: has no effect without optim.momentum")
    return faults
