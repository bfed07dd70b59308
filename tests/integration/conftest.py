"""What tests of the installed program share: a wheel of these sources, and environments that have it."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ["nmtrain", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE"]


def run(command, **options):
    options = {"capture_output": True, "text": True, "timeout": 300} | options
    done = subprocess.run([str(part) for part in command], **options)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel of a copy of the sources, in which an earlier build has left files that no longer exist."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy)
    stale = copy / "build" / "lib" / "nmtrain"
    (stale / "conf" / "recipe").mkdir(parents=True)
    (stale / "removed_long_ago.py").touch()
    (stale / "conf" / "recipe" / "removed_long_ago.yaml").touch()
    return built(copy, tmp_path_factory.mktemp("dist"))


def built(sources, out):
    """The wheel of a folder with a pyproject.toml."""
    status, output, errors = run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, sources])
    assert status == 0, output + errors
    (wheel,) = out.iterdir()
    return wheel


def installed(wheels, folder):
    """``python`` and ``nmtrain`` of an environment with the wheels, and variables that name no other.

    It borrows the dependencies of this one, but not its nmtrain.
    """
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", *wheels]
    assert run(pip)[0] == 0
    # A .pth file of a borrowed folder is not read, so the editable nmtrain there stays out.
    borrowed = [path for path in site.getsitepackages() if Path(path).is_dir()]
    Path(packages, "borrowed.pth").write_text("\n".join(borrowed))
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "NMTRAIN"))
    }
    return python, folder / "bin" / "nmtrain", clean | {"COLUMNS": "120"}
