"""The README's example of a new recipe works as written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


def test_the_example_recipe_of_the_readme_trains_and_shows_its_phases(tmp_path):
    package = tmp_path / "nmtrain"
    shutil.copytree(ROOT / "nmtrain", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", package / "conf")
    recipe, registry = blocks("python")
    (options,) = blocks("yaml")
    assert recipe.startswith("# nmtrain/recipes/cubic.py\n")
    assert options.startswith("# conf/recipe/cubic.yaml\n")
    (package / "recipes" / "cubic.py").write_text(recipe)
    with open(package / "recipes" / "__init__.py", "a") as file:
        file.write(registry)
    (package / "conf" / "recipe" / "cubic.yaml").write_text(options)

    command = [sys.executable, "-m", "nmtrain.cli", "experiment=smoke", "recipe=cubic", "sparsity=1:8"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "120"}
    planned = subprocess.run(
        [*command, "train.updates=20", "--dry-run"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert planned.returncode == 0, planned.stderr
    rows = [line.replace("│", " ").split() for line in planned.stdout.splitlines() if "masked" in line]
    assert rows == [["0", "1:8", "from", "1", "masked", "0"], ["18", "1:8", "0", "masked", "0"]]

    trained = subprocess.run(
        [*command, "train.updates=3", f"results_dir={tmp_path}/runs"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    assert trained.returncode == 0, trained.stderr
    assert [path.name.startswith("vit-digits-1of8-cubic-s0-") for path in (tmp_path / "runs").iterdir()] == [True]
