"""Whatever ends one of two processes ends both, within a minute, with its reason told by the first, and the run goes
on from its last checkpoint."""

import json
import signal
import time
from pathlib import Path

import pytest

from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.launch.job import checked
from nmtrain.training.run import run

LINE = ["experiment=smoke", "sparsity=1:8", "train.updates=8", "train.batch_size=32", "train.log_every=1"]
LINE += ["model.options.depth=1", "model.options.embed_dim=64", "train.checkpoint_every=2", "measure=off"]
RESNET = ["data=digits", "model=resnet", "sparsity=1:8", "train.updates=2", "train.sync_batchnorm=true"]
SHARED = ["data=digits", "model=resnet", "sparsity=1:8", "train.updates=8", "measure=off", "launch.strategy=fsdp"]
SHARED += ["launch.compare_every=6"]
# In the update with this index, something that happens to the second rank.
AT_UPDATE = """
import os, signal, time
from nmtrain.training.loop import Trainer
update = Trainer.update
def watched(self, number):
    if ranks.rank == 1 and number == {}:
        {}
    return update(self, number)
patch.setattr(Trainer, "update", watched)
"""


@pytest.fixture
def alone(tmp_path):
    """The run by one process: the config, its summary and its losses."""

    def train(*overrides):
        line = [*LINE, *overrides]
        config = checked(compose_values(prepare_overrides(line)))
        return config, run(config), losses(config.run_folder)

    return train


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def broken(pair, results: Path, happens: str, *overrides: str):
    """Two processes of which the second meets with something: exit status and standard error of both, the folder."""
    overrides = [*LINE, f"results_dir={results}", *overrides]
    ended = pair({"overrides": overrides, "before": AT_UPDATE.format(5, happens)}).ended()
    (folder,) = results.glob("*-*")
    written = [(folder / name).stat().st_mtime for name in ("metrics.jsonl", "status.json")]
    assert written[1] - written[0] < 60  # seconds from the last update that went well
    return *ended, folder


@pytest.mark.slow
def test_an_error_of_one_rank_is_told_by_the_first_and_the_run_goes_on(pair, alone, tmp_path):
    codes, (told, silent), folder = broken(pair, tmp_path / "two", "raise KeyError('lost')")
    assert codes == [1, 1]
    assert told.splitlines()[-1] == "failed: rank 1: KeyError: 'lost'"
    assert "lost" not in silent
    assert status(folder) == {"state": "failed", "reason": "rank 1: KeyError: 'lost'"}
    assert "in watched\nKeyError: 'lost'" in (folder / "train.log").read_text()
    assert len(losses(folder)) == 5
    _, _, whole = alone(f"results_dir={tmp_path}/one")
    config, summary, resumed = alone(f"results_dir={tmp_path}/two")  # by one process
    assert (config.run_folder, summary["status"]) == (folder, "finished")
    assert resumed == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "overrides", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", [], "rank 1: ended without a word, or its machine did: it was killed"),
        ("time.sleep(1000)", ["launch.timeout=15"], "rank 1: launch.timeout=15: has not come on from "),
    ],
)
def test_a_rank_that_dies_or_hangs_is_named(happens, overrides, reason, pair, tmp_path):
    codes, (told, _), folder = broken(pair, tmp_path, happens, *overrides)
    assert codes[0] == 1
    assert codes[1] != 0
    assert f"failed: {reason}" in told
    found = status(folder)
    assert found["state"] == "failed"
    assert found["reason"].startswith(reason)


@pytest.mark.slow
def test_ranks_that_are_stopped_together_for_a_while_go_on(pair, tmp_path):
    """As a scheduler suspends a job: for longer than a rank may be silent."""
    line = [*LINE, f"results_dir={tmp_path}/two", "train.updates=200", "train.checkpoint_every=200"]
    both = pair({"overrides": line})
    while not list(tmp_path.glob("two/*/metrics.jsonl")):
        time.sleep(0.1)
    for process in both.processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(30)
    for process in both.processes:
        process.send_signal(signal.SIGCONT)
        time.sleep(2)
    assert both.outcomes()[0][1]["summary"]["status"] == "finished"


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_after_the_same_update(pair, alone, tmp_path):
    codes, (told, _), folder = broken(pair, tmp_path / "two", "os.kill(os.getpid(), signal.SIGTERM)")
    assert codes == [130, 130]
    assert told.splitlines()[-1] == "stopped: SIGTERM after update 6 of 8; the same command resumes"
    assert status(folder) == {"state": "preempted", "reason": "SIGTERM after update 6 of 8"}
    again = pair({"overrides": [*LINE, f"results_dir={tmp_path}/two"]})
    assert again.outcomes()[0][1]["summary"]["status"] == "finished"
    _, _, whole = alone(f"results_dir={tmp_path}/one")
    assert losses(folder) == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_stopped_between_all_lines_of_its_log_writes_those_of_an_undisturbed_one(strategy, pair, tmp_path):
    """To the bit: the mean loss of a line adds up what each rank had before the stop and had after it."""
    line = [*LINE, "train.updates=40", "train.log_every=5", "train.ema=0.5", "measure.every=4"]
    line += [f"launch.strategy={strategy}"]
    asks = "os.kill(os.getpid(), signal.SIGTERM)"
    jobs = [
        {"overrides": [*line, f"results_dir={tmp_path}/two"], "before": AT_UPDATE.format(number, asks), "fails": True}
        for number in range(2, 40, 5)
    ]
    both = pair(*jobs, *({"overrides": [*line, f"results_dir={tmp_path}/{name}"]} for name in ("two", "whole")))
    *stopped, finished, whole = (one[0] for one in both.outcomes())
    reasons = [f"Stopped: SIGTERM after update {number} of 40" for number in range(3, 40, 5)]
    assert [one["error"] for one in stopped] == reasons
    assert finished["summary"]["status"] == whole["summary"]["status"] == "finished"
    (folder,) = (tmp_path / "two").glob("*-*")
    for file in ("metrics.jsonl", "noise.jsonl"):
        assert (folder / file).read_text() == (tmp_path / "whole" / folder.name / file).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "code", "state"),
    [("os.kill(os.getpid(), signal.SIGTERM)", 130, "preempted"), ("raise KeyError('lost')", 1, "failed")],
)
def test_a_checkpoint_that_takes_its_time_is_waited_for(happens, code, state, pair, tmp_path):
    """For longer than a rank is left alone once another one has ended: that of update 6 after a signal, the last one
    before the failure of update 6 else."""
    slow = """
import time
import nmtrain.training.checkpoint as module
save = module.save_checkpoint
patch.setattr(module, "save_checkpoint", lambda *given: (time.sleep(9), save(*given)))
"""
    job = {"overrides": [*LINE, f"results_dir={tmp_path}/two"], "before": slow + AT_UPDATE.format(5, happens)}
    codes, _ = pair(job).ended()
    (folder,) = (tmp_path / "two").glob("*-*")
    assert codes == [code, code]
    assert status(folder)["state"] == state
    newest = max(path.name for path in (folder / "checkpoints").iterdir())
    assert newest.startswith("0000000006-" if state == "preempted" else "0000000004-")
    assert newest.endswith(".pt")


@pytest.mark.slow
def test_what_all_ranks_see_ends_them_alike_and_is_told_once(pair, tmp_path):
    """One after the other in one pair of processes: each refusal leaves both free for the next run."""
    flip = "self.model.blocks[0].mlp.fc2.parametrizations.weight.original.data[3, 5] *= 1.0001"
    overflow = "self.model.head.weight.data.fill_(float('nan'))"
    other = "import nmtrain.training.run as module\npatch.setattr(module, 'code_digest', lambda: f'of {ranks.rank}')"
    cases = {
        "flipped": (AT_UPDATE.format(5, flip), ["launch.compare_every=6", "train.checkpoint_every=100"]),
        "overflow": (AT_UPDATE.format(5, overflow), []),
        "shares": ("", ["train.batch_size=33"]),
        "mixed": ("", ["train.batch_size=30", "train.mixup=0.2"]),
        "code": (other, []),
        "norm": ("", RESNET),
        "counted": (AT_UPDATE.format(5, "self.model.bn1.num_batches_tracked += 1"), SHARED),
    }
    alone = (RESNET, SHARED)  # lines of their own
    jobs = [
        {"overrides": [*([] if overrides in alone else LINE), *overrides, f"results_dir={tmp_path}/{name}"]}
        | {"before": before, "fails": True}
        for name, (before, overrides) in cases.items()
    ]
    outcomes = pair(*jobs).outcomes()
    assert all(first == second for first, second in outcomes)
    told = {name: first["error"] for name, (first, _) in zip(cases, outcomes, strict=True)}
    assert told["flipped"].startswith(
        "TrainingError: after update 6, blocks.0.mlp.fc2.weight is not the same on rank 1 as on rank 0;"
    )
    assert told["overflow"].startswith("TrainingError: the training loss is nan (updates 6 to 6)")
    assert told["shares"] == (
        "ConfigError: train.batch_size=33 train.micro_batches=1: 2 processes cannot share micro-batches of 33 samples"
        " equally; allowed: a train.batch_size that is a multiple of 2"
    )
    assert "mixing pairs the images of a batch, and 2 processes have 15 of them each" in told["mixed"]
    assert told["code"] == "ConfigError: rank 1: nmtrain=of 1, and of 0 on rank 0"
    assert told["norm"].startswith("ConfigError: train.sync_batchnorm=true: torch has it for CUDA devices alone")
    assert told["counted"].startswith(
        "TrainingError: after update 6, bn1.num_batches_tracked is not the same on rank 1"
    )
