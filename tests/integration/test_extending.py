"""The example of docs/extending.md works as written: from a folder, and from a package of one's own."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from nmtrain import sparsity
from nmtrain.recipes import build_recipe
from tests.integration.conftest import ROOT, built, installed, run


def block(language: str) -> str:
    """The first of a language."""
    return blocks(language)[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), flags=re.S)


def write_example(code: Path, options: Path) -> None:
    """The recipe and its YAML, in the folders and under the names that the page says."""
    recipe = block("python")
    assert recipe.startswith("# my_folder/cubic.py\n")
    (options / "recipe").mkdir(parents=True)
    (code / "cubic.py").write_text(recipe)
    assert "`my_folder/recipe/cubic.yaml`" in (ROOT / "docs" / "extending.md").read_text()
    (options / "recipe" / "cubic.yaml").write_text(block("yaml"))


@pytest.mark.parametrize("name", ["sr_ste", "rigl", "ac_dc", "s_ste"])
def test_the_loop_of_ones_own_trains_the_model_that_comes_out(name):
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(16, 4)), torch.randn(32, 16)
    names = {"model": model, "total": 20, "optimizer": torch.optim.AdamW(model.parameters(), lr=0.01)}
    names["loss_of"] = lambda model: (model(inputs) - inputs[:, :4]).square().mean()
    given = {one: getattr(sparsity, one) for one in ("SparsityRule", "sparsify_model", "sparsity_control")}
    loop = blocks("python")[1].replace('"sr_ste"', repr(name))
    before, baking = loop.rsplit("remove_sparsity", 1)
    exec(before, names | given | {"build_recipe": build_recipe})
    shown = model(inputs)
    exec("remove_sparsity" + baking, {"model": model, "remove_sparsity": sparsity.remove_sparsity})
    assert torch.equal(model(inputs), shown)
    assert sparsity.verify_sparsity(model, [sparsity.SparsityRule("0.weight", sparsity.NMPattern(1, 8))]) == 0


@pytest.fixture(scope="module")
def plain(wheel, tmp_path_factory):
    """An environment that has nmtrain from its wheel and nothing else of ours."""
    return installed([wheel], tmp_path_factory.mktemp("plain") / "venv")


SMOKE = ["experiment=smoke", "recipe=cubic", "sparsity=1:8", "train.updates=20"]


@pytest.mark.slow
def test_the_example_works_in_a_folder_of_ones_own(plain, tmp_path):
    _, nmtrain, clean = plain
    write_example(tmp_path / "my_folder", tmp_path / "my_folder")

    def do(*arguments):
        return run([nmtrain, *arguments], cwd=tmp_path, env=clean)

    plugins = ["--plugins", "my_folder"]
    status, out, err = do(*plugins, *SMOKE, "--dry-run")
    assert status == 0, err
    rows = [line.replace("│", " ").split() for line in out.splitlines() if "masked" in line]
    assert rows == [["0", "1:8", "from", "1", "masked", "0"], ["18", "1:8", "0", "masked", "0"]]

    status, out, err = do(*plugins, *SMOKE)
    assert status == 0, err
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert folder.name.startswith("vit-digits-1of8-cubic-s0-")
    (record,) = json.loads((folder / "environment.json").read_text())["plugins"]
    assert record["provides"] == ["recipe cubic"]
    assert len(record["hash"]) == 32

    status, out, err = do("list", "recipe", *plugins)
    assert (status, err) == (0, "")
    assert re.search(r"^  cubic +The mask decays as \(1 - j/L\)\^3\. +\(my_folder/", out, flags=re.M)

    status, _, err = do("eval", folder)
    assert status == 2
    assert "--plugins" in err
    assert "cubic" in err
    for command in ("eval", "export"):
        status, out, err = do(command, folder, *plugins)
        assert (status, err) == (0, "")
    assert (folder / "export" / "model.safetensors").is_file()
    for given in ([], plugins):
        status, out, err = do("report", "results/runs", *given)
        assert (status, err) == (0, "")
        assert "cubic" in out


@pytest.mark.slow
def test_the_example_works_as_a_package_of_ones_own(wheel, tmp_path):
    package = tmp_path / "sources" / "my_sparse"
    write_example(package, package / "conf")
    (package / "__init__.py").touch()
    declared = '[project]\nname = "my-sparse"\nversion = "0.3"\n\n[tool.setuptools]\npackages = ["my_sparse"]\n\n'
    (tmp_path / "sources" / "pyproject.toml").write_text(declared + block("toml"))
    ours = built(tmp_path / "sources", tmp_path / "dist")
    _, nmtrain, clean = installed([wheel, ours], tmp_path / "venv")
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    status, out, err = run([nmtrain, "list", "recipe"], cwd=folder, env=clean)
    assert (status, err) == (0, "")
    assert re.search(r"^  cubic .*\(package my-sparse 0\.3\)$", out, flags=re.M)
    status, out, err = run([nmtrain, "-m", *SMOKE, "seed=0,1"], cwd=folder, env=clean)
    assert status == 0, err
    runs = sorted((folder / "results" / "runs").glob("*/environment.json"))
    assert len(runs) == 2
    (record,) = json.loads(runs[0].read_text())["plugins"]
    assert (record["name"], record["version"]) == ("my-sparse", "0.3")
    status, out, err = run([nmtrain, "eval", runs[0].parent], cwd=folder, env=clean)
    assert (status, err) == (0, "")
