"""A run that was killed and repeated ends as if nothing had happened: same weights, same records."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from nmtrain.training.checkpoint import save_checkpoint
from nmtrain.training.run import run


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_run(folder, reference):
    expected, got = weights(reference), weights(folder)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert lines(folder) == lines(reference)


def killed_at(update, reference, folder):
    """The folder as a kill some time after checkpoint ``update`` leaves it: later lines are there, later files not."""
    shutil.copytree(reference, folder)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.split("-")[0]) > update:
            path.unlink()
    for name in ("summary.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "status.json").write_text('{"state": "running", "reason": null}')


@pytest.mark.parametrize(
    "recipe",
    [
        ["recipe=sdgf_stepwise", "recipe.dense_fraction=0.2"],
        [
            "recipe=mdgf_exponential",
            "recipe.dense_fraction=0.2",
            "recipe.freeze_mask=true",
            "recipe.finetune_fraction=0.3",
        ],
        ["recipe=sr_ste", "optim=sgd", "optim.lr=0.01"],
        ["recipe=dense", "train.micro_batches=2"],
    ],
)
def test_resume_at_each_phase_boundary_and_beside_it_is_bitwise_exact(recipe, make_config, tmp_path):
    config = make_config(*recipe, "train.checkpoint_every=1", "train.keep=100", "model.options.proj_drop_rate=0.1")
    run(config)
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    starts = {first for first, _ in config.recipe.phases(config.total_updates)} | {config.total_updates}
    for update in sorted({start + beside for start in starts for beside in (-1, 0, 1)} & set(range(1, 13))):
        killed_at(update, reference, config.run_folder)
        run(config)
        assert_same_run(config.run_folder, reference)
        shutil.rmtree(config.run_folder)


@pytest.mark.parametrize(
    "recipe",
    [
        ["recipe=gmp"],
        ["recipe=asp"],
        ["recipe=step"],
        ["recipe=s_ste"],
        ["recipe=feather"],
        ["recipe=rigl", "recipe.every=3"],
        ["recipe=top_kast", "recipe.every=3"],
        ["recipe=ac_dc", "recipe.rounds=2"],
        ["recipe=maxq"],
        ["recipe=mdgf", "recipe.tighten=true", "recipe.contenders=2.0", "recipe.decay_end=0.1"],
    ],
    ids=lambda recipe: recipe[0].removeprefix("recipe="),
)
def test_what_a_method_remembers_comes_through_a_resume(recipe, make_config, tmp_path):
    """Scales, exchanged masks, held moments: killed in the middle of every stretch of three updates."""
    config = make_config(*recipe, "train.checkpoint_every=1", "train.keep=100", "mask.roles=[ff,q]")
    run(config)
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    for update in (1, 4, 7, 10):
        killed_at(update, reference, config.run_folder)
        run(config)
        assert_same_run(config.run_folder, reference)
        shutil.rmtree(config.run_folder)


@pytest.mark.parametrize("of_before", [True, False], ids=["mean", "three"])
def test_the_losses_of_a_line_go_on_from_a_checkpoint_of_before_or_of_other_processes(of_before, make_config, tmp_path):
    """Checkpoints had the mean over processes once; where their number is another one now, it is taken."""
    config = make_config("train.checkpoint_every=1", "train.keep=100", "train.log_every=5")
    run(config)
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    killed_at(3, reference, config.run_folder)
    folder = config.run_folder / "checkpoints"
    path = max(folder.iterdir())
    content = torch.load(path)
    (own,) = content.pop("loss_sums")
    content |= {"loss_sum": torch.tensor(own)} if of_before else {"loss_sums": [own - 1, own + 3, own - 2]}
    path.unlink()
    save_checkpoint(folder, 3, content, keep=100)
    run(config)
    for found, expected in zip(lines(config.run_folder), lines(reference), strict=True):
        assert found == expected | {"loss": pytest.approx(expected["loss"], rel=0, abs=0 if of_before else 1e-6)}


def test_two_runs_of_one_config_are_bitwise_equal(make_config, tmp_path):
    config = make_config()
    run(config)
    shutil.move(config.run_folder, tmp_path / "first")
    run(config)
    assert_same_run(config.run_folder, tmp_path / "first")


def test_a_run_resumed_with_other_code_keeps_what_it_was_begun_with(make_config, tmp_path, caplog):
    config = make_config()
    run(config)
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    environment = config.run_folder / "environment.json"
    begun = json.loads((reference / "environment.json").read_text())
    updates = [int(path.name[:10]) for path in (reference / "checkpoints").iterdir()]
    killed_at(min(updates), reference, config.run_folder)
    run(config)
    assert json.loads(environment.read_text())["before"] == []
    assert "other code" not in caplog.text
    for commit in ("older", "old"):
        shutil.rmtree(config.run_folder)
        killed_at(min(updates), reference, config.run_folder)
        before = [begun | {"git_commit": "older"}] if commit == "old" else []
        environment.write_text(json.dumps(begun | {"git_commit": commit, "before": before}))
        run(config)
        commits = [one["git_commit"] for one in json.loads(environment.read_text())["before"]]
        assert commits == ["older", "old"][: len(before) + 1]
    assert "resuming with other code, plug-ins or library versions than before" in caplog.text


def test_damaged_newest_checkpoint_falls_back_to_the_one_before_with_a_warning(make_config, tmp_path, caplog):
    config = make_config("train.checkpoint_every=5")
    run(config)
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    for damage in ("truncated", "flipped"):
        killed_at(12, reference, config.run_folder)
        newest = max((config.run_folder / "checkpoints").iterdir())
        assert newest.name.startswith("0000000012")
        content = bytearray(newest.read_bytes())
        if damage == "truncated":
            newest.write_bytes(content[: len(content) // 2])
        else:
            content[len(content) // 2] ^= 1
            newest.write_bytes(content)
        caplog.clear()
        run(config)
        assert f"{newest} is damaged" in caplog.text
        assert "resuming at update 10" in caplog.text
        assert_same_run(config.run_folder, reference)
        shutil.rmtree(config.run_folder)


def test_half_written_last_line_is_dropped_on_resume(make_config, tmp_path):
    config = make_config("train.checkpoint_every=5")
    run(config)
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    killed_at(12, reference, config.run_folder)
    with open(config.run_folder / "metrics.jsonl", "a") as file:
        file.write('{"update": 12, "ep')
    run(config)
    assert_same_run(config.run_folder, reference)


def test_finished_run_is_not_repeated_unless_forced(make_config, caplog):
    config = make_config()
    summary = run(config)
    before = (config.run_folder / "metrics.jsonl").stat().st_mtime_ns
    caplog.set_level("INFO", logger="nmtrain")
    assert run(config) == summary
    assert "is finished already" in caplog.text
    assert (config.run_folder / "metrics.jsonl").stat().st_mtime_ns == before
    forced = run(make_config("force=true"))
    assert (config.run_folder / "metrics.jsonl").stat().st_mtime_ns > before
    assert forced["metrics"] == summary["metrics"]


def start(arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "nmtrain.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )


def wait_for_lines(path, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} has no {count} lines after 120 s")


@pytest.mark.slow
def test_kill_9_at_any_moment_and_the_same_command_again(make_config, tiny, tmp_path):
    longer = ["train.updates=60", "train.log_every=1", "train.checkpoint_every=7"]
    config = make_config(*longer)
    run(config)
    reference = tmp_path / "reference"
    shutil.move(config.run_folder, reference)
    for count in (3, 20, 45):
        process = start([*tiny, *longer])
        wait_for_lines(config.run_folder / "metrics.jsonl", count)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert json.loads((config.run_folder / "status.json").read_text())["state"] == "running"
    last = start([*tiny, *longer])
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert b"resuming at update" in output
    assert_same_run(config.run_folder, reference)


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_resumes(make_config, tiny, tmp_path):
    longer = ["train.updates=60", "train.log_every=1"]
    config = make_config(*longer)
    process = start([*tiny, *longer])
    wait_for_lines(config.run_folder / "metrics.jsonl", 5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"the same command resumes" in output
    status = json.loads((config.run_folder / "status.json").read_text())
    assert status["state"] == "preempted"
    assert status["reason"].startswith("SIGINT after update ")
    stopped = config.run_folder
    run(config)
    shutil.move(stopped, tmp_path / "stopped")
    run(config)
    assert_same_run(tmp_path / "stopped", config.run_folder)


def test_two_processes_never_train_the_same_run(make_config):
    from nmtrain.runs.folder import RunFolder, RunFolderError

    config = make_config()
    folder = RunFolder(config.run_folder)
    folder.prepare()
    with folder.locked(), pytest.raises(RunFolderError, match="another process is training this run"):
        run(config)


def test_environment_names_what_trained(make_config):
    config = make_config()
    run(config)
    environment = json.loads((config.run_folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert environment["cpu_count"] == os.cpu_count()
