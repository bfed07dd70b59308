"""Two processes train what one does: losses, metrics, noise and the final masks, for every model and recipe."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.launch.job import checked
from nmtrain.recipes import list_recipes
from nmtrain.training.run import run

# A gradient's last bits depend on the order of its sum. A larger eps keeps Adam from dividing them by nothing.
COMMON = [
    "sparsity=1:8",
    "optim.lr=1e-4",
    "train.log_every=1",
    "train.eval_every=0.4",
    "train.batch_size=32",
    "optim.eps=1e-4",
]
COMMON += ["train.eval_batch_size=100", "launch.compare_every=5", "measure.every=10"]
VIT = ["data=digits", "model=vit", "model.options.depth=1", "model.options.embed_dim=64", *COMMON]
RESNET = ["data=digits", "model=resnet", *COMMON]
T5 = ["model=t5", *COMMON, "data.train_size=256", "data.val_size=60", "data.test_size=4", "data.max_length=24"]
T5 += [f"model.options.{option}=64" for option in ("d_model", "d_ff")]
T5 += [f"model.options.{option}=1" for option in ("num_layers", "num_decoder_layers")]
OPTIONS = {"rigl": ["recipe.every=3"], "top_kast": ["recipe.every=3"], "ac_dc": ["recipe.rounds=2"]}
STRATEGIES = ["ddp", "fsdp"]
RECIPES = [*list_recipes(), "mdgf_linear", "sdgf_geometric"]


def with_recipe(model: list[str], recipe: str) -> list[str]:
    return [*model, f"recipe={recipe}", *OPTIONS.get(recipe, [])]


def records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def assert_same_training(one: Path, two: Path, evaluated: bool) -> None:
    # Of noise, variances are as small as 1e-10.
    for name, tolerance, least in (("metrics.jsonl", 1e-5, 1e-5), ("noise.jsonl", 1e-2, 1e-14)):
        lines, others = records(one, name), records(two, name)
        assert len(lines) == len(others)
        for line, other in zip(lines, others, strict=True):
            assert line.keys() == other.keys()
            if not evaluated and line.get("split") == "final":
                continue
            for key, value in line.items():
                close = tolerance if key != "grad_norm" else 1e-4
                same = pytest.approx(value, rel=close, abs=least) if isinstance(value, float) else value
                assert other[key] == same, (name, line, key)
    weights, theirs = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert weights.keys() == theirs.keys()
    for name, weight in weights.items():
        assert torch.equal(weight == 0, theirs[name] == 0), name  # the masks


def compare(pair, folder: Path, jobs: dict[str, list[str]], strategy: str, alone: Sequence[str] = ()) -> None:
    """Each job by one process, which is told what is ``alone`` for it, and by two."""
    told = [f"launch.strategy={strategy}"]
    both = pair(*({"overrides": [*line, *told, f"results_dir={folder}/two/{name}"]} for name, line in jobs.items()))
    for number, ((name, line), (first, second)) in enumerate(zip(jobs.items(), both.outcomes(), strict=True)):
        overrides = [*line, *alone, f"results_dir={folder}/one/{name}"]
        config = checked(compose_values(prepare_overrides(overrides)))
        summary, theirs = run(config), first["summary"]
        assert first == second, (number, name)  # all ranks are told the same
        if not alone:
            assert theirs["metrics"] == pytest.approx(summary["metrics"], abs=1e-5, rel=1e-5), name
        for same in ("flops", "updates", "density", "kept_zeros"):
            assert theirs[same] == summary[same]
        assert theirs.get("padding") == summary.get("padding")
        (run_folder,) = (folder / "two" / name).glob("*-*")
        assert alone or run_folder.name == config.run_name
        assert_same_training(config.run_folder, run_folder, evaluated=not alone)


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of small images of two brightnesses; one of train and one of val are damaged."""
    root, generator = tmp_path / "my photos", np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 9)):
        for name, brightness in (("dark", 80), ("light", 170)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.normal(brightness, 50, (40, 30, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number:02}.png")
        (root / split / "dark" / "03.png").write_text("no image at all")
    return root


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_of_what_a_run_may_do_besides(strategy, pair, photos, tmp_path):
    """Averages, best weights, micro-batches, clipping, penalty and exchange; images from files, of which each process
    reads its own and draws what they are drawn alone, mixed and erased; batch norm; text."""
    files = ["data=folder", f"data.path={photos}", "data.image_size=16", "data.workers=0", "data.erase=0.9"]
    files += ["data.auto_augment=rand-m5", "train.mixup=0.5", "train.cutmix=1.0", "train.eval_batch_size=4"]
    vit = [*VIT, "train.micro_batches=2", "train.ema=0.9", "train.keep_best=true", "optim.clip_norm=0.1"]
    jobs = {
        "penalty": [*vit, "recipe=sr_ste", "train.updates=6", "train.eval_every=0.1"],
        "exchange": [*vit, "recipe=rigl", "recipe.every=3", "train.updates=6"],
        "files": [*VIT, *files, "recipe=ste", "train.updates=4", "train.batch_size=16"],
        "text": [*T5, "recipe=mdgf", "train.updates=4", "train.micro_batches=2"],
        # Of 192 rows the first process keeps 96, which cut K, and with it a group of 64 rows.
        "rows": [*vit, "mask.roles=[ff,q,k,v]", "mask.axis=output", "sparsity=1:64", "recipe=sdgf", "train.updates=6"],
        "noise": [*VIT, "recipe=mdgf", "train.updates=6", "measure.every=2", "measure.window=3"],
        "again": [*VIT, "recipe=mdgf", "train.updates=4", "train.gradient_checkpointing=true"],
    }
    compare(pair, tmp_path, jobs, strategy)
    ((folder,),) = [list((tmp_path / "two" / "files").glob("*-*"))]
    log = (folder / "train.log").read_text()
    assert [log.count(f"{split}/dark/03.png) cannot be read") for split in ("train", "val")] == [1, 1]


@pytest.mark.slow
def test_of_what_listens_to_others(pair, tmp_path):
    """A teacher, and moments that say when a dense phase ends; of the latter each copy has all."""
    teacher = checked(compose_values(prepare_overrides([*VIT, "recipe=dense", f"results_dir={tmp_path}/teacher"])))
    run(teacher)
    taught = [*VIT, "recipe=static", "train.updates=4", f"train.teacher={teacher.run_folder}"]
    compare(pair, tmp_path / "taught", {"taught": taught}, "fsdp")
    switch = [*VIT, "recipe=step", "recipe.dense_fraction=auto", "train.updates=30", "train.eval_every=1"]
    compare(pair, tmp_path, {"taught": taught, "switch": switch}, "ddp")
    (folder,) = (tmp_path / "two" / "switch").glob("*-*")
    assert json.loads((folder / "summary.json").read_text())["switched_at"] < 30


@pytest.mark.slow
def test_in_half_precision_shards_train_what_copies_train(pair, tmp_path):
    """One process rounds the products of larger batches, and is another run to three digits."""
    line = [*VIT, "recipe=sr_ste", "train.updates=6", "train.precision=bf16"]
    jobs = [{"overrides": [*line, f"launch.strategy={way}", f"results_dir={tmp_path}/{way}"]} for way in STRATEGIES]
    pair(*jobs).outcomes()
    one, two = ([records(f, "metrics.jsonl") for f in (tmp_path / way).glob("*-*")] for way in STRATEGIES)
    losses = [[line["loss"] for line in lines] for (lines,) in (one, two)]
    assert len(losses[0]) > 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", [VIT, T5], ids=["vit", "t5"])
def test_of_every_recipe(model, strategy, pair, tmp_path):
    jobs = {recipe: [*with_recipe(model, recipe), "train.updates=50"] for recipe in RECIPES}
    compare(pair, tmp_path, jobs, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_of_every_recipe_with_batch_norm_over_the_same_samples(strategy, pair, tmp_path):
    """Evaluations come once, in the end: what they see are running statistics, which one process takes from both
    shares in turn, and two on the average."""
    line = ["train.updates=50", "train.eval_every=100", "train.eval_batch_size=1000"]
    jobs = {recipe: [*with_recipe(RESNET, recipe), *line] for recipe in RECIPES}
    if (
        strategy == "fsdp"
    ):  # AdamW rounds shards otherwise than whole weights, and an exchange of near equals turns on it
        jobs["rigl"] = [*(each for each in jobs["rigl"] if not each.startswith("optim.")), "optim=sgd", "optim.lr=1e-3"]
    compare(pair, tmp_path, jobs, strategy, ["train.micro_batches=2"])
