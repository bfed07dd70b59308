"""What an update costs, as ratios from one interleaved run: masks, the loop, recipes, noise metrics, compilations.

    python scripts/bench_step.py            # all parts, about a quarter of an hour on one CPU core
    python scripts/bench_step.py masks      # or: loop, updates, readings, noise, compile

Machines are shared and noisy, so every variant is timed in turn within each round, by the CPU time of the one thread
that works and by the clock. The ratios printed are medians over rounds, with the quartiles beside them. CPU time hardly
notices what else the machine does; with more threads than one (--threads) it counts only the first.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch._dynamo.utils
import torch.nn.functional as F
import transformers
from torch import Tensor

from nmtrain.config.check import Config
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.launch.job import checked
from nmtrain.models import build_model
from nmtrain.runs.folder import RunFolder
from nmtrain.sparsity import NMPattern, nm_mask, sparsify_model
from nmtrain.training.distribution.ranks import ALONE, Ranks
from nmtrain.training.loading import load_task
from nmtrain.training.loop import Trainer
from nmtrain.training.plan import make_plan

SIZES = {4: (2, 1), 8: (1, 2, 4), 16: (1, 2, 4, 8), 32: (1, 2, 8, 16), 64: (1, 4, 32), 128: (1, 2, 16)}
PATTERNS = [NMPattern(n, m) for m, ns in SIZES.items() for n in ns]
RECIPES = [
    "static",
    "ste",
    "sr_ste",
    "mdgf_exponential",
    "mdgf_linear",
    "sdgf_stepwise",
    "sdgf_geometric",
    "gmp",
    "asp",
    "step",
    "s_ste",
    "feather",
    "rigl",
    "top_kast",
    "ac_dc",
    "maxq",
]
UPDATES = 1000  # of a run whose updates are timed
GLYPHS = ["data.train_size=6400", "data.val_size=200"]
LISTOPS = ["data.train_size=6400", "data.val_size=100", "data.test_size=100"]
MODELS = {
    "vit": ["model=vit", *GLYPHS],
    "t5": ["model=t5", *LISTOPS],
    "vit_compact": ["model=vit_compact", "data.image_size=32", *GLYPHS],
}
EVERY = 20  # the default of train.log_every and measure.every

Seconds = list[tuple[float, float]]  # CPU time of the thread and wall time, by round


def interleaved(variants: dict[str, Callable[[], object]], rounds: int, warm: bool = False) -> dict[str, Seconds]:
    """Seconds of each variant in each round, after one round that does not count.

    ``warm``: each time after a call that does not count, so that none finds the caches and the heap as another one left
    them. No run does, after its first update.
    """
    seconds: dict[str, Seconds] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, call in variants.items():
            if warm:
                call()
            cpu, wall = time.thread_time(), time.perf_counter()
            call()
            if round_:
                seconds[name].append((time.thread_time() - cpu, time.perf_counter() - wall))
    return seconds


def ratio(numerator: Seconds, denominator: Seconds) -> str:
    found = []
    for clock in (0, 1):
        ratios = [a[clock] / b[clock] for a, b in zip(numerator, denominator, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found.append(f"{middle:6.3f}  ({low:.3f} to {high:.3f})")
    return f"{found[0]}   by the clock {found[1]}"


def argsort_and_scatter(weight: Tensor, pattern: NMPattern) -> Tensor:
    """The mask as SR-STE's published code makes it."""
    groups = weight.detach().abs().reshape(-1, pattern.m)
    index = groups.argsort(dim=1)[:, : pattern.m - pattern.n]
    return torch.ones_like(groups).scatter_(dim=1, index=index, value=0).reshape(weight.shape)


def bench_masks(rounds: int) -> None:
    weight = torch.randn(3072, 768, generator=torch.Generator().manual_seed(0))
    print("\nmask of a 3072x768 fp32 weight: argsort-and-scatter / nm_mask (wanted: 2 or more, 5 or more for N = 1)")
    for pattern in PATTERNS:
        seconds = interleaved(
            {
                "argsort": lambda pattern=pattern: argsort_and_scatter(weight, pattern),
                "nm_mask": lambda pattern=pattern: nm_mask(weight, pattern),
            },
            rounds,
            warm=True,
        )
        milliseconds = 1000 * statistics.median(cpu for cpu, _ in seconds["nm_mask"])
        print(f"  {pattern!s:>7} {ratio(seconds['argsort'], seconds['nm_mask'])}   nm_mask {milliseconds:.1f} ms")


def keep_the_heap() -> None:
    """Have glibc hand no freed memory back. What it does by chance costs up to a tenth of an update in page faults."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-4, 0)  # M_MMAP_MAX


def config_of(*overrides: str) -> Config:
    return checked(compose_values(prepare_overrides([*overrides, f"train.updates={UPDATES}", "train.device=cpu"])))


class OurUpdate:
    """One update of a run, `Trainer.update`, with a line in its records where one is due; through all phases."""

    def __init__(self, config: Config, ranks: Ranks = ALONE) -> None:
        plan = make_plan(config)
        device = ranks.begin(config.train, config.launch.timeout)
        torch.manual_seed(config.seed)
        model = build_model(config.model, config.data_shape).to(device)
        sparsify_model(model, plan.rules)
        task = load_task(config, model, device, ranks)
        folder = RunFolder(Path(tempfile.mkdtemp()))
        folder.prepare()
        self.trainer = Trainer(plan, model, task, ranks, folder, None, {})
        self.trainer.replicas.forward.train()
        self.number = 0

    def __call__(self) -> None:
        self.at(self.number)
        self.number = (self.number + 83) % UPDATES  # 83 and 1000 have no common divisor: every update once

    def at(self, number: int) -> None:
        grad_norm, rate = self.trainer.update(number)
        self.trainer.done += 1
        if self.trainer.done % EVERY == 0:
            self.trainer.log_training(grad_norm, rate)


class PlainUpdate:
    """The same dense model, batches, loss and optimizer as someone writes them without us, who keeps no records."""

    def __init__(self, *overrides: str) -> None:
        config = config_of(*overrides, "recipe=dense")
        torch.manual_seed(config.seed)
        self.model: Any = build_model(config.model, config.data_shape).train()
        self.data: Any = load_task(config, self.model, torch.device("cpu")).data
        self.train = config.train
        optim: Any = config.optim
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=tuple(optim.betas), eps=optim.eps, fused=True)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, UPDATES, optim.final_lr)
        self.clip_norm = optim.clip_norm
        self.number = 0

    def __call__(self) -> None:
        batch = self.data.train_batch(self.number, self.train.batch_size)
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.number = (self.number + 83) % UPDATES

    def loss(self, batch: Any) -> Tensor:
        if isinstance(batch, tuple):
            images, labels = batch
            return F.cross_entropy(self.model(images), labels, label_smoothing=self.train.label_smoothing)
        loss: Tensor = self.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        ).loss
        return loss


def bench_loop(rounds: int) -> None:
    print(f"\n{EVERY} dense updates, batch 64, with records and noise metrics / a plain loop (wanted: 1.02 or less)")
    for model, overrides in MODELS.items():
        variants = {
            "plain": PlainUpdate(*overrides),
            "without noise metrics": OurUpdate(config_of(*overrides, "recipe=dense", "measure=off")),
            "all": OurUpdate(config_of(*overrides, "recipe=dense")),
        }
        blocks = {name: lambda update=update: [update() for _ in range(EVERY)] for name, update in variants.items()}
        seconds = interleaved(blocks, rounds)
        for name in ("without noise metrics", "all"):
            print(f"  {model:12} {name:22} {ratio(seconds[name], seconds['plain'])}")


def bench_updates(rounds: int) -> None:
    print("\none update, batch 64, fp32: recipe / dense (wanted: 1.05 or less)")
    for model, overrides in MODELS.items():
        for pattern in ("2:4", "1:8", "1:32"):
            variants = {
                name: OurUpdate(config_of(*overrides, f"recipe={name}", f"sparsity={pattern}", "measure=off"))
                for name in ("dense", *RECIPES)
            }
            seconds = interleaved(variants, rounds, warm=True)
            for name in RECIPES:
                print(f"  {model:12} {pattern:>5} {name:18} {ratio(seconds[name], seconds['dense'])}")


def bench_readings(rounds: int) -> None:
    print("\none update of T5, which reads half of its sparse weights three times: sparsified each time / once")
    for recipe in ("ste", "mdgf_exponential"):
        overrides = [*MODELS["t5"], f"recipe={recipe}", "measure=off"]
        variants = {name: OurUpdate(config_of(*overrides)) for name in ("each time", "once")}
        for hook in variants["each time"].trainer.control.hooks:
            hook.remove()
        seconds = interleaved(variants, rounds, warm=True)
        print(f"  {'t5':12} {'1:32':>5} {recipe:18} {ratio(seconds['each time'], seconds['once'])}")


def bench_noise(rounds: int) -> None:
    print(f"\n{EVERY} updates of the compact ViT with noise metrics / without (wanted: 1.03 or less)")
    for recipe in ("dense", "mdgf_exponential"):
        overrides = [*MODELS["vit_compact"], f"recipe={recipe}"]
        variants = {
            "measured": OurUpdate(config_of(*overrides)),
            "off": OurUpdate(config_of(*overrides, "measure=off")),
        }
        blocks = {name: lambda update=update: [update() for _ in range(EVERY)] for name, update in variants.items()}
        seconds = interleaved(blocks, rounds)
        print(f"   1:32 {recipe:18} {ratio(seconds['measured'], seconds['off'])}")


def bench_recompilations() -> None:
    print("\ncompilations with torch.compile (wanted: none after the first update of each phase)")
    for name in ("dense", *RECIPES):
        torch._dynamo.reset()
        overrides = [*MODELS["vit_compact"], f"recipe={name}", "sparsity=1:8", "measure=off", "train.compile=true"]
        update = OurUpdate(config_of(*overrides))
        starts = [first for first, _ in update.trainer.config.recipe.phases(UPDATES)]
        at_starts = after = 0
        for first in starts:
            for number in (first, first + 1, first + 2, first + 7):
                before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
                update.at(number)
                made = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
                at_starts, after = (at_starts + made, after) if number == first else (at_starts, after + made)
        print(f"  {name:18} {len(starts)} phases: {at_starts} at their first updates, {after} after")


PARTS = {
    "masks": bench_masks,
    "loop": bench_loop,
    "updates": bench_updates,
    "readings": bench_readings,
    "noise": bench_noise,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "compile", []], default=[])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_the_heap()
    parts = arguments.parts or [*PARTS, "compile"]
    versions = f"torch {torch.__version__}, timm {timm.__version__}, transformers {transformers.__version__}"
    print(f"{versions}, {platform.machine()}, {arguments.threads} threads, {arguments.rounds} rounds")
    for part in parts:
        bench_recompilations() if part == "compile" else PARTS[part](arguments.rounds)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        main()
