"""What sparsity costs per update, as ratios from one interleaved run: masks, updates, noise metrics, recompilations.

    python scripts/bench_step.py            # all parts, about ten minutes on two CPU cores
    python scripts/bench_step.py masks      # or: updates, noise, compile

Machines are shared and noisy, so every variant is timed in turn within each round, and the ratio printed is the median
over rounds, with the quartiles beside it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch._dynamo.utils
import torch.nn.functional as F
from torch import Tensor, nn

from nmtrain.data import DataShape
from nmtrain.measure import NoiseMeter
from nmtrain.models.roles import weights_by_role
from nmtrain.models.vision import build_vision_model
from nmtrain.recipes import build_recipe
from nmtrain.sparsity import NMPattern, SparsityRule, nm_mask, resolve_rules, sparsify_model, sparsity_control

SIZES = {4: (2, 1), 8: (1, 2, 4), 16: (1, 2, 4, 8), 32: (1, 2, 8, 16), 64: (1, 4, 32), 128: (1, 2, 16)}
PATTERNS = [NMPattern(n, m) for m, ns in SIZES.items() for n in ns]
RECIPES = {
    "dense": ("dense", {}),
    "static": ("static", {}),
    "ste": ("ste", {}),
    "sr_ste": ("sr_ste", {}),
    "mdgf_exponential": ("mdgf", {}),
    "mdgf_linear": ("mdgf", {"decay": "linear"}),
    "sdgf_stepwise": ("sdgf", {}),
    "sdgf_geometric": ("sdgf", {"structure": "geometric"}),
}


EVERY = 20  # the default of measure.every


def interleaved(variants: dict[str, Callable[[], object]], rounds: int, warm: bool = False) -> dict[str, list[float]]:
    """Seconds of each variant in each round, after one round that does not count.

    ``warm``: each time after a call that does not count, so that none finds the caches and the heap as another one left
    them, which weighs in calls of a few milliseconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, call in variants.items():
            if warm:
                call()
            start = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> str:
    low, middle, high = statistics.quantiles([a / b for a, b in zip(numerator, denominator, strict=True)], n=4)
    return f"{middle:6.3f}  ({low:.3f} to {high:.3f})"


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
        milliseconds = 1000 * statistics.median(seconds["nm_mask"])
        print(f"  {pattern!s:>7} {ratio(seconds['argsort'], seconds['nm_mask'])}   nm_mask {milliseconds:.1f} ms")


class Update:
    """One optimizer update of the compact ViT under one recipe, at the update numbers of a run of 1000."""

    def __init__(self, recipe: str, pattern: str, compiled: bool = False, measured: bool = False) -> None:
        name, options = RECIPES[recipe]
        torch.manual_seed(0)
        model = build_vision_model("vit_compact", DataShape(200, 1, 32, 64, 64), {})
        target = NMPattern.parse(pattern)
        self.recipe = build_recipe(name, target, **options)
        rules = [SparsityRule(weight, target) for role, weight, _ in weights_by_role(model) if role == "ff"]
        tensors = resolve_rules(model, rules)
        if name != "dense":
            sparsify_model(model, rules)
        self.model = model
        self.forward: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
        self.control = sparsity_control(model)
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        self.meter = NoiseMeter(model, tensors, self.optimizer, EVERY, window=50) if measured else None
        self.inputs, self.targets = torch.randn(64, 1, 32, 32), torch.randint(200, (64,))
        self.number = self.updates = 0
        self.metering = 0.0  # seconds inside the meter

    def __call__(self) -> None:
        self.at(self.number)
        self.number = (self.number + 83) % 1000  # through all phases

    def at(self, number: int) -> None:
        self.control.update({target: self.recipe.at(number, 1000) for target in self.control.targets})
        F.cross_entropy(self.forward(self.inputs), self.targets).backward()
        self.control.add_penalty()
        if self.meter:
            start = time.perf_counter()
            self.meter.see_gradients(self.updates)
            self.metering += time.perf_counter() - start
        self.optimizer.step()
        if self.meter:
            start = time.perf_counter()
            self.meter.after_step()
            self.metering += time.perf_counter() - start
        self.updates += 1
        self.optimizer.zero_grad()


def bench_updates(rounds: int) -> None:
    print("\none update of the compact ViT (batch 64, 32 px, fp32): recipe / dense (wanted: 1.05 or less)")
    for pattern in ("2:4", "1:8", "1:32"):
        seconds = interleaved({name: Update(name, pattern) for name in RECIPES}, rounds)
        for name in RECIPES:
            print(f"  {pattern:>5} {name:18} {ratio(seconds[name], seconds['dense'])}")


def bench_noise(rounds: int) -> None:
    print(f"\n{EVERY} updates of the compact ViT with noise metrics / without (wanted: 1.03 or less)")
    for recipe in ("dense", "mdgf_exponential"):
        variants = {name: Update(recipe, "1:32", measured=name == "measured") for name in ("measured", "off")}
        blocks = {name: lambda update=update: [update() for _ in range(EVERY)] for name, update in variants.items()}
        seconds = interleaved(blocks, rounds)
        inside = EVERY * variants["measured"].metering / variants["measured"].updates
        share = inside / (statistics.fmean(seconds["measured"]) - inside)
        found = ratio(seconds["measured"], seconds["off"])
        print(f"   1:32 {recipe:18} {found}   time inside the meter over all other: {share:.3f}")


def bench_recompilations() -> None:
    print("\ncompilations with torch.compile (wanted: none after the first update of each phase)")
    for name in RECIPES:
        torch._dynamo.reset()
        update = Update(name, "1:8", compiled=True)
        starts = [first for first, _ in update.recipe.phases(1000)]
        at_starts = after = 0
        for first in starts:
            for number in (first, first + 1, first + 2, first + 7):
                before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
                update.at(number)
                made = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
                at_starts, after = (at_starts + made, after) if number == first else (at_starts, after + made)
        print(f"  {name:18} {len(starts)} phases: {at_starts} at their first updates, {after} after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=["masks", "updates", "noise", "compile", []], default=[])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = arguments.parts or ["masks", "updates", "noise", "compile"]
    print(f"torch {torch.__version__}, {platform.machine()}, {arguments.threads} threads, {arguments.rounds} rounds")
    if "masks" in parts:
        bench_masks(arguments.rounds)
    if "updates" in parts:
        bench_updates(arguments.rounds)
    if "noise" in parts:
        bench_noise(max(3, arguments.rounds // 3))
    if "compile" in parts:
        bench_recompilations()


if __name__ == "__main__":
    main()
