"""How long training waits for a checkpoint of ViT-B/16, and how long it takes until that is whole on the disk.

    python scripts/bench_checkpoint.py [--rounds 7] [--images-per-second 3472]

It holds what that of `experiment=paper/vit_base_imagenet` does: weights, both moments of AdamW, masks of FF layers.
Shown are medians with their quartiles, and the wait as a share of an epoch of ImageNet at a speed that was measured
elsewhere (results/gpu has the default).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch

from nmtrain.sparsity import NMPattern, SparsityRule, sparsify_model
from nmtrain.training.checkpoint import CheckpointWriter

IMAGES = 1_281_167  # of ImageNet's training set


def content() -> dict[str, object]:
    model = timm.create_model("vit_base_patch16_224")
    sparsify_model(model, [SparsityRule(f"blocks.*.mlp.{name}.weight", NMPattern(1, 32)) for name in ("fc1", "fc2")])
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def shown(seconds: list[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{middle:.2f} s ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images-per-second", type=float, default=3472)
    arguments = parser.parse_args()
    waits, wholes = [], []
    state = content()
    with tempfile.TemporaryDirectory() as folder:
        writer = CheckpointWriter(Path(folder), keep=2)
        for update in range(arguments.rounds):
            start = time.perf_counter()
            writer.begin(update, state)
            waits.append(time.perf_counter() - start)
            writer.finish()
            wholes.append(time.perf_counter() - start)
        size = max(file.stat().st_size for file in Path(folder).iterdir())
    speed = arguments.images_per_second
    epoch = IMAGES / speed
    print(f"torch {torch.__version__}, {arguments.rounds} checkpoints of {size / 1e9:.2f} GB")
    print(f"training waits {shown(waits)}; whole after {shown(wholes)}")
    share = 100 * statistics.median(waits) / epoch
    print(f"an epoch at {speed:g} images/s takes {epoch:.0f} s, of which the wait is {share:.2f} %")


if __name__ == "__main__":
    main()
