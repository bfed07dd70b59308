"""Plug-ins found and loaded: folders and packages, where they are from, and how their faults are told."""

import os
import py_compile
import sys
from pathlib import Path

import pytest
import yaml

from nmtrain.runs.loaded import LOADED

SMOKE = ["experiment=smoke", "sparsity=1:8", "train.updates=20"]
RAISES = "\n\nx = 1 / 0\n"


# Folders


@pytest.mark.parametrize("where", ["before", "after", "joined", "variable"])
def test_a_folder_can_be_named_in_every_way(nm, own, monkeypatch, where):
    folder = str(own())
    arguments = {
        "before": ["--plugins", folder, "list", "recipe"],
        "after": ["list", "recipe", "--plugins", f"{folder}/"],
        "joined": ["list", f"--plugins={folder}", "recipe"],
        "variable": ["list", "recipe"],
    }[where]
    if where == "variable":
        monkeypatch.setenv("NMTRAIN_PLUGINS", os.pathsep.join(["", folder, folder]))
    status, out, err = nm(*arguments)
    assert (status, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("  cubic")]
    assert line == f"  {'cubic':<33} The mask decays as (1 - j/L)^3. ({folder}/cubic.py)"
    assert out.count(folder) == 1  # ours have no origin


def test_a_relative_folder_and_one_at_home_are_found(nm, own, monkeypatch):
    folder = own()
    monkeypatch.chdir(folder.parent)
    assert "(my folder, a=b/cubic.py)" in nm("--plugins", folder.name, "list")[1]
    monkeypatch.setenv("HOME", str(folder.parent))
    own({"late.py": own.cubic.replace("cubic", "late")}, "other")
    assert "(other/late.py)" in nm("--plugins", "~/other", "list")[1]


def test_its_recipe_is_planned_and_its_configuration_shown(nm, own):
    folder = str(own())
    status, out, err = nm("--plugins", folder, *SMOKE, "recipe=cubic", "--dry-run")
    assert (status, err) == (0, "")
    assert out.startswith("results/runs/vit-digits-1of8-cubic-s0-")
    status, out, _ = nm("--cfg", "job", "recipe=cubic", "--plugins", folder)
    assert status == 0
    assert yaml.safe_load(out)["recipe"] == {"name": "cubic", "gradient": "masked", "finetune_fraction": 0.1}
    status, out, _ = nm("-m", *SMOKE, "recipe=cubic,ste", "--dry-run", "--plugins", folder)
    assert status == 0
    assert [line.split("-")[3] for line in out.splitlines() if line.startswith("│ ")] == ["cubic", "ste"]


def test_yaml_alone_adds_variants_of_ours(nm, own):
    folder = own({"recipe/slow.yaml": "# SDGF, slowly.\ndefaults: [sdgf, _self_]\nfinetune_fraction: 0.5\n"})
    status, out, _ = nm("list", "recipe", "--plugins", str(folder))
    assert status == 0
    assert f"  {'slow':<33} SDGF, slowly. ({folder}/recipe/slow.yaml)\n" in out
    status, out, err = nm("--plugins", str(folder), *SMOKE, "recipe=slow", "--dry-run")
    assert (status, err) == (0, "")


def test_python_alone_is_told_which_yaml_to_write(nm, own, refused):
    folder = own({"cubic.py": own.cubic})
    assert refused("--plugins", str(folder), "recipe=cubic") == (
        f"recipe=cubic: {folder}/cubic.py registers it, but its defaults are nowhere;"
        f" write the file {folder}/recipe/cubic.yaml"
    )
    out = nm("list", "recipe", "--plugins", str(folder))[1]
    line = f"  {'cubic':<33} no choice yet: it needs the file {folder}/recipe/cubic.yaml ({folder}/cubic.py)\n"
    assert line in out


def test_files_import_their_neighbours_and_no_one_else_sees_those(nm, own):
    files = {
        "a.py": "import later\nfrom b import cube\nfrom .parts.c import square\nimport parts.c\nimport json as js\n"
        "def lazily():\n    import b\n    return b.cube(2) + parts.c.square(1)\nassert lazily() == 9\n"
        "assert later.loaded and js.dumps([1]) == '[1]'\n",
        "b.py": "def cube(x):\n    return x**3\n",
        "json.py": "import json\ndumps = json.dumps\n",  # a file is no neighbour of itself
        "later.py": "loaded = True\n",
        "nmtrain.py": "from nmtrain.recipes import Recipe\n",  # nor does it hide ours
        "parts/__init__.py": "",
        "parts/c.py": "def square(x):\n    return x**2\n",
    }
    first, second = own(files), own({"b.py": "value = 3\n", "a.py": "import b\nassert b.value == 3\n"}, "other")
    before = {"b", "later", "parts"} & set(sys.modules)
    status, _, err = nm("list", "recipe", "--plugins", str(first), f"--plugins={second}")
    assert (status, err) == (0, "")
    assert {"b", "later", "parts"} & set(sys.modules) == before
    assert sys.modules["json"].__file__ != str(first / "json.py")
    assert [plugin.name for plugin in LOADED] == [
        *(f"my folder, a=b/{name}.py" for name in ("a", "later", "b", "json", "nmtrain")),
        "other/a.py",
        "other/b.py",
    ]


def test_the_code_that_runs_is_that_of_the_file_and_never_of_bytecode(refused, own):
    folder = own({"a.py": "raise RuntimeError('first')\n"})
    stamp = (folder / "a.py").stat()
    py_compile.compile(str(folder / "a.py"))
    (folder / "a.py").write_text("raise RuntimeError('other')\n")
    os.utime(folder / "a.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert refused("list", "--plugins", str(folder)) == f"{folder}/a.py, line 1: RuntimeError: other"


def test_models_and_data_are_listed_with_their_origin(nm, own):
    folder = own(
        {
            "nets.py": "from nmtrain.models import register\n@register\ndef mixer(shape):\n    pass\n"
            "from timm.models import register_model\n@register_model\ndef stripe(**options):\n    pass\n",
            "model/mixer.yaml": "# A mixer.\nkind: image_classifier\nname: mixer\nroles: [ff]\noptions: {}\n",
        }
    )
    try:
        status, out, _ = nm("list", "model", "--plugins", str(folder))
    finally:
        from timm.models import _registry

        _registry._model_entrypoints.pop("stripe")
    assert status == 0
    assert f"  mixer              A mixer. ({folder}/nets.py)\n" in out
    assert (
        f"  stripe             no choice yet: it needs the file {folder}/model/stripe.yaml ({folder}/nets.py)\n" in out
    )


# Faults


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x.py": "def (\n"}, "{}/x.py, line 1: SyntaxError: invalid syntax"),
        ({"x.py": "\nimport nothing_there\n"}, "{}/x.py, line 2: ModuleNotFoundError: No module named 'nothing_there'"),
        ({"x.py": "from y import z\n", "y.py": RAISES}, "{}/y.py, line 3: ZeroDivisionError: division by zero"),
        ({"x.py": "from y import z\n", "y.py": "z = (\n"}, "{}/y.py, line 1: SyntaxError: '(' was never closed"),
        (
            {"x.py": "import json\njson.loads('{')\n"},
            "{}/x.py, line 2: JSONDecodeError: Expecting property name enclosed",
        ),
        ({"setup.py": "import sys\nsys.exit(3)\n"}, "{}/setup.py, line 2: SystemExit: 3"),
        ({"x.py": "raise ValueError('too\\nlong')\n"}, "{}/x.py, line 1: ValueError: too"),
        ({"x.py": "x = '\\udc80'\nx.encode()\n"}, "{}/x.py, line 2: UnicodeEncodeError: 'utf-8' codec can't encode"),
        (
            {"x.py": "from nmtrain.recipes import register\n\nregister(3)\n"},
            "{}/x.py, line 3: recipe 3: is no subclass of nmtrain.recipes.Recipe",
        ),
        (
            {"x.py": "from timm.models import register_model\n@register_model\ndef resnet18(**o): pass\n"},
            "{}/x.py, line 2: model resnet18: the name is taken by timm; choose another",
        ),
        (
            {"recipe/sdgf.yaml": "name: sdgf\n", "train/text.yaml": "epochs: 1\n"},
            "{0}/recipe/sdgf.yaml: recipe=sdgf is taken by nmtrain itself; choose another name\n"
            "{0}/train/text.yaml: train=text is taken by nmtrain itself; choose another name",
        ),
        (
            {"notes.txt": "", ".hidden.py": "1 / 0"},
            "--plugins={}: holds nothing to load, neither Python files nor YAML",
        ),
        ({}, "--plugins={}: holds nothing to load"),
    ],
)
def test_a_faulty_folder_is_told_with_file_and_line_before_anything_else(refused, own, files, message):
    folder = own(files)
    found = refused("--plugins", str(folder), "seed=-1")
    assert found.startswith(message.format(folder))
    assert len(found.splitlines()) == len(message.splitlines())


def test_names_taken_by_another_plug_in_are_told_with_both_origins(refused, own):
    first, second = own(), own({"mine.py": own.cubic, "recipe/other.yaml": "name: cubic\n"}, "second")
    found = refused("list", "--plugins", str(first), "--plugins", str(second))
    assert found == f"{second}/mine.py, line 6: recipe cubic: the name is taken by {first}/cubic.py; choose another"


def test_yaml_taken_by_another_plug_in_is_told_with_both_origins(refused, own):
    first, second = own(), own({"recipe/cubic.yaml": "name: sdgf\n"}, "second")
    found = refused("list", "--plugins", str(first), "--plugins", str(second))
    assert found == (f"{second}/recipe/cubic.yaml: recipe=cubic is taken by {first}/cubic.py; choose another name")


def test_all_folders_that_are_none_are_listed(refused, own, monkeypatch):
    file = own() / "cubic.py"
    monkeypatch.setenv("NMTRAIN_PLUGINS", "nowhere")
    assert refused("list", "--plugins", str(file), "--plugins=~/not there").splitlines() == [
        "NMTRAIN_PLUGINS=nowhere: there is no such folder",
        f"--plugins={file}: is not a folder; name the folder that it lies in",
        "--plugins=~/not there: there is no such folder",
    ]


@pytest.mark.parametrize("arguments", [["--plugins"], ["list", "--plugins="], ["--plugins", "--dry-run"]])
def test_the_option_needs_a_folder(refused, arguments):
    assert refused(*arguments) == "--plugins: name a folder"


def test_an_error_in_a_recipe_while_planning_names_file_and_line(refused, own):
    folder = own()
    content = (folder / "cubic.py").read_text()
    (folder / "cubic.py").write_text(content.replace("(1 - done / length) ** 3", "[][done]"))
    found = refused("--plugins", str(folder), *SMOKE, "recipe=cubic", "--dry-run")
    assert found == f"{folder}/cubic.py, line 13: IndexError: list index out of range"


# Packages


@pytest.fixture
def package(tmp_path, monkeypatch, registries_as_before):
    """Install a package, as pip leaves it: its files, and what its metadata say."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def install(name, version, entry_points, files):
        metadata = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
        metadata["entry_points.txt"] = entry_points
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        for path, content in (files | {f"{info}/{key}": text for key, text in metadata.items()}).items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(content)
        return site

    modules = set(sys.modules)
    yield install
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(site)):
            del sys.modules[name]


def sparse_package(own, decorated):
    recipe = own.cubic if decorated else own.cubic.replace("@register\n", "").replace(", register", "")
    return {
        "my_sparse/__init__.py": "",
        "my_sparse/methods/__init__.py": "",
        "my_sparse/methods/cubic.py": recipe,
        "my_sparse/conf/recipe/cubic.yaml": "# From a package.\nname: cubic\nfinetune_fraction: 0.1\n",
    }


@pytest.mark.parametrize("decorated", [True, False])
@pytest.mark.parametrize("value", ["my_sparse.methods.cubic:Cubic", "my_sparse.methods.cubic"])
def test_an_installed_package_is_there_without_an_option(nm, own, package, decorated, value):
    package("my-sparse", "0.3", f"[nmtrain.recipes]\ncubic = {value}\n", sparse_package(own, decorated))
    status, out, err = nm("list", "recipe")
    if not decorated and ":" not in value:
        where = "warning: package my-sparse 0.3, entry point cubic of nmtrain.recipes"
        assert (status, err) == (0, f"{where}: {value}: {value} registers nothing; it is left out\n")
        assert "  cubic " not in out
        return
    assert (status, err) == (0, "")
    assert f"  {'cubic':<33} From a package. (package my-sparse 0.3)\n" in out
    status, out, err = nm(*SMOKE, "recipe=cubic", "--dry-run")
    assert (status, err) == (0, "")
    (plugin,) = LOADED
    assert plugin.record() == {
        "name": "my-sparse",
        "version": "0.3",
        "package": "my_sparse",
        "hash": plugin.hash,
        "provides": ["recipe cubic"],
    }
    assert len(plugin.hash) == 32


def test_a_package_that_fails_costs_one_line_and_only_itself(nm, own, package):
    package("my-sparse", "0.3", "[nmtrain.recipes]\ncubic = my_sparse.methods.cubic:Cubic\n", sparse_package(own, True))
    entries = "[nmtrain.recipes]\nb = broken_thing:B\n[nmtrain.models]\nc = json:nothing\nd = json:loads\n"
    site = package("broken", "1.0", entries, {"broken_thing.py": RAISES})
    status, out, err = nm("list", "recipe")
    assert status == 0
    assert "(package my-sparse 0.3)" in out
    assert "package broken" not in out
    assert err.splitlines() == [
        f"warning: package broken 1.0, entry point b of nmtrain.recipes: {site}/broken_thing.py, line 3:"
        " ZeroDivisionError: division by zero; it is left out",
        "warning: package broken 1.0, entry point c of nmtrain.models: json:nothing: AttributeError: module 'json'"
        " has no attribute 'nothing'; it is left out",
    ]


def test_a_folder_may_not_take_the_names_of_a_package(refused, own, package):
    package("my-sparse", "0.3", "[nmtrain.recipes]\ncubic = my_sparse.methods.cubic:Cubic\n", sparse_package(own, True))
    folder = own({"cubic.py": own.cubic})
    assert refused("list", "--plugins", str(folder)) == (
        f"{folder}/cubic.py, line 6: recipe cubic: the name is taken by package my-sparse 0.3; choose another"
    )


def test_the_yaml_of_a_package_may_not_take_names_of_ours(nm, own, package):
    files = sparse_package(own, True) | {"my_sparse/conf/recipe/sdgf.yaml": "name: sdgf\n"}
    site = package("my-sparse", "0.3", "[nmtrain.recipes]\ncubic = my_sparse.methods.cubic:Cubic\n", files)
    status, out, err = nm("list", "recipe")
    assert status == 0
    assert "SDGF, M-1:M" in out
    assert err == (
        "warning: package my-sparse 0.3, entry point cubic of nmtrain.recipes:"
        f" {site}/my_sparse/conf/recipe/sdgf.yaml: recipe=sdgf is taken by nmtrain itself; choose another name;"
        " it is left out\n"
    )


def test_completion_knows_the_folders_of_the_environment(nm, own, monkeypatch):
    monkeypatch.setenv("NMTRAIN_PLUGINS", str(own()))
    monkeypatch.setenv("COMP_LINE", "nmtrain recipe=cu")
    assert nm("-sc", "query=bash")[1] == "recipe=cubic\n"
    assert list(Path.cwd().iterdir()) == []
