"""Installed from a wheel, and set up by make: what a user types in any folder works as in the source tree."""

import os
import re
import shutil
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.integration.conftest import installed, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def outside_of_make(monkeypatch):
    """`make test` tells a make inside of it that it is inside: it would print which folder it enters."""
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)


def tracked(folder, suffixes):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_every_config_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {f"nmtrain/{name}" for name in tracked(ROOT / "nmtrain", {".py", ".css", ".js", ".j2"})}
    configs = {f"nmtrain/conf/{name}" for name in tracked(ROOT / "conf", {".py", ".yaml"})}
    dictionary = {f"nmtrain/data/text/cmudict/{name}" for name in ("LICENSE", "README", "cmudict.dict.xz")}
    assert names == modules | configs | dictionary


def test_every_package_is_listed_in_pyproject():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "nmtrain").rglob("__init__.py")}
    assert set(listed) == found | {"nmtrain.conf"}


@pytest.mark.slow
def test_the_installed_wheel_lists_refuses_and_trains_in_any_folder(wheel, tmp_path):
    """In an environment of its own, which borrows the dependencies of this one but not its nmtrain."""
    python, command, clean = installed([wheel], tmp_path / "venv")
    packages = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")})
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    status, out, err = run(
        [python, "-c", "import nmtrain, nmtrain.conf; print(nmtrain.__file__)"], cwd=folder, env=clean
    )
    assert (status, out) == (0, f"{packages}/nmtrain/__init__.py\n"), err

    status, out, err = run([command, "list"], cwd=folder, env=clean)
    assert (status, err) == (0, "")
    assert re.search(r"^  sdgf_geometric +SDGF, 16N:16M", out, re.MULTILINE)
    assert "removed_long_ago" not in out

    status, out, err = run([command, "sparsity=32:1"], cwd=folder, env=clean)
    assert (status, out) == (2, "")
    assert err == "sparsity: 32:1: N = 32 exceeds M = 1; N:M keeps N of every M weights\n"
    assert list(folder.iterdir()) == []

    status, out, err = run([command, "-m", "experiment=smoke", "train.updates=3", "seed=0,1"], cwd=folder, env=clean)
    assert status == 0, err
    assert [path.name for path in folder.iterdir()] == ["results"]
    runs = sorted(path.parent.name for path in folder.glob("results/runs/*/summary.json"))
    assert [name.rpartition("-")[0] for name in runs] == [f"vit-digits-1of32-sdgf_stepwise-s{seed}" for seed in (0, 1)]


# make


@pytest.fixture
def checkout(tmp_path):
    """The Makefile and the pins in a folder of their own, so that no set-up ever touches the environment in use."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    return tmp_path


def ready(checkout):
    """An environment as `make setup` leaves it: the pins it was made from, and the commands of the one in use."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(checkout / "constraints.txt", checkout / ".venv")
    command = checkout / ".venv" / "bin" / "nmtrain"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m nmtrain.cli "$@"\n')
    command.chmod(0o755)


@pytest.mark.slow
def test_make_train_passes_the_command_line_on(checkout):
    ready(checkout)
    arguments = f"experiment=smoke train.updates=3 results_dir={checkout}/runs"
    status, out, err = run(["make", "train", f"RUN={arguments}", "PYTHON=/nonexistent/python"], cwd=checkout)
    assert status == 0, out + err
    assert "setting up" not in out
    (folder,) = (checkout / "runs").iterdir()
    assert out.endswith(f"run folder: {folder}\n")


def test_make_train_without_run_trains_what_the_readme_says(checkout):
    ready(checkout)
    status, out, _ = run(["make", "-n", "train"], cwd=checkout)
    assert status == 0
    assert ".venv/bin/nmtrain model=vit sparsity=1:32 recipe=sdgf\n" in out


def test_make_fails_when_the_run_fails(checkout):
    ready(checkout)
    status, _, err = run(["make", "train", "RUN=sparsity=32:1"], cwd=checkout)
    assert status == 2
    assert "sparsity: 32:1: N = 32 exceeds M = 1" in err


@pytest.fixture
def recorder(checkout):
    """A python that makes no environment but the appearance of one, and notes what it and its pip were told."""
    python, log = checkout / "python", checkout / "log"
    python.write_text(
        f"""#!/bin/sh
echo "python $@" >> {log}
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "pip $@" >> {log}\\nexit ${{PIP_STATUS:-0}}\\n' > .venv/bin/python
chmod +x .venv/bin/python
"""
    )
    python.chmod(0o755)

    def setup(**environment):
        log.write_text("")
        status, out, _ = run(["make", "setup", f"PYTHON={python}"], cwd=checkout, env=os.environ | environment)
        return status, out, log.read_text().splitlines()

    return setup


MADE_ANEW = [
    "python -m venv --clear .venv",
    "pip -m pip install --quiet --constraint constraints.txt --editable .[dev]",
]


def test_make_sets_up_once_and_again_when_the_pins_change(checkout, recorder):
    status, out, log = recorder()
    assert (status, log) == (0, MADE_ANEW)
    assert out.startswith("setting up .venv from constraints.txt")
    assert (checkout / ".venv" / "constraints.txt").read_bytes() == (checkout / "constraints.txt").read_bytes()
    assert recorder() == (0, "", [])
    with open(checkout / "constraints.txt", "a") as pins:
        pins.write("wheel==0.1\n")
    status, _, log = recorder()
    assert (status, log) == (0, MADE_ANEW)


def test_a_set_up_that_was_cut_off_is_done_again(checkout, recorder):
    status, _, log = recorder(PIP_STATUS="1")
    assert status != 0
    assert log == MADE_ANEW
    assert not (checkout / ".venv" / "constraints.txt").exists()
    status, _, log = recorder()
    assert (status, log) == (0, MADE_ANEW)
