"""Runs from the command line: trained, failed, finished, damaged, and the exit statuses of each."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nmtrain import cli
from nmtrain.config.check import check_config


def test_a_dry_run_shows_the_plan_and_writes_nothing(nm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    status, out, err = nm("model.options.depth=1", "--dry-run", "mask.roles=[ff,q]", "mask.patterns.q=1:4")
    assert (status, err) == (0, "")
    assert out.startswith("results/runs/vit-glyphs-1of32-sdgf_stepwise-s0-")
    for part in ("31:32", "16:32", "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight[0:128]", "training FLOPs"):
        assert part in out
    assert list(Path.cwd().iterdir()) == []


def test_a_dry_run_of_what_training_has_to_find_out_says_between_what_it_lies(nm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    step = ["recipe=step", "model.options.depth=1", "train.updates=1000", "--dry-run"]
    _, out, _ = nm(*step, "recipe.dense_fraction=auto")
    assert "found in training: not before update 100, and at 500, as shown, at the latest" in out
    for fraction, amount in ((0.1, "at least"), (0.5, "at most")):
        _, fixed, _ = nm(*step, f"recipe.dense_fraction={fraction}")
        (line,) = (line for line in fixed.splitlines() if "training FLOPs" in line)
        assert f"training FLOPs, {amount}" in out
        assert line.split("│")[2].strip() in out


def test_a_run_trains_once_and_says_so_the_second_time(nm, tiny, tmp_path):
    command = ["train", *tiny, "train.updates=3"]
    status, out, err = nm(*command)
    assert status == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert out.endswith(f"run folder: {folder}\n")
    assert f"report: nmtrain report {folder.parent}\n" in out
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
    from nmtrain.config.compose import compose_values, prepare_overrides
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
def test_a_damaged_run_folder_is_named_with_its_file(refused, damaged, command, name, content, message):
    folder = damaged(name, content)
    found = refused(command, str(folder))
    assert found.startswith(f"{folder}/{message}" if message[0] != ":" else f"{folder}{message}")


def test_a_model_that_is_not_the_one_of_the_config_is_refused(refused, damaged, finished):
    weights = load_file(finished / "model.safetensors")
    del weights["head.weight"]
    folder = damaged("model.safetensors", b"")
    save_file(weights, folder / "model.safetensors")
    message = refused("eval", str(folder))
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


def test_a_results_folder_without_permission_is_refused_with_the_other_faults(refused, tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)  # root may write anywhere
    messages = refused("seed=-1", f"results_dir={locked}/some/runs").splitlines()
    assert messages == [
        "seed=-1: should be greater than or equal to 0",
        f"results_dir={locked}/some/runs: cannot be written ({locked}: permission denied); name a folder that can",
    ]
