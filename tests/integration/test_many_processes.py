"""Several processes as a user starts them, by nmtrain, torchrun or a sweep; how they resume, and what is refused."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import assert_equal, ended, start

ROOT = Path(__file__).parents[2]
LINE = ["experiment=smoke", "sparsity=1:8", "train.batch_size=32", "train.log_every=1", "measure=off"]
LINE += ["model.options.depth=1", "model.options.embed_dim=64", "train.updates=6", "train.checkpoint_every=2"]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nmtrain"]
ALONE = [sys.executable, "-m", "nmtrain"]


@pytest.fixture
def do(tmp_path):
    """Run a command in a folder of its own: status, standard output and standard error."""
    (tmp_path / "here").mkdir()
    tools = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def command(*arguments, **variables):
        done = subprocess.run(
            [str(argument) for argument in arguments],
            cwd=tmp_path / "here",
            env=tools | variables,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout, done.stderr

    return command


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


def evaluated(folder: Path) -> list[float]:
    """All that was measured of the model and of its averaged weights, and the noise of its gradients."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    noise = [json.loads(line) for line in (folder / "noise.jsonl").read_text().splitlines()]
    scores = [line[name] for line in lines if line["split"] != "train" for name in ("loss", "ema_loss")]
    return scores + [line["grad_abs_mean"] for line in noise]


@pytest.mark.slow
def test_the_readme_s_commands_for_many_devices_work_as_written(do, tmp_path):
    (chapter,) = re.findall(r"## Many devices\n(.*?)\n## ", (ROOT / "README.md").read_text(), flags=re.S)
    (block,) = re.findall(r"```sh\n(.*?)```", chapter, flags=re.S)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [command[0] for command in commands] == ["nmtrain", "torchrun", "nmtrain"]
    runs = tmp_path / "here" / "results" / "runs"

    status, out, err = do(*commands[0])
    assert status == 0, err
    (folder,) = runs.glob("vit-digits-*")
    assert json.loads((folder / "environment.json").read_text())["ranks"] == 2
    assert out.count("projected model: accuracy") == 1  # one of them talks
    shown = float(re.search(r"validation accuracy, projected model +│ ([\d.]+) %", out)[1])
    summary = json.loads((folder / "summary.json").read_text())
    assert shown == pytest.approx(100 * summary["metrics"]["val/accuracy"], abs=0.006)

    status, out, err = do(*commands[1])
    assert (status, out.count(f"{folder.relative_to(tmp_path / 'here')} is finished already")) == (0, 1), err

    status, out, err = do(*commands[2])
    assert status == 0, err
    found = {json.loads((one / "summary.json").read_text())["seed"] for one in runs.glob("vit-digits-*")}
    assert found == {0, 1, 2}
    assert "report: nmtrain report results/runs" in out


@pytest.mark.slow
def test_a_run_goes_on_from_one_process_to_copies_to_shards_and_back(do, tmp_path):
    """With all that a checkpoint holds: averaged and best weights, noise, a scale that an early update has left."""
    line = [*LINE, "recipe=s_ste", "train.ema=0.5", "train.keep_best=true", "measure.every=3", "train.eval_every=0.03"]
    assert do(*ALONE, *line, f"results_dir={tmp_path}/whole")[0] == 0
    (whole,) = (tmp_path / "whole").glob("*-*")
    folder = tmp_path / "parts" / whole.name

    def until(update: int) -> None:
        """The state that a kill leaves right after this checkpoint."""
        for path in (folder / "checkpoints").iterdir():
            if int(path.name.split("-")[0]) > update:
                path.unlink()
        (folder / "summary.json").unlink()
        (folder / "status.json").write_text('{"state": "running", "reason": null}')

    kept = ["train.keep=9", "train.keep_after=true", f"results_dir={tmp_path}/parts"]
    assert do(*ALONE, *line, *kept)[0] == 0
    ways = {"alone": [], "ddp": ["launch.processes=2"], "fsdp": ["launch.processes=2", "launch.strategy=fsdp"]}
    for update, way in ((2, "ddp"), (4, "alone"), (2, "fsdp"), (4, "ddp"), (2, "fsdp"), (4, "alone")):
        until(update)
        status, out, err = do(*ALONE, *line, *kept, *ways[way])
        assert (status, f"resuming at update {update} of {folder}" in out) == (0, True), (way, err)
        assert losses(folder) == pytest.approx(losses(whole), abs=1e-5), way
        assert evaluated(folder) == pytest.approx(evaluated(whole), abs=1e-5), way


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        (
            ALONE,
            {"WORLD_SIZE": "2", "RANK": "0"},
            "WORLD_SIZE=2: says that there are several processes, but MASTER_ADDR",
        ),
        (["launch.gpus=16"], {}, "launch.gpus=16: torch finds "),
        (["launch.processes=3"], {}, "train.batch_size=32 train.micro_batches=1: 3 processes cannot share"),
        (["launch.processes=2", "launch.gpus=2"], {}, "launch.processes=2: launch.gpus=2 says so too"),
        (["launch.nodes=2"], {}, "launch.nodes=2: say how many processes each has"),
        (["launch.nodes=2", "launch.processes=1"], {}, "launch.nodes=2: MASTER_ADDR, MASTER_PORT, NODE_RANK"),
        (["launch.processes=2", "sparsity=1:7"], {}, "sparsity=1:7: "),
        (["launch.strategy=fsdp"], {}, "launch.strategy=fsdp: has no effect with one process"),
        (["launch.strategy=fsdp", "launch.processes=2", "train.compile=true"], {}, "launch.strategy=fsdp: not with"),
        (["launch.strategy=fsdp", "launch.processes=2", "optim=adafactor"], {}, "launch.strategy=fsdp: not with opt"),
        (
            ["launch.strategy=fsdp", "launch.processes=2", "recipe=step", "recipe.dense_fraction=auto"],
            {},
            "launch.strategy=fsdp: recipe.dense_fraction=auto reads the moments of whole tensors",
        ),
    ],
)
def test_what_cannot_be_is_told_once_in_plain_words(arguments, variables, told, do):
    status, out, err = do(*ALONE, *LINE, *arguments, **variables)
    assert (status, out) == (2, "")
    assert err.startswith(told)
    lines = err.splitlines()
    assert len(set(lines)) == len(lines) <= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train.batch_size=33"], "train.batch_size=33 train.micro_batches=1: 2 processes cannot share"),
        (["-m", "seed=0,1"], "-m: a sweep starts the processes of each run itself"),
        (["launch.processes=4"], "launch: asks for 4 processes, and WORLD_SIZE=2 were started"),
        (["no.such=1"], "no.such=1: there is no such key"),
    ],
)
def test_under_torchrun_the_first_process_alone_tells_it(arguments, told, do):
    status, out, err = do(*TOGETHER, *LINE, *arguments)
    assert status == 1  # torchrun's own
    assert out == ""
    assert err.count(told) == 1
    assert "exitcode  : 2" in err


@pytest.mark.slow
def test_two_nodes_of_a_slurm_job_find_each_other(tmp_path):
    """As srun starts a task on each: both are this machine here, and scontrol is a stand-in."""
    run_here = start([*LINE, "launch.processes=2", f"results_dir={tmp_path}/one"], tmp_path / "one.out")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho localhost\n")
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    assert ended(run_here) == 0, (tmp_path / "one.out").read_text()

    def on(node):
        def set_up():
            os.environ |= {"SLURM_JOB_ID": str(os.getppid()), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NODEID": str(node)}
            os.environ["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"

        return set_up

    line = [*LINE, "launch.nodes=2", "launch.processes=1", f"results_dir={tmp_path}/two"]
    both = [start(line, tmp_path / f"{node}.out", on(node)) for node in (0, 1)]
    for node, process in enumerate(both):
        assert ended(process) == 0, (tmp_path / f"{node}.out").read_text()
    assert_equal(tmp_path / "one", tmp_path / "two")
