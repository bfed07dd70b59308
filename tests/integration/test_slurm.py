"""Sweeps on a real SLURM of one machine: preempted, put back in line, timed out, shot; skipped where there is none.

apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
"""

import json
import os
import shutil
import signal
import subprocess
import sys
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
LINE += ["model.options.embed_dim=64", "train.eval_every=0.5", "measure=off"]
SWEEP = ["-m", "recipe=ste,sdgf,mdgf", "seed=0,1,2,3"]
UPDATES = "train.updates=1500"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The variables by which a command finds a SLURM with one node of 8 cores, and the folder of its files."""
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm")
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
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60).stdout.strip()


def running(variables):
    return slurm_says(variables, "squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()


def wait_for(condition, process, seconds=600):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.5)


def training(results):
    """The run folders that are between two updates right now."""
    found = []
    for file in results.glob("*/starts/*.json"):
        start = json.loads(file.read_text() or "{}")
        if start.get("done", 0) > start.get("first", 0) and not start["ended"]:
            found.append(file.parent.parent)
    return found


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


def job_of(folder):
    starts = sorted((folder / "starts").glob("*.json"))
    return json.loads(starts[-1].read_text())["job"]


def test_a_sweep_through_everything_that_a_cluster_does_ends_as_an_undisturbed_one(slurm, tmp_path):
    variables, folder = slurm
    results = tmp_path / "runs"
    cluster = ["cluster=slurm", "cluster.partition=debug", "cluster.gpus=null", "cluster.jobs=3", "cluster.time=2"]
    sweep = nmtrain(variables, *LINE, *SWEEP, UPDATES, f"results_dir={results}", *cluster, cwd=tmp_path)
    done = []

    def disturb(what, *command):
        wait_for(lambda: training(results), sweep)
        job = job_of(training(results)[0])
        slurm_says(variables, *(job if part == "JOB" else part for part in command))
        done.append(what)
        wait_for(lambda: len(running(variables)) < 3, sweep)  # it had an effect
        wait_for(lambda: len(running(variables)) >= 2, sweep)

    disturb("requeue", "scontrol", "requeue", "JOB")
    disturb("USR2", "scancel", "--signal=USR2", "JOB")
    wait_for(lambda: training(results), sweep)
    slurm_says(variables, "sbatch", "-W", "-p", "hi", "-n", "8", "--wrap", "sleep 3", "-o", "/dev/null")  # all cores
    done.append("preemption of all")
    wait_for(lambda: training(results), sweep)
    node = slurm_says(variables, "sinfo", "-h", "-N", "-p", "debug", "-o", "%n")
    os.kill(int((folder / "slurmd.pid").read_text()), signal.SIGKILL)
    slurm_says(variables, "scontrol", "update", f"nodename={node}", "state=down", "reason=shot")
    slurm_says(variables, "slurmd", "-f", folder / "slurm.conf", "-N", node)
    slurm_says(variables, "scontrol", "update", f"nodename={node}", "state=resume")
    done.append("node daemon killed")
    out, _ = sweep.communicate(timeout=1500)
    assert sweep.returncode == 0, out
    restarts = {file.name: len(list((file / "starts").iterdir())) - 1 for file in results.glob("vit-*")}
    print(done, restarts)
    assert len(restarts) == 12
    undisturbed = nmtrain(variables, *LINE, *SWEEP, UPDATES, f"results_dir={tmp_path}/alone", cwd=tmp_path)
    undisturbed.communicate(timeout=1500)
    assert undisturbed.returncode == 0
    assert_equal_sweeps(tmp_path / "alone", results)
