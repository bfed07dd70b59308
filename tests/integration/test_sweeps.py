"""Sweeps on one machine: one run after the other, several at once, failures among them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from nmtrain import cli

FAST = ["train.updates=2", "train.eval_every=1", "measure=off"]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch, _handlers_as_before):
    """What a sweep in this process leaves behind: handlers on captured output, and Hydra's error switch."""
    monkeypatch.setitem(os.environ, "HYDRA_FULL_ERROR", "1")


@pytest.fixture
def sweep(capsys, tmp_path, tiny, monkeypatch):
    """Run a command line over the tiny config in an empty folder: ``status, stdout, stderr``."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def command(*arguments):
        status = cli._main([*tiny, *FAST, *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return command


@pytest.fixture
def runs(tmp_path):
    """``{run name: state}`` of the results folder so far."""

    def states():
        files = (tmp_path / "runs").glob("*/status.json")
        return {file.parent.name: json.loads(file.read_text())["state"] for file in files}

    return states


def readable(name):
    """A run's name without its hash."""
    return name.rpartition("-")[0]


def test_a_sweep_trains_every_combination_and_a_single_run_finds_its_folder(sweep, runs, tmp_path):
    status, out, err = sweep("-m", "recipe=ste,sdgf_geometric", "sparsity=2:4")
    assert (status, err) == (0, "")
    assert out.startswith("2 runs\n")
    swept = runs()
    assert sorted(map(readable, swept)) == ["vit-digits-2of4-sdgf_geometric-s0", "vit-digits-2of4-ste-s0"]
    assert set(swept.values()) == {"finished"}
    status, out, _ = sweep("sparsity=2:4", "recipe=sdgf", "recipe.structure=geometric")
    assert status == 0
    assert out.startswith(f"{tmp_path}/runs/vit-digits-2of4-sdgf_geometric-s0-")
    assert "is finished already" in out
    assert runs() == swept

    # Hydra has written nothing into the current folder or a run folder.
    assert list(Path.cwd().iterdir()) == []
    results = tmp_path / "runs"
    assert {path.name for path in results.iterdir()} == {*swept, ".sweeps", "sweeps"}
    assert [path.name for path in (results / ".sweeps").iterdir()] == ["multirun.yaml"]
    written = {path.name for name in swept for path in (results / name).iterdir()}
    assert not {".hydra", "hydra.yaml", "overrides.yaml", "multirun.yaml", "nmtrain.log", "cli.log"} & written


def test_values_with_colons_commas_and_braces_reach_a_run_of_a_sweep_as_they_reach_a_single_one(sweep, tmp_path):
    results = tmp_path / "a,b c=d"
    settings = [
        f'results_dir="{results}"',
        "mask.roles=[ff,q]",
        "mask.patterns={q:2:4}",
        "train.eval_batch_size=${train.batch_size}",
    ]
    status, _, err = sweep("-m", "sparsity=1:8", *settings)
    assert (status, err) == (0, "")
    (folder,) = (path for path in results.iterdir() if path.name not in (".sweeps", "sweeps"))
    status, out, _ = sweep("sparsity=1:8", *settings)
    assert status == 0
    assert out.startswith(f"{folder} is finished already")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["mask"]["patterns"] == {"q": "2:4"}
    assert config["results_dir"] == str(results)
    assert config["train"]["eval_batch_size"] == 32


@pytest.mark.slow
def test_combinations_that_are_one_run_train_once(sweep, runs):
    """Dense whatever the pattern, and a recipe under its two names."""
    status, out, _ = sweep("-m", "recipe=dense,mdgf,mdgf_exponential", "sparsity=1:8,1:16", "force=true")
    assert status == 0
    assert out.startswith("3 runs (6 combinations)\n")
    assert sorted(map(readable, runs())) == [
        "vit-digits-1of16-mdgf_exponential-s0",
        "vit-digits-1of8-mdgf_exponential-s0",
        "vit-digits-dense-s0",
    ]
    assert out.count("\ntraining /") == 3  # force=true repeats what was there before, and none of these


@pytest.mark.slow
def test_a_dense_run_is_measured_by_the_masks_of_all_patterns_of_its_sweep(sweep, runs, tmp_path):
    measured = ["train.updates=4", "measure.every=2"]
    assert sweep("recipe=dense", *measured)[0] == 0
    (alone,) = (tmp_path / "runs").glob("*-dense-*")
    assert patterns_measured(alone) == ["1:8", "1:8"]
    weights = (alone / "model.safetensors").read_bytes()

    assert sweep("-m", "recipe=dense,ste", "sparsity=1:8,1:16", "force=true", *measured)[0] == 0
    assert len(runs()) == 3  # it has the name that it had alone
    assert patterns_measured(alone) == ["1:8", "1:16", "1:8", "1:16"]
    assert (alone / "model.safetensors").read_bytes() == weights
    (sparse,) = (tmp_path / "runs").glob("*-1of16-ste-*")
    assert patterns_measured(sparse) == ["1:16", "1:16"]

    status, out, _ = sweep("-m", "recipe=dense,ste", "sparsity=1:8,1:16,1:32", *measured)
    assert status == 0
    assert "dense" in (said := out[: out.index("was not measured by the masks of 1:32")]).splitlines()[-2]
    assert "is finished already; force=true repeats it" in said
    assert patterns_measured(alone) == ["1:8", "1:16", "1:8", "1:16"]
    report = cli._main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")])
    assert report == 0
    assert "without noise by the masks of 1:32" in (tmp_path / "report" / "report.md").read_text()


def patterns_measured(folder):
    lines = map(json.loads, (folder / "noise.jsonl").read_text().splitlines())
    return [line["sparsity"] for line in lines if line["tensor"] == "mean"]


@pytest.mark.slow
def test_patterns_to_measure_that_are_given_stay_and_need_a_dense_run(sweep, tmp_path):
    given = ["measure.every=2", "measure.patterns=[1:4]"]
    assert sweep("-m", "recipe=dense,ste", "sparsity=1:8,1:16", *given)[0] == 0
    (dense,) = (tmp_path / "runs").glob("*-dense-*")
    assert patterns_measured(dense) == ["1:4"]
    refusal = "measure.patterns=[1:4]: has no effect with recipe=ste; dense runs read it\n"
    assert sweep("-m", "recipe=ste,mdgf", *given) == (2, "", refusal)
    assert sweep("recipe=ste", *given) == (2, "", refusal)


def test_a_value_that_a_config_completes_does_not_make_one_run_two(sweep, tmp_path):
    """config.yaml has the whole path of ``init_from``, the command line does not."""
    assert sweep("recipe=dense")[0] == 0
    (tmp_path / "runs").rename("earlier")
    start = next(Path("earlier").glob("*-dense-*"))
    status, out, _ = sweep("-m", "recipe=dense", "sparsity=1:8,1:16", f"init_from={start}", "force=true")
    assert status == 0
    assert out.startswith("1 run (2 combinations)\n")
    assert out.count("\ntraining /") == 1


def test_one_failing_run_stops_no_other_and_the_sweep_exits_1_naming_it(sweep, runs, tmp_path):
    status, out, err = sweep("-m", "optim=sgd", "optim.lr=1e30,0.01,1e29", "optim.clip_norm=null")
    assert status == 1
    states = runs()
    failed = [name for name, state in states.items() if state == "failed"]
    assert sorted(states.values()) == ["failed", "failed", "finished"]
    closing = err[err.index("failed: ") :].splitlines()
    assert closing[0] == "failed: 2 of 3 runs did not finish"
    assert sorted(line.split(": ")[0] for line in closing[1:]) == sorted(f"  {tmp_path}/runs/{name}" for name in failed)
    assert all(": failed, the training loss is nan (updates 1 to 2)" in line for line in closing[1:])
    assert "Traceback" not in err
    for name in failed:
        assert f"{name} did not finish: the training loss is nan" in out


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (["sparsity=1:8,32:1"], ["sparsity: 32:1: N = 32 exceeds M = 1; N:M keeps N of every M weights"]),
        (
            ["sparsity=1:8,1:7"],
            [
                "sparsity=1:7: blocks.0.mlp.fc1.weight: M = 7 does not divide its input axis of length 64",
                "sparsity=1:7: blocks.0.mlp.fc2.weight: M = 7 does not divide its input axis of length 256",
                "mask.indivisible=skip leaves tensors dense whose axis M does not divide",
            ],
        ),
        (
            ["seed=0,-1", "train.micro_batches=1,3"],
            [
                "train.micro_batches=3: does not divide train.batch_size 32",
                "seed=-1: should be greater than or equal to 0",
            ],
        ),
        (["model.options.depth=1,no"], ["model.name=vit: timm cannot build vit_tiny_patch16_224 with "]),
    ],
)
def test_a_bad_combination_anywhere_is_refused_before_the_first_run(sweep, tmp_path, settings, messages):
    status, out, err = sweep("-m", *settings)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == len(messages)
    for line, message in zip(err.splitlines(), messages, strict=True):
        assert line.startswith(message)
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_of_a_sweep_is_one_table_of_what_all_runs_cost(sweep, tmp_path):
    line = ["-m", "recipe=dense,ste", "sparsity=1:8,2:4", "cluster=local", "cluster.jobs=2"]
    status, out, err = sweep(*line, "--dry-run")
    assert (status, err) == (0, "")
    rows = [line for line in out.splitlines() if "vit-digits" in line]
    assert [readable(row.split("│")[1].strip()) for row in rows] == [
        "vit-digits-dense-s0",
        "vit-digits-1of8-ste-s0",
        "vit-digits-2of4-ste-s0",
    ]
    assert [row.split("│")[2].strip() for row in rows] == ["planned"] * 3
    assert next(row.split("│")[5].strip() for row in rows) == "1.000"
    assert "\n3 runs (4 combinations)\nto train: 3 runs, " in out
    assert not (tmp_path / "runs").exists()

    assert sweep("recipe=dense")[0] == 0
    _, out, _ = sweep(*line, "--dry-run")
    assert "│ finished │" in out
    assert "\nto train: 2 runs, " in out
    assert "by runs that finished here" not in out  # of another recipe


@pytest.mark.slow
def test_a_run_that_another_process_leaves_is_trained_after_the_others(sweep, runs, make_config, monkeypatch):
    from nmtrain.launch import running
    from nmtrain.runs.folder import RunFolder

    folder = RunFolder(make_config(*FAST, "seed=1").run_folder)
    folder.prepare()
    folder.set_status("running")
    assert sweep("-m", "seed=3", "cluster.wait=false")[0] == 0
    with ExitStack() as holding:
        holding.enter_context(folder.locked())
        status, out, err = sweep("-m", "seed=1,2", "cluster.wait=false")
        assert (status, err) == (0, "")
        assert f"left to the processes that train them: {folder.name}" in out
        assert f"{folder.path}: another process is training this run right now (process " in out
        assert sorted(runs().values()) == ["finished", "finished", "running"]
        monkeypatch.setattr(running, "_LOOK", 0)
        monkeypatch.setattr(running.time, "sleep", lambda seconds: holding.close())
        status, out, _ = sweep("-m", "seed=1,2")
    assert status == 0
    assert f"waiting for {folder.name} that other processes train" in out
    assert list(runs().values()) == ["finished"] * 3


def test_a_stop_request_ends_the_whole_sweep(sweep, runs, monkeypatch):
    from nmtrain.training import run as run_module
    from nmtrain.training.loop import Trainer

    class Interrupted(Trainer):
        def update(self, number):
            if number == 0:
                signal.raise_signal(signal.SIGINT)
            return super().update(number)

    monkeypatch.setattr(run_module, "Trainer", Interrupted)
    status, _, err = sweep("-m", "seed=0,1")
    assert status == 130
    assert err == "stopped: SIGINT after update 1 of 2; the same command resumes\n"
    assert list(runs().values()) == ["preempted"]  # the other was never started


# In processes of their own


def start(arguments, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "nmtrain.cli", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal sends Ctrl-C to all processes of a command
    )


@pytest.mark.slow
def test_joblib_trains_several_at_once_dense_once_and_the_failing_ones_stop_no_other(tiny, tmp_path, runs):
    folder = tmp_path / "cwd"
    folder.mkdir()
    settings = ["recipe=dense,ste", "sparsity=1:8,2:4", "optim=sgd", "optim.lr=0.01,1e30", "optim.clip_norm=null"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start([*tiny, *FAST, "-m", *settings, *launcher], folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    states = runs()
    assert sorted(states.values()) == ["failed"] * 3 + ["finished"] * 3
    assert [readable(name) for name, state in states.items() if state == "finished" and "dense" in name] == [
        "vit-digits-dense-s0"
    ]
    assert "failed: 3 of 6 runs did not finish" in err
    assert "Traceback" not in out + err
    started = {(tmp_path / "runs" / name / "environment.json").stat().st_mtime for name in states}
    assert len(started) == 6
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_stops_several_runs_at_once_and_the_same_sweep_goes_on(tiny, tmp_path, runs):
    command = [*tiny, "train.updates=40", "train.log_every=1", "measure=off", "-m", "seed=0,1"]
    process = start([*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], tmp_path)
    deadline = time.monotonic() + 120
    while not any(file.read_text().count("\n") > 3 for file in (tmp_path / "runs").glob("*/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("stopped: SIGINT")
    assert "Traceback" not in err
    assert set(runs().values()) <= {"preempted", "running"}
    assert cli._main(command) == 0
    assert list(runs().values()) == ["finished"] * 2


@pytest.mark.slow
def test_the_jobs_of_submitit_on_this_machine_train_what_this_process_would(sweep, runs, tmp_path):
    pytest.importorskip("submitit")
    line = ["-m", "recipe=ste", "seed=0,1"]
    status, out, err = sweep(*line, "cluster=submitit_local", "cluster.time=10")
    assert (status, err) == (0, "")
    assert "2 of 2 runs are finished and counted." in out
    assert sorted(runs().values()) == ["finished"] * 2
    for folder in (tmp_path / "runs").glob("vit-*"):
        (begun,) = (json.loads(file.read_text()) for file in (folder / "starts").glob("*.json"))
        assert begun["pid"] != os.getpid()
    status, _, _ = sweep(*line, f"results_dir={tmp_path}/here")
    assert status == 0
    for folder in (tmp_path / "here").glob("vit-*"):
        for name in ("model.safetensors", "metrics.jsonl"):
            assert (folder / name).read_bytes() == (tmp_path / "runs" / folder.name / name).read_bytes()
