"""What an update costs on a GPU: ViT-B/16 at 224 pixels and a T5 of base size, both in bf16 and compiled.

    python scripts/bench_gpu.py --json results/gpu/bench.json --markdown results/gpu/bench.md   # about three minutes
    python scripts/bench_gpu.py vit --recipes dense sr_ste --seconds 600

Every variant is timed in turn within each round, by the clock, with the batch made on the device once, so that no file
is waited for; ratios are medians over rounds, with quartiles. Updates are taken from all over a run, so that each phase
of a recipe has its part. For ViT the same update as timm's training script makes it stands first, and a line at the end
has the images read from files. MFU counts the FLOPs of the dense model: masks spare none while training.
On a CPU the same with models that are tiny, in fp32 and not compiled, to try the script.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import timm
import torch
from bench_step import OurUpdate
from bench_timm import CLASSES, TimmUpdate, draw_images
from torch import Tensor

from nmtrain.config.check import Config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.data.text.batches import TextBatch
from nmtrain.launch.job import checked

CUDA = torch.cuda.is_available()
RECIPES = ["dense", "mdgf_exponential", "sr_ste", "sdgf_stepwise"]
TOTAL, STRIDE = 1000, 83  # updates of a run, and from one that is timed to the next: they have no common divisor
PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12}  # dense bf16 FLOPs per second, as NVIDIA states them (SXM)
SHARED = ["measure=off", "sparsity=1:32", f"train.updates={TOTAL}"]
SHARED += ["train.precision=bf16", "train.compile=true"] if CUDA else []
VIT = ["model=vit_base", "data=folder", "data.auto_augment=rand-m9-mstd0.5", "train.mixup=0.2", "train.ema=0.999"]
VIT += (
    ["data.image_size=224", "train.batch_size=256"]
    if CUDA
    else ["model.name=vit_tiny_patch16_224", "data.image_size=32", "train.batch_size=8"]
)
SIZES = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12}
if not CUDA:
    SIZES = {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
T5 = ["model=t5", "train.batch_size=64", *(f"++model.options.{name}={size}" for name, size in SIZES.items())]
T5_TOKENS = (512, 128) if CUDA else (32, 16)  # of each input and target; none is padding


class Variant:
    """One of those that are compared."""

    def __init__(self, update: Callable[[int], Any], per_update: int) -> None:
        """``per_update``: images or tokens."""
        self.update, self.per_update, self.done = update, per_update, 0
        self.seconds: list[float] = []  # of each block
        self.memory = 0  # bytes, at its peak

    def block(self, updates: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(updates):
            self.update(self.done * STRIDE % TOTAL)
            self.done += 1
        wait()
        return time.perf_counter() - start


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def allocated() -> int:
    return torch.cuda.memory_allocated() if CUDA else 0


def made(make: Callable[[], Variant], updates: int) -> Variant:
    """A variant after its first block, in which graphs are compiled and kernels chosen, and the memory it takes."""
    before = allocated()
    variant = make()
    first = variant.block(updates)
    own = allocated() - before
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        variant.block(1)
        variant.memory = own + torch.cuda.max_memory_allocated() - allocated()
    print(f"  first block {first:.1f} s, peak memory {variant.memory / 1e9:.2f} GB", flush=True)
    return variant


def compared(makers: dict[str, Callable[[], Variant]], updates: int, deadline: float) -> dict[str, Variant]:
    """The variants that there is time for, timed in turn until the deadline; three rounds at least."""
    start, variants = time.perf_counter(), {}
    for label, make in makers.items():
        longest = (time.perf_counter() - start) / max(1, len(variants))
        if len(variants) > 1 and time.perf_counter() + longest > deadline:
            print(f"  {label}: no time is left", flush=True)
            continue
        print(f"  {label}", flush=True)
        variants[label] = made(make, updates)
    rounds = 0
    while rounds < 3 or time.perf_counter() < deadline:
        order = list(variants) if rounds % 2 else list(reversed(variants))
        for label in order:
            variants[label].seconds.append(variants[label].block(updates))
        rounds += 1
    return variants


def rows_of(variants: dict[str, Variant], updates: int, *bases: str) -> list[dict[str, Any]]:
    """Rates, and times over those of the bases: median and quartiles."""
    rows = []
    for label, variant in variants.items():
        row: dict[str, Any] = {"variant": label, "rounds": len(variant.seconds), "memory_bytes": variant.memory}
        row["per_second"] = updates * variant.per_update / statistics.median(variant.seconds)
        for base in bases:
            ratios = [a / b for a, b in zip(variant.seconds, variants[base].seconds, strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            row[f"over_{base}"] = [statistics.median(ratios), low, high]
        rows.append(row)
    return rows


def config_of(*overrides: str) -> Config:
    return checked(compose_values(prepare_overrides([*SHARED, *overrides])))


def bench_vit(arguments: argparse.Namespace, folder: str, deadline: float) -> list[dict[str, Any]]:
    draw_images(Path(folder, "images"), *((500, 375) if CUDA else (64, 48)))
    settings = [*VIT, f"data.path={folder}/images", f"data.workers={arguments.workers}", f"results_dir={folder}"]
    ours: list[OurUpdate] = []

    def make_timm() -> Variant:
        config = config_of(*settings, "recipe=dense")
        update, images = TimmUpdate(config), Images(config)
        update.batches = map(images, repeat(None))
        return Variant(update, config.train.batch_size)

    def make_ours(recipe: str) -> Variant:
        config = config_of(*settings, f"recipe={recipe}")
        update, images = OurUpdate(config), Images(config)
        update.trainer.task.data.train_batch = images
        ours.append(update)
        return Variant(update.at, config.train.batch_size)

    makers: dict[str, Callable[[], Variant]] = {"timm": make_timm}
    makers |= {recipe: lambda recipe=recipe: make_ours(recipe) for recipe in arguments.recipes}
    variants = compared(makers, arguments.updates, deadline)
    plan = ours[0].trainer.plan
    rows = rows_of(variants, arguments.updates, "timm", "dense")
    from_files = variants[arguments.recipes[0]]
    del ours[0].trainer.task.data.train_batch
    ours[0].trainer.task.data.train_batch(0, from_files.per_update)  # the workers begin
    in_order = Variant(lambda number: ours[0].at(in_order.done + 1), from_files.per_update)
    in_order.block(2)
    rate = arguments.updates * in_order.per_update / in_order.block(arguments.updates)
    rows.append({"variant": f"{arguments.recipes[0]}, files read by {arguments.workers} workers", "per_second": rate})
    for update in ours:
        update.trainer.close(None)
    peak = next((value for part, value in PEAK.items() if CUDA and part in torch.cuda.get_device_name()), None)
    flops = plan.flops["training_dense"] / (TOTAL * from_files.per_update)
    for row in rows:
        row["mfu"] = None if peak is None else row["per_second"] * flops / peak
        row |= {"model": "ViT-B/16, 224 pixels" if CUDA else "tiny ViT", "unit": "images"}
    return rows


class Images:
    """The same random images at each update: copies, since mixup works in place."""

    def __init__(self, config: Config) -> None:
        size, count = config.data["image_size"], config.train.batch_size
        device = "cuda" if CUDA else "cpu"
        self.images = torch.randn(count, 3, size, size, device=device)
        self.labels = torch.randint(CLASSES, (count,), device=device)

    def __call__(self, *_: object) -> tuple[Tensor, Tensor]:
        return self.images.clone(), self.labels


def bench_t5(arguments: argparse.Namespace, folder: str, deadline: float) -> list[dict[str, Any]]:
    listops = ["data.train_size=256", "data.val_size=20", "data.test_size=4", f"data.cache_dir={folder}"]

    def make(recipe: str) -> Variant:
        config = config_of(*T5, *listops, f"recipe={recipe}", f"results_dir={folder}")
        update, count = OurUpdate(config), config.train.batch_size
        source, target = (torch.randint(3, 200, (count, length)) for length in T5_TOKENS)
        batch = TextBatch(source, torch.ones_like(source), target, None)
        update.trainer.task.data.train_batch = lambda *_: batch
        return Variant(update.at, count * sum(T5_TOKENS))

    recipes = [recipe for recipe in ("dense", "mdgf_exponential") if recipe in {"dense", *arguments.recipes}]
    makers = {recipe: lambda recipe=recipe: make(recipe) for recipe in recipes}
    rows = rows_of(compared(makers, arguments.updates, deadline), arguments.updates, "dense")
    size = "{} + {} tokens".format(*T5_TOKENS)
    return [row | {"model": f"{'T5-base' if CUDA else 'tiny T5'}, {size}", "unit": "tokens"} for row in rows]


def markdown(rows: list[dict[str, Any]], told: str) -> str:
    titles = ["model", "variant", "per second", "time over timm's loop", "time over dense", "MFU", "peak memory"]
    lines = [told, "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = [row["model"], row["variant"], f"{row['per_second']:,.0f} {row['unit']}"]
        for base in ("timm", "dense"):
            found = row.get(f"over_{base}")
            cells.append("{:.3f} ({:.3f} to {:.3f})".format(*found) if found else "")
        cells.append("" if row.get("mfu") is None else f"{row['mfu']:.3f}")
        cells.append(f"{row['memory_bytes'] / 1e9:.1f} GB" if "memory_bytes" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


PARTS = {"vit": bench_vit, "t5": bench_t5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--updates", type=int, default=10, help="in a block")
    parser.add_argument("--seconds", type=float, default=200.0, help="about how long it takes, in all")
    parser.add_argument("--workers", type=int, default=8, help="that read images, for the line from files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    if arguments.recipes[0] != "dense":
        parser.error("--recipes: the first is dense, by which the others are measured")
    device = torch.cuda.get_device_name() if CUDA else platform.processor() or platform.machine()
    how = "bf16, compiled" if CUDA else "fp32"
    told = f"{device}, torch {torch.__version__}, timm {timm.__version__}, {how}, 1:32"
    print(told, flush=True)
    start, rows = time.perf_counter(), []
    parts = arguments.parts or list(PARTS)
    shares = {"vit": 0.75 if "t5" in parts else 1.0, "t5": 1.0}  # of the time, at which a part is to end
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        for part in parts:
            deadline = start + arguments.seconds * shares[part] - (20 if part == "vit" and CUDA else 0)
            rows += PARTS[part](arguments, tempfile.tempdir, deadline)
            torch._dynamo.reset()
            content = {"told": told, "arguments": vars(arguments) | {"json": None, "markdown": None}, "rows": rows}
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(content, indent=1) + "\n")
            if arguments.markdown:
                arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
                arguments.markdown.write_text(markdown(rows, told))
    print(markdown(rows, told))


if __name__ == "__main__":
    main()
