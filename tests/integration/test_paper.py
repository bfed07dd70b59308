"""The paper's experiments by name: every file is what it says, can be planned, and its small twin runs to the table."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from nmtrain.config.choices import groups
from nmtrain.config.compose import compose_values, prepare_overrides, sweep_combinations, with_axes
from nmtrain.launch.job import checked
from nmtrain.training.plan import make_plan, shape_faults

CONF = Path(__file__).parents[2] / "conf" / "experiment"
PAPER = [name for name in groups()["experiment"] if name.startswith("paper/")]
MINIS = [name for name in PAPER if name.endswith("_mini")]
FULL = [name for name in PAPER if name not in MINIS]
TABLES = [name for name in PAPER if "table" in name or "noise" in name]
# What of the hub a plan needs, and has stand-ins of the same shape.
OFFLINE = {
    "paper/t5_base_glue": ["model.pretrained=null"],
    "paper/table_glue": ["model.pretrained=null"],
    "paper/wmt": ["model.tokenizer=bytes"],
    "paper/table_wmt": ["model.tokenizer=bytes"],
}
# A sweep that takes seconds.
SMALLEST = {
    "glyphs": ["data.train_size=200", "data.val_size=100"],
    "listops": ["data.train_size=200", "data.val_size=50", "data.test_size=50"],
    "g2p": ["data.val_size=50"],
}


def header(name):
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    return [line for line in lines if line.startswith("#")]


def command(name):
    """The arguments of the one command in a file's header."""
    (line,) = [line for line in header(name) if line.startswith("#   nmtrain ")]
    return shlex.split(line.removeprefix("#   nmtrain "))


def axes(name):
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]


def combinations(name, *more):
    return sweep_combinations(with_axes(prepare_overrides([f"experiment={name}", *OFFLINE.get(name, []), *more], True)))


@pytest.mark.parametrize("name", PAPER)
def test_a_header_has_title_command_data_cost_and_claim(name):
    lines = header(name)
    assert lines[0] == "# @package _global_"
    assert command(name)[: 1 + (name in TABLES)] == ["-m"] * (name in TABLES) + [f"experiment={name}"]
    text = " ".join(lines)
    assert "@" not in text.removeprefix("# @package")
    assert "# Data: " in text
    assert "Cost: " in text
    if name in FULL:
        assert re.search(r"training FLOPs .*(hours on a GPU: not measured\.|one H200 trains .* hours)", text)
        assert "The paper claims: " in text


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_what_an_experiment_names_can_be_had(name):
    chosen = combinations(name)
    if name not in TABLES:
        assert len(chosen) == 1
    part = [*chosen[:: 1 + len(chosen) // 8], chosen[-1]]  # each takes a tenth of a second
    configs = [checked(compose_values(combination)) for combination in part]
    assert shape_faults(configs) == []


@pytest.mark.parametrize("mini", MINIS)
def test_a_small_twin_has_the_structure_of_its_large_one(mini):
    name = mini.removesuffix("_mini")
    assert name in FULL
    if mini not in TABLES:
        return
    large, small = axes(name), axes(mini)
    assert small["recipe"] == large["recipe"]
    assert set(small.get("sparsity", "1:32").split(",")) <= set(large.get("sparsity", "1:32").split(","))
    settings = [checked(compose_values(combinations(one)[0])) for one in (name, mini)]
    assert settings[0].mask == settings[1].mask


def test_every_experiment_has_its_twin_and_every_table_both_gradient_rules():
    assert {f"{name}_mini" for name in FULL} == set(MINIS)
    for name in TABLES:
        recipes = axes(name)["recipe"].split(",")
        assert {"dense", "sr_ste", "mdgf_exponential", "mdgf_exponential_straight_through"} < set(recipes)


def test_vit_base_on_imagenet_has_the_figures_of_the_paper():
    """Planned without data: 24 matrices of 768 x 3072 and 197 tokens (method.md, section 7)."""
    config = checked(compose_values(["experiment=paper/vit_base_imagenet", "sparsity=1:32", "recipe=sr_ste"]))
    shape = config.data_shape
    assert (shape.image_size, shape.num_classes, shape.train_size, shape.val_size) == (224, 1000, 1_281_167, 50_000)
    assert config.total_updates == 350 * (1_281_167 // 4096)
    assert (config.optim.lr, config.optim.final_lr) == (1e-3, 1e-7)
    plan = make_plan(config)
    assert sorted({tuple(tensor.shape) for tensor in plan.tensors}) == [(768, 3072), (3072, 768)]
    assert len(plan.tensors) == 24
    assert plan.flops["inference_dense"] == pytest.approx(2 * 17.6e9, rel=0.01)
    assert plan.flops["inference_dense"] - plan.flops["inference"] == 2 * (11_154_751_488 - 348_585_984)


def test_the_learning_rates_are_for_the_batches_that_the_paper_says():
    rates = {
        name: checked(compose_values([f"experiment=paper/{name}"])).optim.lr
        for name in ("vit_base_imagenet", "resnet50_imagenet", "compact_vit_cifar10")
    }
    assert rates == pytest.approx(
        {"vit_base_imagenet": 1e-3, "resnet50_imagenet": 0.5e-4, "compact_vit_cifar10": 0.25e-4}
    )


def test_a_table_without_m_is_told_what_it_is(refused):
    assert refused("experiment=paper/table_ff") == (
        "experiment=paper/table_ff: is a sweep over sparsity, recipe; add -m"
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "paper/table_ff_mini" else [pytest.mark.slow]) for name in PAPER]
)
def test_the_command_of_a_header_dry_runs(nm, name):
    """Of a table two recipes at one pattern, which the command line may say."""
    given = [argument for argument in command(name) if not argument.startswith("data.path=")]
    few = ["recipe=dense,mdgf_exponential"] if name in TABLES else []
    few += [f"sparsity={axes(name)['sparsity'].rpartition(',')[2]}"] if "sparsity" in (few and axes(name)) else []
    few += ["data.task=rte"] if name == "paper/table_glue" else []
    status, out, err = nm(*given, *few, *OFFLINE.get(name, []), "--dry-run")
    assert (status, err) == (0, "")
    shown = out.count("│ planned") if name in TABLES else out.count("training FLOPs")
    assert shown == (4 if "flops" in name else 2 if few else 1)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MINIS if name in TABLES])
def test_a_small_twin_runs_to_the_table(nm, name):
    data = compose_values(combinations(name)[0])["data"]["name"]
    length = ["train.flops=1e9,2e9"] if "train.flops" in axes(name) else ["train.updates=2"]
    tiny = [*length, "train.batch_size=8", "train.eval_every=1", *SMALLEST[data]]
    status, _, err = nm("-m", f"experiment={name}", *tiny)
    assert (status, err) == (0, "")
    status, out, err = nm("report", "--out", "page")
    assert (status, err) == (0, "")
    columns = len(axes(name)["recipe"].split(","))
    lines = [
        line for line in (Path("page") / "report.md").read_text().splitlines() if line.startswith("| pattern | dense")
    ]
    assert lines[0].count("|") == columns + 2
    for recipe in ("SR-STE", "MDGF exponential, straight-through gradient"):
        assert f"| {recipe} |" in lines[0]
    assert "runs are finished and counted." in out
