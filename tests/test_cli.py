"""The command line as a user meets it: commands, wrong input, damaged folders, exit statuses."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import nmtrain
from nmtrain import cli
from nmtrain.config import check_config

CONF = Path(__file__).parents[1] / "conf"
COMMANDS = "Commands: ['eval', 'export', 'list', 'report', 'train']"


@pytest.fixture(autouse=True)
def _handlers_as_before():
    """The terminal handlers of a command, ours and Hydra's, belong to its test's captured output."""
    loggers = [logging.getLogger("nmtrain"), logging.getLogger()]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers


@pytest.fixture
def nm(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder of its own: ``status, stdout, stderr``."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["nmtrain"])

    def command(*arguments):
        try:
            status = cli._main(list(arguments))
        except SystemExit as end:  # Hydra's own commands
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return command


def refused(nm, *arguments):
    """The message of a command that must be refused, before anything is read or written."""
    status, out, err = nm(*arguments)
    assert status == 2, (out, err)
    assert out == ""
    assert err.endswith("\n")
    assert list(Path.cwd().iterdir()) == []
    return err.removesuffix("\n")


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
    for path in CONF.glob("*/*.yaml"):
        expected.setdefault(path.parent.name, set()).add(path.stem)
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
    assert "  sr_ste             STE with a penalty that pulls pruned weights towards zero" in out


def test_list_of_one_group_and_of_none_such(nm):
    status, out, _ = nm("list", "optim")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["optim", "adamw", "sgd"]
    message = refused(nm, "list", "recipes")
    assert message.startswith("list recipes: there is no such group. Available: ['data', 'experiment', ")
    assert message.endswith("; did you mean recipe?")


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
        ("--config-dir", "--config-dir: name a folder"),
        ("--config-dir=/nope seed=1", "--config-dir=/nope: there is no such folder"),
        ("--resolve", "The --resolve flag can only be used in conjunction with --cfg or --help"),
        ("--cfg job -m", "--cfg shows one configuration: leave -m out"),
        ("--cfg job trian.x=3", "trian.x=3: there is no such key. Available: ['data', 'dry_run', "),
        ("eval", "usage: nmtrain eval RUN"),
        ("eval a b", "usage: nmtrain eval RUN"),
        ("export", "usage: nmtrain export RUN [--out DIR]"),
        ("export x --out", "--out: name a folder"),
        ("report --bogus", "usage: nmtrain report [FOLDERS] [--out DIR]"),
        ("report nowhere", "no such folder: nowhere"),
        ("report", "no such folder: results/runs"),
        ("eval nowhere", "nowhere: is not a run folder; it has no status.json"),
        ("export nowhere", "nowhere: is not a run folder; it has no status.json"),
        ("experiment.train=3", "experiment.train=3: there is no such key. Available: ['data', "),
        ("~nope", "Could not delete from config. 'nope' does not exist"),
        ("-m hydra/launcher=nope", "In 'hydra/config': Could not find 'hydra/launcher/nope'. Available: ['basic', "),
        ("-m hydra.launcher.n_jobs=x hydra/launcher=joblib", "hydra.launcher.n_jobs=x: Value 'x' of type 'str' could"),
        ("-m hydra.nope=3", "Could not override 'hydra.nope': Key 'nope' not in 'HydraConf'"),
    ],
)
def test_wrong_input_ends_with_one_plain_message(nm, line, message):
    found = refused(nm, *line.split())
    assert found.startswith(message)
    assert "\n" not in found


def test_all_faults_of_a_command_line_come_at_once_the_results_folder_among_them(nm):
    line = (
        "sparsity=124 mask.roles=[ff,q] mask.patterns.q=32:1 trian.x=1 train.epochs=abc seed=-1 ~train.log_every"
        " data.classes=1 data.1=3 recipe.k=3 results_dir=/dev/null/x"
    )
    found = refused(nm, *line.split()).splitlines()
    expected = [
        'sparsity: 124 is what YAML reads from an unquoted 2:4; write "2:4"',
        "mask.patterns.q: 32:1: N = 32 exceeds M = 1; N:M keeps N of every M weights",
        "train.epochs=abc: should be a number",
        "train.log_every: is missing",
        "seed=-1: should be greater than or equal to 0",
        "trian.x=1: there is no such key. Available: ['data', 'dry_run', ",
        "data.1=3: data=glyphs has no such option. Available: [classes, ",
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
def test_what_only_shapes_show_is_refused_before_anything_is_read_or_written(nm, line, messages):
    assert refused(nm, *line.split()).splitlines() == messages


@pytest.mark.parametrize("flags", [["--dry-run"], ["-m"], ["-m", "--dry-run"]])
def test_what_only_shapes_show_is_refused_in_dry_runs_and_sweeps_too(nm, flags):
    messages = refused(nm, *flags, "sparsity=1:32", "mask.axis=output", "mask.names=[head.weight]").splitlines()
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
def test_a_model_that_cannot_be_built_or_trained_is_refused_in_one_line(nm, line, message):
    found = refused(nm, "--dry-run", *line.split())
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


def test_an_experiment_of_one_s_own_is_found_listed_and_swept(nm, own):
    folder = own("experiment/mine.yaml", "# @package _global_\n# Mine.\ntrain: {epochs: 2.0}\nsparsity: '1:16'\n")
    status, out, _ = nm("--config-dir", str(folder), "experiment=mine", "--cfg", "job")
    assert status == 0
    assert yaml.safe_load(out)["train"]["epochs"] == 2.0
    status, out, _ = nm(f"--config-dir={folder}", "experiment=mine,smoke", "-m", "--dry-run")
    assert status == 0
    assert [line.split("-")[2] for line in out.splitlines() if line.startswith("results/runs/")] == ["1of16", "1of32"]
    message = refused(nm, "--config-dir", str(folder), "experiment=main")
    assert message == ("experiment=main: there is no such experiment. Available: ['mine', 'smoke']; did you mean mine?")


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
def test_a_faulty_file_of_one_s_own_is_refused_in_plain_words(nm, own, content, messages):
    folder = own("experiment/mine.yaml", content)
    found = refused(nm, "--config-dir", str(folder), "experiment=mine").splitlines()
    if messages is None:
        assert len(found) == 1
        return
    assert len(found) == len(messages)
    for line, message in zip(found, messages, strict=True):
        assert line.startswith(message.replace("FILE", f"{folder}/experiment/mine.yaml"))


def test_an_experiment_without_its_first_line_is_told_what_that_is(nm, own):
    folder = own("experiment/mine.yaml", "train: {epochs: 2.0}\n")
    assert refused(nm, "--config-dir", str(folder), "experiment=mine").endswith(
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
    assert out.split() == ["recipe=mdgf", "recipe=mdgf_exponential", "recipe=mdgf_linear"]


# Runs


def test_a_dry_run_shows_the_plan_and_writes_nothing(nm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    status, out, err = nm("model.options.depth=1", "--dry-run", "mask.roles=[ff,q]", "mask.patterns.q=1:4")
    assert (status, err) == (0, "")
    assert out.startswith("results/runs/vit-glyphs-1of32-sdgf_stepwise-s0-")
    for part in ("31:32", "16:32", "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight[0:128]", "training FLOPs"):
        assert part in out
    assert list(Path.cwd().iterdir()) == []


def test_a_run_trains_once_and_says_so_the_second_time(nm, tiny, tmp_path):
    command = ["train", *tiny, "train.updates=3"]
    status, out, err = nm(*command)
    assert status == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert out.endswith(f"run folder: {folder}\n")
    assert "update 3 of 3, projected model: accuracy" in out
    status, again, _ = nm(*command[1:])
    assert status == 0
    assert again.startswith(f"{folder} is finished already; force=true repeats it\n")
    assert again.endswith(f"run folder: {folder}\n")
    assert list(Path.cwd().iterdir()) == []


def test_a_failed_run_exits_1_with_the_reason_and_no_traceback(nm, tiny):
    line = ["optim=sgd", "optim.lr=1e30", "optim.clip_norm=null", "train.updates=3"]
    status, _, err = nm(*tiny, *line)
    assert status == 1
    assert err.startswith("failed: the training loss is nan (updates 1 to 3)")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped: SIGINT; the same command resumes\n"),
        (KeyboardInterrupt("SIGINT after update 3 of 9"), 130, "stopped: SIGINT after update 3 of 9; the same command"),
    ],
)
def test_ctrl_c_at_any_other_moment_leaves_no_traceback_either(nm, monkeypatch, error, status, message):
    def interrupted(arguments):
        raise error

    monkeypatch.setattr(cli, "_train", interrupted)
    found, _, err = nm("seed=1")
    assert found == status
    assert err.startswith(message)


def test_an_error_that_nobody_foresaw_keeps_its_traceback(nm, monkeypatch):
    def broken(arguments):
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(cli, "_train", broken)
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        nm("seed=1")


def test_a_reader_that_hangs_up_is_no_error_worth_a_traceback():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "nmtrain.cli", "list"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


# Finished runs, whole and damaged


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of two updates; tests that damage it copy it first."""
    from nmtrain.compose import compose_values, prepare_overrides
    from nmtrain.training.run import run
    from tests.conftest import TINY

    results = tmp_path_factory.mktemp("finished")
    config = check_config(compose_values(prepare_overrides([*TINY, "train.updates=2", f"results_dir={results}"])))
    run(config)
    return config.run_folder


@pytest.fixture
def damaged(finished, tmp_path):
    """A copy of a finished run with one file replaced, or removed where the content is None."""

    def damage(name, content):
        folder = tmp_path / "runs" / finished.name
        shutil.copytree(finished, folder)
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        return folder

    return damage


def test_eval_gives_the_numbers_of_the_run_again(nm, finished):
    status, out, _ = nm("eval", str(finished))
    assert status == 0
    summary = json.loads((finished / "summary.json").read_text())
    lines = dict(line.split(": ") for line in out.splitlines())
    assert float(lines["val/accuracy"]) == pytest.approx(summary["metrics"]["val/accuracy"], abs=1e-6)
    assert float(lines["val/loss"]) == pytest.approx(summary["metrics"]["val/loss"], abs=1e-5)


def test_export_writes_where_it_is_told_to(nm, finished, tmp_path):
    status, out, _ = nm("export", str(finished), "--out", "there")
    assert status == 0
    assert out == 'there: load it with timm.create_model("local-dir:there", pretrained=True)\n'
    assert sorted(path.name for path in Path("there").iterdir()) == ["config.json", "model.safetensors"]
    occupied = tmp_path / "file"
    occupied.touch()
    status, _, err = nm("export", str(finished), "--out", str(occupied))
    assert status == 2
    assert err.startswith(f"{occupied}: cannot be written (")


@pytest.mark.parametrize("command", ["eval", "export"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("status.json", b'{"state": "fini', "status.json: is damaged ("),
        ("status.json", b"[]", "status.json: is damaged (it names no state)"),
        ("status.json", b'{"state": "failed", "reason": "x"}', ": the run is failed, not finished; repeat its command"),
        ("status.json", None, ": is not a run folder; it has no status.json"),
        ("config.yaml", b"sparsity: [", "config.yaml: does not hold what this run left: while parsing"),
        ("config.yaml", b"seed: 1\n", "config.yaml: does not hold what this run left: model: is missing"),
        ("config.yaml", b"", "config.yaml: does not hold what this run left: no keys and values"),
        ("config.yaml", None, "config.yaml: No such file or directory"),
        ("model.safetensors", b"", "model.safetensors: does not hold what this run left: "),
        ("model.safetensors", b"\xff" * 100, "model.safetensors: does not hold what this run left: "),
        ("model.safetensors", None, "model.safetensors: No such file or directory"),
    ],
)
def test_a_damaged_run_folder_is_named_with_its_file(nm, damaged, command, name, content, message):
    folder = damaged(name, content)
    found = refused(nm, command, str(folder))
    assert found.startswith(f"{folder}/{message}" if message[0] != ":" else f"{folder}{message}")


def test_a_model_that_is_not_the_one_of_the_config_is_refused(nm, damaged, finished):
    weights = load_file(finished / "model.safetensors")
    del weights["head.weight"]
    folder = damaged("model.safetensors", b"")
    save_file(weights, folder / "model.safetensors")
    message = refused(nm, "eval", str(folder))
    assert message.startswith(f"{folder}/model.safetensors: does not hold what this run left: ")
    assert "head.weight" in message


def test_the_command_of_a_run_whose_records_are_damaged_says_how_to_repeat_it(nm, damaged, tiny):
    folder = damaged("summary.json", b"{")
    for name, content in [("summary.json", "{"), ("summary.json", "{}"), ("summary.json", "[]"), ("status.json", "{")]:
        (folder / name).write_text(content)
        status, _, err = nm(*tiny, "train.updates=2")
        assert status == 2
        assert err.startswith(f"{folder}/{name}: is damaged (")
        assert err.endswith("force=true repeats the run\n")
    status, out, err = nm(*tiny, "train.updates=2", "force=true")
    assert status == 0, err
    assert out.endswith(f"run folder: {folder}\n")


def test_a_folder_that_only_the_system_refuses_is_a_plain_message_too(nm, tiny, monkeypatch):
    """What a look at permissions cannot see, such as a full or read-only network disk."""
    original = Path.mkdir

    def full(self, *arguments, **options):
        if "runs" in str(self):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", full)
    status, _, err = nm(*tiny, "train.updates=2")
    assert status == 2
    assert "cannot be written (No space left on device); name a folder that can" in err


def test_a_results_folder_without_permission_is_refused_with_the_other_faults(nm, tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)  # root may write anywhere
    messages = refused(nm, "seed=-1", f"results_dir={locked}/some/runs").splitlines()
    assert messages == [
        "seed=-1: should be greater than or equal to 0",
        f"results_dir={locked}/some/runs: cannot be written ({locked}: permission denied); name a folder that can",
    ]
