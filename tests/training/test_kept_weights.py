"""Averaged weights, the best ones and gradient checkpointing, beside every recipe.

None of them changes what is trained; what they keep is N:M by the run's own masks, and comes through a kill.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from nmtrain.runs.weights import BEST, EMA, LAST
from nmtrain.training.evaluation import evaluate_run
from nmtrain.training.run import run

KEEPING = ["train.ema=0.8", "train.keep_best=true"]
FAST = [
    ["recipe=dense"],
    ["recipe=sr_ste", "recipe.penalty=0.1"],
    ["recipe=mdgf_exponential"],
    ["recipe=sdgf_stepwise", "recipe.dense_fraction=0.2"],
    ["recipe=s_ste"],
    ["recipe=rigl", "recipe.every=3"],
]
SLOW = [
    ["recipe=static"],
    ["recipe=ste"],
    ["recipe=mdgf_linear", "recipe.gradient=straight_through", "recipe.finetune_fraction=0.4"],
    ["recipe=mdgf", "recipe.tighten=true", "recipe.contenders=2.0", "recipe.decay_end=0.1"],
    ["recipe=sdgf_geometric", "recipe.decay=linear"],
    ["recipe=gmp"],
    ["recipe=asp"],
    ["recipe=step"],
    ["recipe=feather"],
    ["recipe=top_kast", "recipe.every=3"],
    ["recipe=ac_dc", "recipe.rounds=2"],
    ["recipe=maxq"],
]
RECIPES = [*FAST, *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in SLOW)]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_ema(record):
    return {name: value for name, value in record.items() if not name.startswith("ema_")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe[0].removeprefix("recipe="))
def test_with_every_recipe(recipe, make_config, tmp_path):
    common = [
        *recipe,
        "train.keep=100",
        "mask.roles=[ff,q]",
        "train.micro_batches=2",
        "model.options.proj_drop_rate=0.1",
    ]
    plain, config = make_config(*common), make_config(*common, *KEEPING, "train.gradient_checkpointing=true")
    expected = run(plain)
    summary = run(config)
    folder = config.run_folder

    # Nothing else about the run is another, to the bit.
    last = load_file(folder / LAST.file)
    assert same(last, load_file(plain.run_folder / LAST.file))
    assert [without_ema(line) for line in lines(folder)] == lines(plain.run_folder)
    assert summary["metrics"].items() > expected["metrics"].items()
    assert summary["flops"] == expected["flops"]

    # What was kept is N:M (`evaluate_run` looks at every group) by the masks of the run, and is what was scored.
    averaged = load_file(folder / EMA.file)
    assert not same(averaged, last)
    if not config.is_dense:
        for tensor in json.loads((folder / "sparse_tensors.json").read_text()):
            first, end = tensor["rows"] or (0, None)
            pruned = last[tensor["name"]][first:end] == 0
            assert pruned.float().mean() >= 7 / 8
            assert averaged[tensor["name"]][first:end][pruned].count_nonzero() == 0
    again = evaluate_run(folder, weights=EMA)["metrics"]
    assert again["val/loss"] == pytest.approx(summary["metrics"]["val/ema_loss"], rel=1e-5)
    best = summary["best"]
    again = evaluate_run(folder, weights=BEST)["metrics"]
    assert again["val/accuracy"] == pytest.approx(best["value"], abs=1e-9)
    assert best["value"] >= summary["metrics"]["val/accuracy"]

    # A kill changes nothing, nor to go on without gradient checkpointing.
    reference = tmp_path / "reference"
    shutil.move(folder, reference)
    shutil.copytree(reference, folder)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.split("-")[0]) > 8:
            path.unlink()
    for name in ("summary.json", LAST.file, EMA.file, BEST.file):
        (folder / name).unlink()
    (folder / "status.json").write_text('{"state": "running", "reason": null}')
    assert run(make_config(*common, *KEEPING))["best"] == best
    assert lines(folder) == lines(reference)
    for weights in (LAST, EMA, BEST):
        assert same(load_file(folder / weights.file), load_file(reference / weights.file)), weights
