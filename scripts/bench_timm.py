"""What training from image files costs over a loop of timm's own parts, as ratios from one interleaved run.

    python scripts/bench_timm.py                         # three small models; about a quarter of an hour on two cores
    python scripts/bench_timm.py vit --recipes dense sr_ste --rounds 20

Both sides have the same model, files, transforms (RandAugment), batch, precision, workers, mixup, clipping, optimizer,
schedule and average of weights; timm's are those of the installed package. Blocks of updates follow one another in each
round, the workers of other sides stopped meanwhile. The ratios, of CPU time of all processes and of time by the clock,
are medians over rounds, with quartiles.

On CUDA it is ViT-B/16 at 224 pixels, in bf16 and compiled, with images per second and the share of the GPU's peak
that the model's FLOPs are (MFU).
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import timm
import torch
from bench_step import EVERY, OurUpdate, Seconds, keep_the_heap, ratio
from PIL import Image, ImageDraw
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, dispatch_clip_grad
from torch import Tensor

from nmtrain.config.check import Config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.launch.job import checked
from nmtrain.models import build_model
from nmtrain.training.loop import compiled

CLASSES = 10
DRAWN, COPIES = 32, 32  # images of a class, and the names of each: an epoch longer than a few blocks
SMALL = {  # on a CPU
    "vit": ["model=vit", "train.batch_size=64"],
    "vit_tiny": ["model=vit_base", "model.name=vit_tiny_patch16_224", "data.image_size=128", "train.batch_size=32"],
    "resnet18": ["model=resnet50", "model.name=resnet18", "data.image_size=128", "train.batch_size=32"],
}
LARGE = {"vit_base": ["model=vit_base", "data.image_size=224", "train.batch_size=256", "train.compile=true"]}
PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12}  # dense bf16 FLOPs per second, as NVIDIA states them (SXM)


def draw_images(folder: Path, width: int, height: int) -> None:
    """A tree of class folders of JPEG files: circles on noise, such as photographs take to decode."""
    generator = np.random.default_rng(0)
    for split, drawn, copies in (("train", DRAWN, COPIES), ("val", 1, 1)):
        for label in range(CLASSES):
            place = folder / split / f"class_{label}"
            place.mkdir(parents=True)
            for number in range(drawn):
                noise = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
                image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
                for x, y in generator.integers(0, (width, height), (8, 2)):
                    ImageDraw.Draw(image).circle((x, y), height // 8, outline=(255, 255, 255), width=label + 1)
                first = place / f"{number}_0.jpg"
                image.save(first, quality=90)
                for copy in range(1, copies):
                    os.link(first, place / f"{number}_{copy}.jpg")


class TimmUpdate:
    """One update as timm's training script makes it, on the configuration of one of our runs."""

    def __init__(self, config: Config) -> None:
        optim: Any = config.optim
        train, data = config.train, config.data
        self.config, self.clip_norm = config, optim.clip_norm
        self.device = torch.device("cuda" if train.device == "auto" and torch.cuda.is_available() else "cpu")
        torch.manual_seed(config.seed)
        self.model = model = build_model(config.model, config.data_shape).to(self.device).train()
        self.optimizer = create_optimizer_v2(  # fused, as ours is
            model, "adamw", lr=optim.lr, weight_decay=optim.weight_decay, betas=tuple(optim.betas), fused=True
        )
        total, warmup = config.total_updates, round(optim.warmup_fraction * config.total_updates)
        self.schedule = CosineLRScheduler(self.optimizer, total, optim.final_lr, warmup_t=warmup, t_in_epochs=False)
        self.average = ModelEmaV3(model, train.ema)
        self.forward = compiled(model, train.compile)
        self.mixup = Mixup(train.mixup, label_smoothing=train.label_smoothing, num_classes=CLASSES)
        self.criterion, self.losses = SoftTargetCrossEntropy(), AverageMeter()
        loader = create_loader(
            create_dataset("", root=data["path"], split="train"),
            (3, data["image_size"], data["image_size"]),
            train.batch_size,
            is_training=True,
            scale=data["crop_scale"],
            ratio=data["crop_ratio"],
            hflip=data["hflip"],
            color_jitter=data["color_jitter"],
            auto_augment=data["auto_augment"],
            interpolation=data["interpolation"],
            mean=data["mean"],
            std=data["std"],
            num_workers=data["workers"],
            pin_memory=self.device.type == "cuda",
            device=self.device,
        )
        self.batches: Iterator[tuple[Tensor, Tensor]] = chain.from_iterable(repeat(loader))

    def start(self) -> None:
        next(self.batches)

    def __call__(self, number: int) -> None:
        images, targets = self.mixup(*next(self.batches))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16"):
            loss = self.criterion(self.forward(images), targets)
        loss.backward()
        dispatch_clip_grad(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model, step=number + 1)
        if (number + 1) % EVERY == 0:
            self.losses.update(loss.item(), len(images))
        self.schedule.step_update(number + 1)


class Ours(OurUpdate):
    """One update of a run of ours."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def start(self) -> None:
        self.trainer.task.data.train_batch(0, self.config.train.batch_size)

    def __call__(self, number: int) -> None:
        self.at(number)


class Side:
    """One of those that are compared, and the processes that read images for it."""

    def __init__(self, update: TimmUpdate | Ours) -> None:
        self.update, self.batch_size, self.done = update, update.config.train.batch_size, 0
        before = set(psutil.Process().children())
        update.start()
        self.workers = set(psutil.Process().children()) - before
        self.stop()

    def go_on(self) -> None:
        for worker in self.workers:
            worker.resume()

    def stop(self) -> None:
        for worker in self.workers:
            worker.suspend()

    def block(self, updates: int) -> tuple[float, float]:
        """CPU time of all processes and wall time of the next updates."""
        self.go_on()
        cpu, wall = self.cpu(), time.perf_counter()
        for _ in range(updates):
            self.update(self.done)
            self.done += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = self.cpu() - cpu, time.perf_counter() - wall
        self.stop()
        return seconds

    def close(self) -> None:
        self.go_on()
        if isinstance(self.update, Ours):  # timm's loader ends its workers as it is forgotten
            self.update.trainer.close(None)

    def cpu(self) -> float:
        return time.process_time() + sum(sum(worker.cpu_times()[:2]) for worker in self.workers)


def bench(name: str, settings: list[str], arguments: argparse.Namespace) -> None:
    rounds, updates = arguments.rounds, arguments.updates

    def config_of(recipe: str) -> Config:
        overrides = [*settings, f"recipe={recipe}", f"train.updates={(rounds + 1) * updates}"]
        return checked(compose_values(prepare_overrides(overrides)))

    sides: dict[str, Side] = {}
    try:
        sides["timm"] = Side(TimmUpdate(config_of("dense")))
        for recipe in arguments.recipes:
            sides[recipe] = Side(Ours(config_of(recipe)))
        seconds: dict[str, Seconds] = {label: [side.block(updates)] for label, side in sides.items()}
        for _ in range(rounds):
            for label in random.sample(list(sides), len(sides)):  # which one comes before changes what caches hold
                seconds[label].append(sides[label].block(updates))
    finally:
        for side in sides.values():
            side.close()
    counted = {label: found[1:] for label, found in seconds.items()}  # caches and compilation make the first longer
    for label, side in sides.items():
        rate = statistics.median(updates * side.batch_size / wall for _, wall in counted[label])
        told = f"{rate:.0f} images per second{utilisation(side, rate)}"
        print(f"  {name:9} {label:18} {ratio(counted[label], counted['timm'])}   {told}", flush=True)


def utilisation(side: Side, rate: float) -> str:
    """Of a GPU whose peak is known, by the FLOPs of the dense model: masks save none there while they train."""
    if not torch.cuda.is_available() or isinstance(side.update, TimmUpdate):
        return ""
    name, plan = torch.cuda.get_device_name(), side.update.trainer.plan
    peak = next((value for part, value in PEAK.items() if part in name), float("nan"))
    flops = plan.flops["training_dense"] / (plan.config.total_updates * side.batch_size)
    return f", MFU {rate * flops / peak:.3f} ({name})"


def main() -> None:
    cuda = torch.cuda.is_available()
    models = LARGE if cuda else SMALL
    has_bf16 = torch.cuda.is_bf16_supported() if cuda else torch.cpu._is_avx512_bf16_supported()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", choices=[*models, []], default=[])
    parser.add_argument("--recipes", nargs="+", default=["dense", "mdgf_exponential"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=20 if cuda else 10, help="in a block")
    parser.add_argument("--workers", type=int, default=8 if cuda else 1, help="of each side")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if has_bf16 else "fp32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_the_heap()
    print(f"torch {torch.__version__}, timm {timm.__version__}, {platform.machine()}, {arguments}")
    print("ours / timm (wanted: dense at most 1.02, sparse at most 1.05), CPU time of all processes and by the clock")
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        draw_images(Path(tempfile.tempdir, "images"), *((500, 375) if cuda else (160, 120)))
        shared = f"data=folder data.path={tempfile.tempdir}/images data.auto_augment=rand-m9-mstd0.5 measure=off"
        shared += f" data.workers={arguments.workers} train.mixup=0.2 train.ema=0.999 sparsity=1:32"
        shared += f" train.precision={arguments.precision} results_dir={tempfile.tempdir}"
        for name in arguments.models or models:
            bench(name, [*shared.split(), *models[name]], arguments)


if __name__ == "__main__":
    main()
