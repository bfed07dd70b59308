"""What sharing a run costs: an update by two processes over their halves of it done without each other.

    python scripts/bench_ranks.py [vit t5 vit_compact] [--rounds 15]

Each round times, in turn, one process with half of the batch while the other waits, both with half of a batch each and
knowing nothing of each other, and both together with the whole batch, by copies (DDP) and by shards (FSDP2). Shown are
the ratios of the last two to the first two, as medians over rounds with their quartiles. On a CPU, one thread each; it
wants two cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from bench_step import MODELS, OurUpdate, config_of, keep_the_heap

from nmtrain.training.distribution.place import place_among_ranks
from nmtrain.training.distribution.ranks import ManyRanks, joined

UPDATES = 5  # that are timed at once
RECIPES = ("dense", "sr_ste")


def timed(ranks: ManyRanks, update: Callable[[], None], takes_part: bool) -> float:
    """Seconds of the slowest process for some updates, after all have come."""
    ranks.gathered(None)
    start = time.perf_counter()
    for _ in range(UPDATES if takes_part else 0):
        update()
    return max(ranks.gathered(time.perf_counter() - start))


def quartiles(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.2f} to {high:.2f})"


def bench(ranks: ManyRanks, model: str, recipe: str, rounds: int) -> None:
    line = [*MODELS[model], f"recipe={recipe}", "sparsity=1:8", "measure=off"]
    whole = config_of(*line)
    half = config_of(*line, f"train.batch_size={whole.train.batch_size // 2}")
    alone = OurUpdate(half)
    ways = {way: OurUpdate(config_of(*line, f"launch.strategy={way}"), ranks) for way in ("ddp", "fsdp")}
    ratios: dict[tuple[str, str], list[float]] = {(way, name): [] for way in ways for name in ("one", "apart")}
    for number in range(rounds + 1):
        seconds = {"one": timed(ranks, alone, ranks.is_first), "apart": timed(ranks, alone, True)}
        together = {way: timed(ranks, update, True) for way, update in ways.items()}
        for (way, name), found in ratios.items():
            if number:  # the first round warms up
                found.append(together[way] / seconds[name])
    for way in ways if ranks.is_first else ():
        shown = "   ".join(f"{name} {quartiles(ratios[way, name])}" for name in seconds)
        print(f"  {model:12} batch {whole.train.batch_size:4} {recipe:8} {way:5} {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), choices=[*MODELS, []])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if (place := place_among_ranks()) is None:
        start()
        return
    torch.set_num_threads(1)
    keep_the_heap()
    with joined(place, lambda error: print(error.told(), file=sys.stderr)) as ranks:
        if ranks.is_first:
            print(f"torch {torch.__version__}, {platform.machine()}, {arguments.rounds} rounds of {UPDATES} updates")
            print("two processes together over one with half of the work, and over two apart with half each")
        for model in arguments.models:
            for recipe in RECIPES:
                bench(ranks, model, recipe, arguments.rounds)


def start() -> None:
    """This script again, as two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, *sys.argv], env=os.environ | shared | {"RANK": str(rank)})
        for rank in range(2)
    ]
    sys.exit(max(abs(rank.wait()) for rank in ranks))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        main()
