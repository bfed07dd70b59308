"""The schema of conf/: a class for each section, and what each value may be. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from nmtrain.sparsity.pattern import NMPattern


def _parse_pattern(given: Any) -> NMPattern:
    try:
        return NMPattern.parse(given)
    except TypeError as error:  # pydantic collects ValueErrors only
        raise ValueError(str(error)) from None


def _known_compilation(given: Any) -> Any:
    if isinstance(given, bool) or given in COMPILE_MODES:
        return given
    raise ValueError(f"should be true, false, {', '.join(COMPILE_MODES[:-1])} or {COMPILE_MODES[-1]}")


Pattern = Annotated[NMPattern, BeforeValidator(_parse_pattern)]
MOST_UPDATES = 10**9
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")  # of torch.compile; true is the default
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A section of the config: unknown keys are refused, types are not coerced, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelConfig(Section):
    kind: Literal["image_classifier", "text_to_text", "text_classifier"]
    name: str
    roles: list[str]
    options: dict[str, Any]
    pretrained: str | None = None
    tokenizer: str | None = None

    @property
    def reads_text(self) -> bool:
        return self.kind != "image_classifier"


class MaskConfig(Section):
    axis: Literal["input", "output"]
    roles: list[str]
    patterns: dict[str, Pattern]
    names: list[str]
    stacks: Annotated[list[Literal["encoder", "decoder"]], Field(min_length=1)] | None = None
    indivisible: Literal["error", "skip"]

    @field_validator("roles", "names")
    @classmethod
    def _no_repeats(cls, given: list[str]) -> list[str]:
        repeated = list(dict.fromkeys(name for name in given if given.count(name) > 1))
        if repeated:
            raise ValueError(f"names {', '.join(repeated)} more than once")
        return given


class _Schedule(Section):
    lr: Positive  # of a checked config the highest rate used, see lr_batch
    lr_batch: Count | None = None  # runs made before have no such key
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None  # nor this one
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant", "wsd"]
    weight_decay: NonNegative
    warmup_fraction: Fraction
    cooldown_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2  # runs made before have no such key
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


class AdafactorConfig(_Schedule):
    name: Literal["adafactor"]
    beta2_decay: Annotated[float, Field(ge=-1, lt=0)]
    clip_update: Positive


OptimConfig = AdamWConfig | SGDConfig | AdafactorConfig


class TrainConfig(Section):
    epochs: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    updates: Annotated[int, Field(ge=1, le=MOST_UPDATES)] | None
    flops: Positive | None = None  # runs made before have no such key
    batch_size: Count
    micro_batches: Count
    eval_batch_size: Count
    score_by: Literal["generation", "ranking"]
    beams: Count
    length_penalty: Annotated[float, Field(allow_inf_nan=False)] = 1.0  # runs made before have no such key
    label_smoothing: Beta
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"  # runs made before have neither this key nor the next five
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    mix_switch: Fraction = 0.5
    mix_prob: Annotated[float, Field(gt=0, le=1)] = 1.0
    teacher: Annotated[str, Field(min_length=1)] | None = None  # runs made before have no such keys
    teacher_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    teacher_temperature: Positive = 1.0
    precision: Literal["fp32", "bf16", "fp16"]
    compile: Annotated[bool | str, BeforeValidator(_known_compilation)]
    channels_last: bool = False  # runs made before have no such key
    device: Literal["auto", "cpu", "cuda"]
    eval_every: Positive
    checkpoint_every: Count | None
    keep: Count = 2  # runs made before have neither this key nor the next
    keep_after: bool = False
    log_every: Count
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # runs made before have no such key, nor those below
    keep_best: bool = False
    sync_batchnorm: bool = False
    gradient_checkpointing: bool = False

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0


class MeasureConfig(Section):
    every: Count | None
    window: Annotated[int, Field(ge=2)]
    patterns: list[Pattern] | None = None  # runs made before have no such key

    @field_validator("patterns")
    @classmethod
    def _distinct(cls, given: list[NMPattern] | None) -> list[NMPattern] | None:
        if given is not None and not given:
            raise ValueError("names no pattern; null measures by the mask of sparsity")
        repeated = list(dict.fromkeys(str(pattern) for pattern in given or () if (given or []).count(pattern) > 1))
        if repeated:
            raise ValueError(f"names {', '.join(repeated)} more than once")
        return given


class LaunchConfig(Section):
    gpus: Count | None = None
    processes: Count | None = None
    nodes: Count = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    timeout: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 600.0
    compare_every: Count = 500

    @property
    def local_world(self) -> int:
        """The processes of one machine."""
        return self.gpus or self.processes or 1

    @property
    def world(self) -> int:
        """The processes that train one run together, as far as nmtrain starts them itself."""
        return self.local_world * self.nodes


class NoTracking(Section):
    name: Literal["none"]


class TensorBoardConfig(Section):
    name: Literal["tensorboard"]


class WandbConfig(Section):
    name: Literal["wandb"]
    mode: Literal["offline", "online"]
    project: str
    group: Annotated[str, Field(min_length=1, max_length=128)] | None

    @field_validator("project")
    @classmethod
    def _known_to_wandb(cls, given: str) -> str:
        if not 1 <= len(given) <= 128 or set(given) & set("/\\#?%:"):
            raise ValueError("a project's name has 1 to 128 characters, none of them / \\ # ? % :")
        return given


TrackingConfig = Annotated[NoTracking | TensorBoardConfig | WandbConfig, Field(discriminator="name")]


class _Cluster(Section):
    order: Literal["seed", "cost"] | None = None
    wait: bool = True


class NoCluster(_Cluster):
    name: Literal["none"]


class LocalCluster(_Cluster):
    name: Literal["local"]
    jobs: Count | None
    per_gpu: Count


class SubmititCluster(_Cluster):
    name: Literal["submitit_local"]
    time: Count


class SlurmCluster(_Cluster):
    name: Literal["slurm"]
    partition: str | None
    account: str | None
    time: Count
    nodes: Count = 1  # runs made before have no such key
    gpus: Count | None
    cpus: Count | None
    memory: Count | None
    constraint: str | None
    jobs: Count
    requeues: Annotated[int, Field(ge=0)]
    options: dict[str, Any]
    setup: list[str]


ClusterConfig = Annotated[NoCluster | LocalCluster | SubmititCluster | SlurmCluster, Field(discriminator="name")]


class Root(Section):
    model: ModelConfig
    data: dict[str, Any]
    sparsity: Pattern
    mask: MaskConfig
    recipe: dict[str, Any]
    optim: OptimConfig = Field(discriminator="name")
    train: TrainConfig
    measure: MeasureConfig
    tracking: TrackingConfig
    cluster: ClusterConfig = NoCluster(name="none")  # runs made before have no such key, nor retry and allow_changed
    launch: LaunchConfig = LaunchConfig()  # runs made before have no such section
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    results_dir: Annotated[str, Field(min_length=1)]
    init_from: Annotated[str, Field(min_length=1)] | None = None  # runs made before have no such key
    tune: dict[str, Any] | None = None  # of a sweep, which takes it out of its runs' configs
    force: bool
    dry_run: bool
    retry: Annotated[bool, BeforeValidator(lambda given: bool(given) if given in (0, 1) else given)] = True
    allow_changed: bool = False
