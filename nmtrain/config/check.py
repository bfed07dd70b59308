"""A checked config: every check that needs no data, and the run's name. Imports nothing heavy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from nmtrain.config.combinations import combination_faults
from nmtrain.config.faults import describe, no_such_name, written
from nmtrain.config.naming import result_digest
from nmtrain.config.schema import (
    ClusterConfig,
    LaunchConfig,
    MaskConfig,
    MeasureConfig,
    ModelConfig,
    OptimConfig,
    Root,
    SlurmCluster,
    TrackingConfig,
    TrainConfig,
)
from nmtrain.config.small_models import SMALL_MODEL_OPTIONS
from nmtrain.data import (
    DataShape,
    TextShape,
    data_names,
    default_options,
    describe_data,
)
from nmtrain.errors import ConfigError
from nmtrain.recipes import Recipe, RecipeError, build_recipe, list_recipes
from nmtrain.sparsity.pattern import NMPattern


@dataclass(frozen=True)
class Config:
    """A checked config. ``values`` is the plain nested dict that config.yaml holds."""

    model: ModelConfig
    data: dict[str, Any]
    sparsity: NMPattern
    mask: MaskConfig
    optim: OptimConfig
    train: TrainConfig
    measure: MeasureConfig
    tracking: TrackingConfig
    cluster: ClusterConfig
    launch: LaunchConfig
    seed: int
    results_dir: Path
    init_from: Path | None  # the folder of the run whose final weights this one starts from
    force: bool
    dry_run: bool
    retry: bool
    allow_changed: bool
    data_shape: DataShape | TextShape
    recipes: Mapping[NMPattern, Recipe]  # one per target pattern: that of `sparsity` first
    values: dict[str, Any] = field(repr=False)

    @property
    def recipe(self) -> Recipe:
        return self.recipes[self.sparsity]

    @property
    def is_dense(self) -> bool:
        return self.recipe.name == "dense"

    @property
    def measured_patterns(self) -> list[NMPattern]:
        """The patterns by whose masks gradient noise is split: a dense run's may be several."""
        return (self.is_dense and self.measure.patterns) or [self.sparsity]

    @property
    def updates_per_epoch(self) -> int:
        return self.data_shape.train_size // self.train.batch_size

    @property
    def split(self) -> str:
        """What the run is evaluated on: "val" or "test"."""
        return str(self.data["evaluate"])

    @property
    def total_updates(self) -> int:
        """Optimizer updates in all. Raises ValueError where `train.flops` says it, until a plan has found it."""
        if self.train.updates is not None:
            return self.train.updates
        if self.train.flops is not None:
            raise ValueError(f"train.flops={self.train.flops:g}: what updates cost takes a plan to know")
        return max(1, round(self.train.epochs * self.updates_per_epoch))

    def lasting(self, updates: int) -> Config:
        """The same run, of that many updates: what a plan found `train.flops` to pay for."""
        return replace(self, train=self.train.model_copy(update={"updates": updates}))

    @property
    def run_name(self) -> str:
        """Readable parts and a hash of everything that changes the result; the same config gives the same name."""
        pattern = [] if self.is_dense else [f"{self.sparsity.n}of{self.sparsity.m}"]
        parts = [self.model.name, self.data["name"], *pattern, self.recipe.variant, f"s{self.seed}"]
        return re.sub(r"[^\w.+-]", "_", "-".join([*parts, result_digest(self.values, self.is_dense)]))

    @property
    def run_folder(self) -> Path:
        return self.results_dir / self.run_name


def check_config(values: dict[str, Any], data_shape: DataShape | TextShape | None = None) -> Config:
    """Check a resolved config that came from YAML or the command line.

    Args:
        data_shape: of the data, where it is known; they are then not looked at.

    Raises:
        ConfigError: listing every fault that can be seen without building the model or reading data.
    """
    values = _with_one_default_mode(_with_whole_paths(_with_data_defaults(_with_small_model_options(values))))
    faults: list[str] = []
    try:
        valid = dict(Root.model_validate(values))
    except ValidationError as error:
        faults += [line for fault in error.errors() for line in describe(fault, Root)]
        valid = _valid_sections(values)
    if "optim" in valid and "train" in valid:
        valid["optim"] = _at_batch_size(valid["optim"], valid["train"].batch_size)
    if "launch" in valid and isinstance(cluster := valid.get("cluster"), SlurmCluster):
        valid["launch"] = _on_nodes(valid["launch"], cluster.nodes, faults)
    shape = data_shape or _check_data(values.get("data"), valid.get("model"), faults)
    recipes = _check_recipes(values, valid, faults)
    faults += combination_faults(valid, values.get("data"), shape)
    faults += _recipe_faults(recipes.values(), valid)
    if faults or shape is None:
        raise ConfigError(faults)
    root = Root.model_construct(**valid)
    return Config(
        root.model,
        root.data,
        root.sparsity,
        root.mask,
        root.optim,
        root.train,
        root.measure,
        root.tracking,
        root.cluster,
        root.launch,
        root.seed,
        Path(os.path.expanduser(root.results_dir)),
        None if root.init_from is None else Path(root.init_from),
        root.force,
        root.dry_run,
        root.retry,
        root.allow_changed,
        shape,
        recipes,
        values,
    )


def _with_small_model_options(values: dict[str, Any]) -> dict[str, Any]:
    """What config.yaml says of a small random model: the options it has by itself too."""
    model = values.get("model")
    if not isinstance(model, dict) or model.get("pretrained") is not None or not isinstance(model.get("options"), dict):
        return values
    own = SMALL_MODEL_OPTIONS.get(str(model.get("name")), {})
    return values | {"model": model | {"options": own | model["options"]}}


def _with_whole_paths(values: dict[str, Any]) -> dict[str, Any]:
    """What config.yaml says of ``init_from``, and of a teacher that is here: the folder itself, however named."""
    given, train = values.get("init_from"), values.get("train")
    if given and isinstance(given, str):
        values = values | {"init_from": os.path.realpath(os.path.expanduser(given))}
    teacher = train.get("teacher") if isinstance(train, dict) else None
    if train and isinstance(teacher, str) and os.path.exists(path := os.path.expanduser(teacher)):
        values = values | {"train": train | {"teacher": os.path.realpath(path)}}
    return values


def _with_one_default_mode(values: dict[str, Any]) -> dict[str, Any]:
    """What config.yaml says of ``train.compile``: true, where it is the default mode by its name."""
    train = values.get("train")
    if not isinstance(train, dict) or train.get("compile") != "default":
        return values
    return values | {"train": train | {"compile": True}}


def _with_data_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """What config.yaml says of data that a user's own YAML describes: all options, those it leaves out too."""
    data = values.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        return values
    return values | {"data": default_options(data["name"]) | data}


def _check_data(data: Any, model: ModelConfig | None, faults: list[str]) -> DataShape | TextShape | None:
    if not isinstance(data, dict):
        return None  # the schema has said so
    if not isinstance(data.get("name"), str):
        faults.append(no_such_name("data", data, data_names()))
        return None
    try:
        options = {option: value for option, value in data.items() if option != "name"}
        return describe_data(data["name"], model is not None and model.kind == "text_classifier", **options)
    except ValueError as error:
        faults += str(error).splitlines()
        return None


def _valid_sections(values: dict[str, Any]) -> dict[str, Any]:
    """Of a config with faults, what the checks across sections can still be made on."""
    valid: dict[str, Any] = {}
    for name in ("model", "sparsity", "mask", "optim", "train", "measure", "launch", "init_from"):
        given = Root.model_fields[name]
        section: Any = Annotated[given.annotation, given]
        try:
            valid[name] = TypeAdapter(section).validate_python(values.get(name))
        except ValidationError:
            continue
    return valid


def _on_nodes(launch: LaunchConfig, nodes: int, faults: list[str]) -> LaunchConfig:
    """What ``launch`` comes to in the jobs of a cluster that have so many nodes each."""
    if launch.nodes not in (1, nodes):
        faults.append(f"launch.nodes={launch.nodes}: a job has cluster.nodes={nodes}; leave launch.nodes out")
    return launch.model_copy(update={"nodes": nodes})


def _at_batch_size(optim: OptimConfig, size: int) -> OptimConfig:
    """The optimizer with the rate used: linear in the batch, where ``lr_batch`` says what ``lr`` is for. As in timm
    only the highest rate is scaled, not ``final_lr``."""
    return optim if optim.lr_batch is None else optim.model_copy(update={"lr": optim.lr * size / optim.lr_batch})


def _check_recipes(values: dict[str, Any], valid: dict[str, Any], faults: list[str]) -> dict[NMPattern, Recipe]:
    """A recipe per distinct target pattern; faults of the options are listed once, whatever the patterns are."""
    options = values.get("recipe")
    if not isinstance(options, dict):
        return {}  # the schema has said so
    if not isinstance(options.get("name"), str):
        faults.append(no_such_name("recipe", options, list_recipes()))
        return {}
    if "target" in options:
        faults.append(f"recipe.target={written(options['target'])}: there is no such key; the target is sparsity")
        options = {option: value for option, value in options.items() if option != "target"}
    target = valid.get("sparsity")
    targets = [target or NMPattern(1, 4), *(valid["mask"].patterns.values() if "mask" in valid else ())]
    recipes: dict[NMPattern, Recipe] = {}
    for pattern in targets:
        try:
            recipes[pattern] = build_recipe(target=pattern, **options)
        except RecipeError as error:
            found = [
                f"recipe.{option}={written(options.get(option))}: {fault}" for option, fault in error.faults.items()
            ]
            if target is None:  # then a stand-in was checked, and only `custom` depends on it
                found = [fault for fault in found if not fault.startswith("recipe.patterns=")]
            faults += [fault for fault in found if fault not in faults]
    return recipes


def _recipe_faults(recipes: Iterable[Recipe], valid: dict[str, Any]) -> list[str]:
    """What a recipe needs of other sections."""
    faults: dict[str, None] = {}
    for recipe in recipes:
        if recipe.needs_adam and "optim" in valid and valid["optim"].name != "adamw":
            faults[f"recipe={recipe.name}: holds moments of Adam; allowed: optim=adamw"] = None
        if recipe.switch_between(1) and "train" in valid and valid["train"].flops is not None:
            flops = f"train.flops={valid['train'].flops:g}"
            option = f"recipe.dense_fraction={recipe.dense_fraction}"
            told = f"has to know what an update costs, which {option} leaves to training; allowed: a fraction"
            faults[f"{flops}: {told}"] = None
        if recipe.switch_between(1) and "launch" in valid and valid["launch"].strategy == "fsdp":
            told = "reads the moments of whole tensors; allowed: a fraction, or ddp"
            faults[f"launch.strategy=fsdp: recipe.dense_fraction=auto {told}"] = None
    return list(faults)
