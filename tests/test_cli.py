"""The command line as a user meets it: commands, wrong input, damaged folders, exit statuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import nmtrain
from nmtrain.config.check import check_config

CONF = Path(__file__).parents[1] / "conf"
COMMANDS = "Commands: ['clean', 'eval', 'export', 'list', 'report', 'status', 'train']"


# Help, lists, and what they cost


def test_help_shows_every_command_and_comes_from_wherever_it_is_asked(nm):
    status, out, err = nm("--help")
    assert (status, err) == (0, "")
    for line in ("nmtrain eval RUN", "nmtrain export RUN", "nmtrain list [GROUP]", "--dry-run", "nmtrain -m recipe="):
        assert line in out
    for arguments in (["-h"], ["help"], ["train", "-h"], ["list", "--help"], ["eval", "-h"], ["sparsity=1:8", "-h"]):
        assert nm(*arguments) == (0, out, "")


def test_version_is_ours_not_hydra_s(nm):
    assert nm("--version") == (0, f"{nmtrain.__version__}\n", "")


def test_list_shows_every_file_of_conf_with_its_first_line_of_comment(nm):
    status, out, _ = nm("list")
    assert status == 0
    expected = {}
    for path in CONF.glob("*/**/*.yaml"):
        group, *name = path.relative_to(CONF).with_suffix("").parts
        expected.setdefault(group, set()).add("/".join(name))
    listed, group = {}, None
    for line in out.splitlines():
        name, *description = line.split(maxsplit=1)
        if not line.startswith(" "):
            group = line
            listed[group] = set()
        else:
            listed[group].add(name)
            assert description, f"{group}/{name}.yaml has no comment"
    assert listed == expected
    assert re.search("^  sr_ste +STE with a penalty that pulls pruned weights towards zero", out, flags=re.M)


def test_list_of_one_group_and_of_none_such(nm, refused):
    status, out, _ = nm("list", "optim")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["optim", "adafactor", "adamw", "sgd"]
    message = refused("list", "recipes")
    assert message.startswith("list recipes: there is no such group. Available: ['cluster', 'data', 'experiment', ")
    assert message.endswith("; did you mean recipe?")


def test_a_folder_of_experiments_is_listed_by_its_name_in_columns_that_fit(nm, tmp_path):
    status, out, _ = nm("list", "paper")
    assert status == 0
    head, *lines = out.splitlines()
    assert head == "paper"
    names = [line.split()[0] for line in lines]
    assert names == sorted(f"paper/{path.stem}" for path in (CONF / "experiment" / "paper").glob("*.yaml"))
    width = len(f"  {max(names, key=len)} ")
    assert all(line[width - 1] == " " and line[width] != " " for line in lines)
    assert all(line in nm("list", "experiment")[1].splitlines() for line in lines)


def test_what_needs_no_shapes_imports_nothing_heavy():
    """Completion, help, lists and wrong values answer at once: torch alone takes four seconds to import."""
    code = """
import sys
from nmtrain.cli import _main

assert _main(["--help"]) == 0
assert _main(["list"]) == 0
assert "hydra" not in sys.modules, "list imports hydra"
assert "pydantic" not in sys.modules, "list imports pydantic"
assert _main(["sparsity=32:1", "train.epochs=abc", "data.classes=1", "recipe.k=3", "results_dir=/dev/null/x"]) == 2
assert _main(["-m", "sparsity=1:8,32:1", "seed=0,1,2"]) == 2
assert _main(["--cfg", "job"]) == 0
heavy = {"torch", "timm", "transformers", "torchvision", "accelerate", "numpy", "sklearn", "matplotlib", "wandb"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


# Wrong input


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evl RUN", f"evl: is neither a command nor of the form key=value (nmtrain --help). {COMMANDS}"),
        ("sparsity 1:8", f"sparsity: is neither a command nor of the form key=value (nmtrain --help). {COMMANDS}"),
        ("seed=1 foo", "foo: is not of the form key=value"),
        ("--bogus", "--bogus: there is no such option. Available: ['-m', '--multirun', '--dry-run', "),
        ("--dryrun seed=1", "--dryrun: there is no such option. "),
        ("-m=3", "-m=3: there is no such option. "),
        ("--dry-run=false", "--dry-run=false: takes no value; it is given or left out"),
        ("--multirun=0", "--multirun=0: takes no value; it is given or left out"),
        ("--config-dir", "--config-dir: name a folder"),
        ("--config-dir=/nope seed=1", "--config-dir=/nope: there is no such folder"),
        ("--resolve", "The --resolve flag can only be used in conjunction with --cfg or --help"),
        ("--cfg job -m", "--cfg shows one configuration: leave -m out"),
        (
            "--cfg job trian.x=3",
            "trian.x=3: there is no such key. Available: ['allow_changed', 'cluster', 'data', 'dry_run', ",
        ),
        ("eval", "usage: nmtrain eval RUN [data.KEY=VALUE ...]"),
        ("eval a b", "usage: nmtrain eval RUN [data.KEY=VALUE ...]"),
        ("export", "usage: nmtrain export RUN [--out DIR]"),
        ("export x --out", "--out: name a folder"),
        ("report --out=", "--out: name a folder"),
        ("report --out --bogus", "--out: name a folder"),
        ("report nowhere --out=x", "no such folder: nowhere"),
        ("report --bogus", "usage: nmtrain report [FOLDERS] [--out DIR]"),
        ("report nowhere", "no such folder: nowhere"),
        ("report", "no such folder: results/runs"),
        ("eval nowhere", "nowhere: is not a run folder; it has no status.json"),
        ("export nowhere", "nowhere: is not a run folder; it has no status.json"),
        (
            "experiment.train=3",
            "experiment.train=3: there is no such key. Available: ['allow_changed', 'cluster', 'data', ",
        ),
        (
            "recipe=step recipe.dense_fraction=auto optim=sgd",
            "recipe=step: holds moments of Adam; allowed: optim=adamw",
        ),
        ("~nope", "Could not delete from config. 'nope' does not exist"),
        ("-m hydra/launcher=nope", "In 'hydra/config': Could not find 'hydra/launcher/nope'. Available: ['basic', "),
        ("-m hydra.launcher.n_jobs=x hydra/launcher=joblib", "hydra.launcher.n_jobs=x: Value 'x' of type 'str' could"),
        ("-m hydra.nope=3", "Could not override 'hydra.nope': Key 'nope' not in 'HydraConf'"),
    ],
)
def test_wrong_input_ends_with_one_plain_message(refused, line, message):
    found = refused(*line.split())
    assert found.startswith(message)
    assert "\n" not in found


def test_all_faults_of_a_command_line_come_at_once_the_results_folder_among_them(refused):
    line = (
        "sparsity=124 mask.roles=[ff,q] mask.patterns.q=32:1 trian.x=1 train.epochs=abc seed=-1 ~train.log_every"
        " data.classes=1 data.1=3 recipe.k=3 results_dir=/dev/null/x"
    )
    found = refused(*line.split()).splitlines()
    expected = [
        'sparsity: 124 is what YAML reads from an unquoted 2:4; write "2:4"',
        "mask.patterns.q: 32:1: N = 32 exceeds M = 1; N:M keeps N of every M weights",
        "train.epochs=abc: should be a number",
        "train.log_every: is missing",
        "seed=-1: should be greater than or equal to 0",
        "trian.x=1: there is no such key. Available: ['allow_changed', 'cluster', 'data', 'dry_run', ",
        "data.1=3: data=glyphs has no such option. Available: [evaluate, classes, ",
        "data.classes: 1 is not allowed; allowed: whole numbers from 2 to 320",
        "recipe.k=3: 3 has no effect with structure stepwise; only geometric reads it",
        "results_dir=/dev/null/x: cannot be written (/dev/null is not a folder); name a folder that can",
    ]
    assert len(found) == len(expected)
    for fault, start in zip(found, expected, strict=True):
        assert fault.startswith(start)


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        (
            "sparsity=1:7 model.options.depth=1",
            [
                "sparsity=1:7: blocks.0.mlp.fc1.weight: M = 7 does not divide its input axis of length 128",
                "sparsity=1:7: blocks.0.mlp.fc2.weight: M = 7 does not divide its input axis of length 512",
                "mask.indivisible=skip leaves tensors dense whose axis M does not divide",
            ],
        ),
        (
            "mask.roles=[q] mask.patterns.q=1:7 model.options.depth=1",
            [
                "sparsity=1:32 mask.patterns={q:1:7}: blocks.0.attn.qkv.weight[0:128]:"
                " M = 7 does not divide its input axis of length 128",
                "mask.indivisible=skip leaves tensors dense whose axis M does not divide",
            ],
        ),
        (
            "sparsity=1:7 mask.indivisible=skip",
            ["sparsity=1:7: no tensor is left sparse: M divides no axis that was asked for (6 rules)"],
        ),
        (
            "model=resnet mask.roles=[ff,conv,zz]",
            [
                "mask.roles=[ff,conv,zz]: the model has no ff. Available: ['conv']",
                "mask.roles=[ff,conv,zz]: the model has no zz. Available: ['conv']",
            ],
        ),
        (
            "mask.roles=[conv] mask.names=[norm.weight,blocks.9.*] model.options.depth=0",
            [
                "mask.roles=[conv]: the model has no conv. Available: []",
                "mask.names=[norm.weight]: no weight of the model matches."
                " Available: ['cls_token', 'pos_embed', 'patch_embed.proj.weight', 'head.weight']",
                "mask.names=[blocks.9.*]: no weight of the model matches."
                " Available: ['cls_token', 'pos_embed', 'patch_embed.proj.weight', 'head.weight']",
            ],
        ),
        (
            "mask.names=[blocks.0.mlp.fc1.weight]",
            ["sparsity=1:32: blocks.0.mlp.fc1.weight is asked for twice"],
        ),
        ("train.flops=1e6", ["train.flops=1e+06: is less than one update costs; allowed: at least 2.3e+09"]),
        (
            "model.options.img_size=8",
            [
                "model.name=vit: with model.options={img_size:8} it does not map micro-batches (64, 1, 16, 16) to 200"
                " classes: Input height (16) doesn't match model (8)."
            ],
        ),
        (
            "model.options.num_classes=3",
            [
                "model.name=vit: with model.options={num_classes:3} it does not map micro-batches (64, 1, 16, 16) to"
                " 200 classes: gives (64, 3)"
            ],
        ),
    ],
)
def test_what_only_shapes_show_is_refused_before_anything_is_read_or_written(refused, line, messages):
    assert refused(*line.split()).splitlines() == messages


@pytest.mark.parametrize("flags", [["--dry-run"], ["-m"], ["-m", "--dry-run"]])
def test_what_only_shapes_show_is_refused_in_dry_runs_and_sweeps_too(refused, flags):
    messages = refused(*flags, "sparsity=1:32", "mask.axis=output", "mask.names=[head.weight]").splitlines()
    assert messages == [
        "sparsity=1:32: head.weight: M = 32 does not divide its output axis of length 200",
        "mask.indivisible=skip leaves tensors dense whose axis M does not divide",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model.name=resnett", "model.name=resnett: there is no such model. Available: ['vit', 'vit_compact', "),
        ("model.options.wibble=1", "model.name=vit: timm cannot build vit_tiny_patch16_224 with {'patch_size': 4, "),
        ("model.options.num_heads=0", "model.name=vit: timm cannot build vit_tiny_patch16_224 with "),
        ("model=resnet train.batch_size=1", "model.name=resnet: with model.options={} it does not map micro-batches"),
    ],
)
def test_a_model_that_cannot_be_built_or_trained_is_refused_in_one_line(refused, line, message):
    found = refused("--dry-run", *line.split())
    assert found.startswith(message)
    assert "\n" not in found


# YAML files of the user's own


@pytest.fixture
def own(tmp_path):
    """Write a file of a user's own configuration folder, whose name needs quotes; returns the folder."""

    def write(name, content):
        path = tmp_path / "my conf, 1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "my conf, 1"

    return write


def test_an_experiment_of_one_s_own_is_found_listed_and_swept(nm, refused, own):
    folder = own("experiment/mine.yaml", "# @package _global_\n# Mine.\ntrain: {epochs: 2.0}\nsparsity: '1:16'\n")
    status, out, _ = nm("--config-dir", str(folder), "experiment=mine", "--cfg", "job")
    assert status == 0
    assert yaml.safe_load(out)["train"]["epochs"] == 2.0
    status, out, _ = nm(f"--config-dir={folder}", "experiment=mine,smoke", "-m", "--dry-run")
    assert status == 0
    assert [line.split("-")[2] for line in out.splitlines() if line.startswith("│ ")] == ["1of16", "1of32"]
    message = refused("--config-dir", str(folder), "experiment=main")
    assert message.startswith("experiment=main: there is no such experiment. Available: ['mine', 'paper/")
    assert message.endswith("]; did you mean mine?")


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (
            "# @package _global_\nsparsity: 2:4\nmask:\n  roles: [ff, q]\n  patterns: {q: 1:8}\ntrain:\n",
            [
                'sparsity: 124 is what YAML reads from an unquoted 2:4; write "2:4"',
                'mask.patterns.q: 68 is what YAML reads from an unquoted 1:8; write "1:8"',
                "train=null: should be a section of keys and values",
            ],
        ),
        (
            "# @package _global_\nrecipe: {structure: custom, patterns: [2:4, 1:32]}\n",
            ['recipe.patterns=[124,92]: 124 is what YAML reads from an unquoted 2:4; write "2:4"'],
        ),
        ("# @package _global_\nseed: 1\nseed: 2\n", ["FILE, line 3, column 1: found duplicate key seed"]),
        ("# @package _global_\nseed: [1\n", ["FILE, line 3, column 1: expected ',' or ']', but got '<stream end>'"]),
        ("# @package _global_\n- 1\n", None),
        (b"# @package _global_\nseed: \xff\n", ["a YAML file is not UTF-8: 'utf-8' codec can't decode byte 0xff"]),
        ("# @package _global_\ndefaults: [override /model: nope]\n", ["In 'config': Could not find 'model/nope'"]),
        ("# @package _global_\ndefaults: [override /modl: vit]\n", ["In 'experiment/mine': Could not override 'modl'"]),
        (
            "# @package _global_\ndefaults: [override /measure: off]\n",
            ["the defaults of a YAML file name true or false; "],
        ),
        ("train: {epochs: 2.0}\n", ["experiment.train.epochs=2.0: there is no such key. Available: "]),
        ("", ["experiment={}: there is no such key. Available: "]),
    ],
)
def test_a_faulty_file_of_one_s_own_is_refused_in_plain_words(refused, own, content, messages):
    folder = own("experiment/mine.yaml", content)
    found = refused("--config-dir", str(folder), "experiment=mine").splitlines()
    if messages is None:
        assert len(found) == 1
        return
    assert len(found) == len(messages)
    for line, message in zip(found, messages, strict=True):
        assert line.startswith(message.replace("FILE", f"{folder}/experiment/mine.yaml"))


def test_an_experiment_without_its_first_line_is_told_what_that_is(refused, own):
    folder = own("experiment/mine.yaml", "train: {epochs: 2.0}\n")
    assert refused("--config-dir", str(folder), "experiment=mine").endswith(
        "; the file of an experiment begins with the line # @package _global_"
    )


# What Hydra shows


def test_cfg_job_prints_a_configuration_that_can_be_run(nm):
    status, out, err = nm("--cfg", "job", "recipe=mdgf", "sparsity=1:8", "mask.patterns.q=1:4", "mask.roles=[ff,q]")
    assert (status, err) == (0, "")
    config = check_config(yaml.safe_load(out.replace("${model.roles}", "[ff]")))
    assert str(config.sparsity) == "1:8"
    assert config.recipe.variant == "mdgf_exponential"
    status, out, _ = nm("--cfg", "job", "--resolve", "-p", "mask")
    assert status == 0
    assert yaml.safe_load(out)["roles"] == ["ff"]
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cfg", "hydra"], "output_subdir: null"),
        (["--cfg", "all", "hydra/launcher=joblib"], "JoblibLauncher"),
        (["--info", "defaults"], "Defaults List"),
        (["--info"], "JoblibLauncher"),
        (["-sc", "install=bash"], "complete -o nospace -o default -F hydra_bash_completion nmtrain"),
    ],
)
def test_what_hydra_shows_still_works_and_writes_nothing(nm, arguments, expected):
    status, out, _ = nm(*arguments)
    assert not status
    assert expected in out
    assert list(Path.cwd().iterdir()) == []


def test_completion_knows_the_choices(nm, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "nmtrain recipe=mdgf")
    monkeypatch.setenv("COMP_POINT", str(len("nmtrain recipe=mdgf")))
    status, out, _ = nm("-sc", "query=bash")
    assert status == 0
    decays = [f"recipe=mdgf_{decay}" for decay in ("exponential", "linear")]
    assert out.split() == ["recipe=mdgf", *(name + rule for name in decays for rule in ("", "_straight_through"))]
