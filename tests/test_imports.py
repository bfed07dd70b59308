"""The house stays one: no import goes in a circle or climbs, those for types alone included, and no file grows long."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import nmtrain

ROOT = Path(nmtrain.__file__).parent
MOST_LINES = 400
# Each room may use itself and the rooms below it (architecture.md). Rooms of one level do not know each other, but for
# what stands in BESIDE.
LEVELS = [
    ["nmtrain.cli", "nmtrain.__main__"],
    ["nmtrain.launch"],
    ["nmtrain.training", "nmtrain.report"],
    ["nmtrain.models", "nmtrain.measure", "nmtrain.tracking"],
    ["nmtrain.config"],
    ["nmtrain.recipes", "nmtrain.data"],
    ["nmtrain.sparsity", "nmtrain.runs"],
    ["nmtrain.errors"],
    ["nmtrain", "nmtrain.conf"],
]
BESIDE = {("nmtrain.__main__", "nmtrain.cli")}
# Inside a report, data flow one way.
STAGES = ["nmtrain.report.write", "nmtrain.report.draw", "nmtrain.report.compare", "nmtrain.report.read"]


def modules() -> dict[str, Path]:
    files = [file for file in ROOT.rglob("*.py") if "conf" not in file.relative_to(ROOT).parts]
    names = {".".join(["nmtrain", *file.relative_to(ROOT).with_suffix("").parts]): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


MODULES = modules()


def imported(source: str, known: set[str]) -> set[str]:
    """The modules that a file imports, wherever in it: inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are written out"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name not in known and "." in name:
                name = name.rpartition(".")[0]
            found |= {name} & known
    return found


IMPORTS = {name: imported(file.read_text(), set(MODULES)) - {name} for name, file in MODULES.items()}


def circle(imports: dict[str, set[str]]) -> list[str]:
    """A way from a module back to itself, or nothing."""
    done: set[str] = set()

    def walk(path: list[str]) -> list[str]:
        for name in sorted(imports[path[-1]]):
            if name in path:
                return [*path[path.index(name) :], name]
            if name not in done and (found := walk([*path, name])):
                return found
        done.add(path[-1])
        return []

    return next((found for name in sorted(imports) if (found := walk([name]))), [])


def level(name: str, rooms: list[list[str]]) -> tuple[int, str]:
    inside = [(number, room) for number, level in enumerate(rooms) for room in level]
    return max(
        (found for found in inside if name == found[1] or name.startswith(f"{found[1]}.")), key=lambda f: len(f[1])
    )


def climbs(imports: dict[str, set[str]]) -> list[str]:
    found = []
    for name, others in sorted(imports.items()):
        here, room = level(name, LEVELS)
        for other in sorted(others):
            there, other_room = level(other, LEVELS)
            allowed = here < there or room == other_room or (room, other_room) in BESIDE
            found += [] if allowed else [f"{name} imports {other}"]
    return found


def test_no_import_goes_in_a_circle():
    assert circle(IMPORTS) == []


def test_no_import_climbs_the_layers():
    assert climbs(IMPORTS) == []


def others_imported(source: str) -> set[str]:
    """The names of packages that are neither Python's own nor ours, inside functions too."""
    nodes = list(ast.walk(ast.parse(source)))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in found} - set(sys.stdlib_module_names)


def test_whatever_is_imported_is_named_in_pyproject():
    """What another package happens to bring along is gone the day it, or we, drop that package."""

    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    repository = Path(__file__).parents[1]
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    named = {canonical(re.match(r"[\w.-]+", line).group()) for line in lines}
    ours = {"nmtrain", "tests"} | {file.stem for file in (repository / "scripts").glob("*.py")}
    brought_by = packages_distributions()
    files = [file for folder in ("nmtrain", "tests", "scripts") for file in (repository / folder).rglob("*.py")]
    assert {
        f"{file.relative_to(repository)} imports {name}"
        for file in files
        for name in others_imported(file.read_text()) - ours
        if not named & {canonical(package) for package in brought_by.get(name, [])}
    } == set()


def test_no_stage_of_a_report_imports_a_later_one():
    stages = {name: next((s for s in STAGES if name.startswith(s)), None) for name in IMPORTS}
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if stages[name] and stages[other] and STAGES.index(stages[other]) < STAGES.index(stages[name])
    ]
    assert wrong == []


def test_sparsity_imports_nothing_of_ours_and_the_report_no_torch():
    assert {o for name in IMPORTS if name.startswith("nmtrain.sparsity") for o in IMPORTS[name]} <= {
        name for name in MODULES if name.startswith("nmtrain.sparsity")
    }
    for name, file in MODULES.items():
        if name.startswith("nmtrain.report"):
            assert "torch" not in imported(file.read_text(), {"torch"}), name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_file_grows_past_400_lines(name):
    assert len(MODULES[name].read_text().splitlines()) <= MOST_LINES


def test_the_checks_above_see_what_they_look_for():
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nmtrain.a import b\n"
    assert imported(typed, {"nmtrain.a"}) == {"nmtrain.a"}
    assert imported("def f():\n    import nmtrain.a.c\n", {"nmtrain.a", "nmtrain.a.c"}) == {"nmtrain.a.c"}
    assert others_imported("import os.path, psutil\ndef f():\n    from yaml.x import y\n") == {"psutil", "yaml"}
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert climbs({"nmtrain.runs.folder": {"nmtrain.training.run"}}) == [
        "nmtrain.runs.folder imports nmtrain.training.run"
    ]
    assert climbs({"nmtrain.report.read.frame": {"nmtrain.training.run"}}) == [
        "nmtrain.report.read.frame imports nmtrain.training.run"
    ]
