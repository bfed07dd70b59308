"""Sweeps on a real SLURM of one machine: preempted, put back in line, timed out, shot; skipped where there is none.

apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent / "slurm"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(name) or Path("/usr/sbin", name).exists() for name in NEEDED),
        reason="SLURM is not installed, or this is not root",
    ),
]

LINE = ["experiment=smoke", "sparsity=1:8", "train.batch_size=32", "model.options.depth=1"]
LINE += ["model.options.embed_dim=64", "train.updates=500", "train.eval_every=2", "train.log_every=5", "measure=off"]
SWEEP = ["-m", "recipe=ste,sdgf,mdgf", "seed=0,1,2,3"]
# A plug-in: an update takes 0.08 s at least, so that runs are still going on when their turn to be
# disturbed comes, also where a machine is fast and SLURM takes its time.
STEADY = """
import time
from nmtrain.training.loop import Trainer
update = Trainer.update
def steady(self, number):
    until = time.monotonic() + 0.08
    found = update(self, number)
    time.sleep(max(0.0, until - time.monotonic()))
    return found
Trainer.update = steady
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The variables by which a command finds a SLURM with one node of 8 cores, and the folder of its files."""
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm")
    with open(Path(tempfile.gettempdir()) / "nmtrain-test-slurm.lock", "w") as one_at_a_time:  # its ports are fixed
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        subprocess.run([HERE / "up.sh", folder], check=True, timeout=60)
        path = f"{folder}/bin:/usr/sbin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path, "OMP_NUM_THREADS": "1"}, folder
        subprocess.run([HERE / "down.sh", folder], check=False, timeout=60)


def nmtrain(variables, *arguments, **options):
    command = [sys.executable, "-m", "nmtrain.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def slurm_says(variables, *command):
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300).stdout.strip()


def wait_for(condition, process, seconds=600):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.5)


def starts(folder):
    return [json.loads(file.read_text() or "{}") for file in sorted((folder / "starts").glob("*.json"))]


def training(results):
    """The run folders that have come to some updates, and in which a process goes on."""
    begun = [file.parent for file in sorted(results.glob("*/metrics.jsonl")) if file.stat().st_size]
    states = {folder: json.loads((folder / "status.json").read_text())["state"] for folder in begun}
    return [folder for folder in begun if states[folder] == "running" and starts(folder)[-1].get("ended") is False]


def content(folder):
    records = (folder / "metrics.jsonl").read_text().splitlines()
    return load_file(folder / "model.safetensors"), records


def assert_equal_sweeps(one, other):
    folders = sorted(file.parent for file in one.glob("*/summary.json"))
    assert folders
    assert sorted(file.parent.name for file in other.glob("*/summary.json")) == [folder.name for folder in folders]
    for folder in folders:
        (weights, records), (again, lines) = content(folder), content(other / folder.name)
        assert all(torch.equal(weights[name], again[name]) for name in weights), folder
        assert records == lines, folder


def test_a_sweep_through_everything_that_a_cluster_does_ends_as_an_undisturbed_one(slurm, tmp_path):
    variables, folder = slurm
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "steady.py").write_text(STEADY)
    results = tmp_path / "runs"
    cluster = ["cluster=slurm", "cluster.partition=debug", "cluster.jobs=3", "cluster.time=4"]
    line = ["--plugins", tmp_path / "plugins", *LINE, *SWEEP, f"results_dir={results}"]
    sweep = nmtrain(variables, *line, *cluster, cwd=tmp_path)

    def victim():
        wait_for(lambda: training(results), sweep)
        run = training(results)[0]
        return run, starts(run)[-1]["job"], len(starts(run))

    for command in (
        ["scontrol", "requeue", "JOB"],
        ["scancel", "--signal=USR2", "JOB"],
        ["scontrol", "update", "JobId=JOB", "TimeLimit=1"],
        ["sbatch", "-W", "-p", "hi", "-n", "8", "--wrap", "sleep 1", "-o", "/dev/null"],  # all cores: it preempts
        ["node daemon"],
    ):
        run, job, begun = victim()
        if command == ["node daemon"]:
            node = slurm_says(variables, "sinfo", "-h", "-N", "-p", "debug", "-o", "%n")
            os.kill(int((folder / "slurmd.pid").read_text()), signal.SIGKILL)
            slurm_says(variables, "scontrol", "update", f"nodename={node}", "state=down", "reason=shot")
            slurm_says(variables, "slurmd", "-f", folder / "slurm.conf", "-N", node)
            slurm_says(variables, "scontrol", "update", f"nodename={node}", "state=resume")
        else:
            slurm_says(variables, *(part.replace("JOB", job) for part in command))
        wait_for(lambda run=run, begun=begun: run not in training(results) or len(starts(run)) > begun, sweep)
        state = json.loads((run / "status.json").read_text())
        print(time.strftime("%H:%M:%S"), " ".join(command), run.name, state, flush=True)
    out, _ = sweep.communicate(timeout=2400)
    assert sweep.returncode == 0, out
    assert "12 of 12 runs are finished and counted." in out
    print({run.name: len(starts(run)) for run in sorted(results.glob("vit-*"))})
    undisturbed = nmtrain(variables, *LINE, *SWEEP, f"results_dir={tmp_path}/alone", cwd=tmp_path)
    undisturbed.communicate(timeout=2400)
    assert undisturbed.returncode == 0
    assert_equal_sweeps(tmp_path / "alone", results)


def test_runs_of_two_processes_go_through_it_too(slurm, tmp_path):
    """Where the signals of a cluster reach the process that started the two, and the two themselves."""
    variables, _ = slurm
    line = [*LINE, "-m", "recipe=ste", "seed=0,1", "launch.processes=2"]
    results = tmp_path / "runs"
    cluster = ["cluster=slurm", "cluster.partition=debug", "cluster.jobs=1", "cluster.time=10", "cluster.cpus=2"]
    sweep = nmtrain(variables, *line, f"results_dir={results}", *cluster, cwd=tmp_path)
    for command in (["scancel", "--signal=USR2"], ["scontrol", "requeue"]):
        wait_for(lambda: training(results), sweep)
        run = training(results)[0]
        begun = len(starts(run))
        slurm_says(variables, *command, starts(run)[-1]["job"])
        wait_for(lambda run=run: run not in training(results), sweep)
        state = json.loads((run / "status.json").read_text())
        print(time.strftime("%H:%M:%S"), " ".join(command), run.name, state, flush=True)
        wait_for(lambda run=run, begun=begun: len(starts(run)) > begun, sweep)
    out, _ = sweep.communicate(timeout=2400)
    assert sweep.returncode == 0, out
    assert "2 of 2 runs are finished and counted." in out
    assert [len(starts(run)) for run in sorted(results.glob("vit-*"))] in ([3, 1], [1, 3], [2, 2])
    undisturbed = nmtrain(variables, *line, f"results_dir={tmp_path}/alone", cwd=tmp_path)
    undisturbed.communicate(timeout=2400)
    assert undisturbed.returncode == 0
    assert_equal_sweeps(tmp_path / "alone", results)


def test_the_chapter_of_the_readme_can_be_followed_command_by_command(slurm, tmp_path):
    """But for the set-up and its end, which are those of these tests."""
    variables, _ = slurm
    root = Path(__file__).parents[2]
    chapter = (root / "README.md").read_text().partition("A SLURM of one machine")[2].partition("\n## ")[0]
    commands = [line.strip() for line in chapter.splitlines() if line.startswith("    ")]
    assert [command.split()[0] for command in commands] == [
        *("apt-get", "tests/integration/slurm/up.sh", "export", "nmtrain", "nmtrain", "tests/integration/slurm/down.sh")
    ]
    assert all((root / command.split()[0]).is_file() for command in (commands[1], commands[-1]))
    sweep, status = (
        subprocess.run(
            [sys.executable, "-m", "nmtrain.cli", *command.split()[1:]],
            env=variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
        )
        for command in commands[3:5]
    )
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    assert status.stdout.splitlines()[-1] == "4 of 4 runs finished"
