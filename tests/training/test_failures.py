"""What goes wrong while training is said plainly, and nothing already made is lost."""

import errno
import json
import logging
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nmtrain.runs.folder import RunFolder, RunFolderError
from nmtrain.training.checkpoint import load_checkpoint
from nmtrain.training.loop import TrainingError
from nmtrain.training.run import run
from nmtrain.training.status import logged_to


def status(config):
    return json.loads((config.run_folder / "status.json").read_text())


def test_loss_that_is_not_finite_fails_the_run_and_keeps_the_last_good_checkpoint(make_config):
    config = make_config("optim=sgd", "optim.lr=1e30", "optim.clip_norm=null", "train.checkpoint_every=1")
    with pytest.raises(TrainingError, match=r"not finite|the training loss is"):
        run(config)
    assert status(config)["state"] == "failed"
    assert "not finite" in status(config)["reason"] or "the training loss is" in status(config)["reason"]
    assert "Traceback" in (config.run_folder / "train.log").read_text()
    kept = load_checkpoint(config.run_folder / "checkpoints")
    if kept is not None:  # the very first update may be the one that broke
        assert all(torch.isfinite(tensor).all() for tensor in kept["model"].values() if tensor.is_floating_point())


def test_infinite_weights_never_reach_a_checkpoint(make_config):
    good = make_config("train.checkpoint_every=3", "train.updates=12")
    from nmtrain.training import loop

    class Poisoned(loop.Trainer):
        def update(self, number):
            result = super().update(number)
            if number == 7:
                next(self.model.parameters()).data.view(-1)[0] = float("inf")
            return result

    from nmtrain.training import run as run_module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "Trainer", Poisoned)
        with pytest.raises(TrainingError):
            run(good)
    assert load_checkpoint(good.run_folder / "checkpoints")["done"] == 6
    assert status(good)["state"] == "failed"
    assert run(good)["status"] == "finished"  # a repeat resumes from the good checkpoint


@pytest.mark.slow
def test_full_disk_says_so_and_loses_nothing_already_written(make_config, tiny):
    """A limit on the size of files stands in for the disk: the system refuses the write all the same."""
    config = make_config("train.checkpoint_every=5")

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-m", "nmtrain.cli", *tiny, "train.checkpoint_every=5"]
    failed = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "File too large" in failed.stderr
    assert "Nothing already written is lost" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert status(config)["state"] == "failed"
    assert "File too large" in status(config)["reason"]
    assert [json.loads(line)["update"] for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]
    assert not list(config.run_folder.rglob("*.tmp"))
    repeated = subprocess.run(command, capture_output=True, text=True)
    assert repeated.returncode == 0, repeated.stderr
    assert status(config)["state"] == "finished"


def test_a_log_that_a_full_disk_does_not_take_ends_nothing_and_prints_no_traceback(capsys):
    """/dev/full stands in for the disk: it refuses every byte."""
    with logged_to(Path("/dev/full")):
        logging.getLogger("nmtrain").warning("lost")
    assert capsys.readouterr().err == ""


def test_a_mirror_is_ended_also_where_the_records_cannot_be_written(make_config, monkeypatch):
    from nmtrain.runs.folder import Records
    from nmtrain.tracking import Sink

    finished = []
    monkeypatch.setattr(Sink, "finish", lambda self, summary: finished.append(summary))

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Records, "sync", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        run(make_config())
    assert finished == [None]


def test_results_folder_that_cannot_be_written_is_named(make_config):
    config = make_config("results_dir=/dev/null/runs")
    with pytest.raises(RunFolderError, match=r"results_dir=/dev/null/runs: cannot be written"):
        run(config)


def test_unexpected_error_is_the_reason_and_its_traceback_is_in_the_log(make_config, monkeypatch):
    from nmtrain.training import loading as task_module

    def broken(**options):
        raise RuntimeError("the scanner is on fire")

    monkeypatch.setattr(task_module, "load_data", broken)
    config = make_config()
    with pytest.raises(TrainingError, match="RuntimeError: the scanner is on fire"):
        run(config)
    assert status(config) == {"state": "failed", "reason": status(config)["reason"]}
    assert "the scanner is on fire" in status(config)["reason"]
    assert 'raise RuntimeError("the scanner is on fire")' in (config.run_folder / "train.log").read_text()


def test_write_whole_leaves_the_old_file_when_writing_fails(tmp_path):
    from nmtrain.runs.folder import write_whole

    path = tmp_path / "summary.json"
    write_whole(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(RunFolderError, match=r"is .* a run folder"):
        RunFolder(tmp_path / "nothing").read_json("summary.json")


def test_a_full_gpu_says_what_to_lower_and_the_run_resumes(make_config, monkeypatch):
    """With the error as torch raises it; the folder keeps its checkpoints."""
    from nmtrain.training.loop import Trainer

    config = make_config("train.checkpoint_every=3")
    original = Trainer.update

    def full(self, number):
        if number == 7:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 0.70"
                " GiB is free. Including non-PyTorch memory, this process has 78.40 GiB memory in use. Of the allocated"
                " memory 76.00 GiB is allocated by PyTorch"
            )
        return original(self, number)

    monkeypatch.setattr(Trainer, "update", full)
    with pytest.raises(TrainingError) as failure:
        run(config)
    assert str(failure.value) == (
        "the memory of the GPU is full (CUDA out of memory; Tried to allocate 1.50 GiB; GPU 0 has a total capacity of"
        " 79.11 GiB of which 0.70 GiB is free): raise train.micro_batches (the same update from smaller parts), lower"
        " train.eval_batch_size if it was full in an evaluation, or set train.precision=bf16 or"
        " train.gradient_checkpointing=true; --dry-run tells what training needs"
    )
    assert status(config) == {"state": "failed", "reason": str(failure.value)}
    monkeypatch.setattr(Trainer, "update", original)
    assert load_checkpoint(config.run_folder / "checkpoints")["done"] == 6
    assert run(config)["status"] == "finished"
