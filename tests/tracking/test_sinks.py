"""What holds for every mirror: options, order, lock, and that its failures are not the run's."""

import json
import logging
import subprocess
import sys

import pytest

from nmtrain.errors import ConfigError, RunFolderError
from nmtrain.tracking import open_sink
from nmtrain.tracking.sinks import Mirror, numbers, recorded, scalars


def test_importing_tracking_imports_neither_wandb_nor_tensorboard_nor_torch():
    code = "import sys, nmtrain.tracking; print(sorted({'wandb', 'tensorboard', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["tracking.mode=online"], "tracking.mode=online: there is no such key. Available: ['name']"),
        (["tracking=tensorboard", "tracking.group=a"], "tracking.group=a: there is no such key. Available: ['name']"),
        (
            ["tracking.name=comet"],
            "tracking.name=comet: there is no such tracking. Available: ['none', 'tensorboard', 'wandb']",
        ),
        (
            ["tracking=wandb", "tracking.project=a/b"],
            "tracking.project=a/b: a project's name has 1 to 128 characters, none of them / \\ # ? % :",
        ),
    ],
)
def test_options_that_would_have_no_effect_are_refused_with_key_and_value(make_config, overrides, fault):
    with pytest.raises(ConfigError) as refused:
        make_config(*overrides)
    assert refused.value.faults == [fault]


def test_tracking_does_not_change_the_name_of_a_run(make_config):
    names = {make_config(f"tracking={name}").run_name for name in ("none", "tensorboard", "wandb")}
    assert len(names) == 1


def test_mirrors_show_the_numbers_of_a_record_under_its_split():
    record = {"update": 5, "epoch": 0.5, "split": "train", "loss": 2.0, "grad_norm": None, "pattern": "1:8"}
    assert scalars(record, "1:8") == {"train/epoch": 0.5, "train/loss": 2.0}
    noise = {"update": 4, "tensor": "mean", "pattern": None, "sad": 3}
    assert scalars(noise, "1:8") == scalars(noise | {"sparsity": "1:8"}, "1:8") == {"noise/sad": 3}
    assert scalars(noise | {"sparsity": "1:32"}, "1:8") == {"noise-1of32/sad": 3}
    assert numbers({"a": {"b/c": 1, "d": "x"}, "e": True, "f": 2.5}) == {"a/b/c": 1, "f": 2.5}


def test_damaged_lines_are_left_out(prepared):
    _, folder = prepared()
    (folder / "metrics.jsonl").write_bytes(b'{"update": 5}\n\0\0\0\n{"update": 8}\n{"upd\n    \n{"update": 9}\n')
    (folder / "noise.jsonl").write_bytes(b'{"update": 6, "tensor": "mean"}\n{"update": 7, "tensor": "mean"\n"mean"\n')
    assert [record["update"] for record in recorded(folder)] == [5, 6, 8, 9]


def test_lines_already_in_the_folder_are_read_in_the_order_of_updates(prepared):
    _, folder = prepared()
    assert recorded(folder) == []
    noise = [{"update": update, "tensor": tensor} for update in (4, 8) for tensor in ("a.weight", "mean")]
    metrics = [{"update": update, "split": "train"} for update in (5, 8, 10)]
    (folder / "noise.jsonl").write_text("".join(json.dumps(line) + "\n" for line in noise))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    assert recorded(folder) == [noise[1], metrics[0], noise[3], metrics[1], metrics[2]]


class Failing(Mirror):
    """A tool that fails at update 2."""

    name = "failing"

    def start(self):
        self.calls = []

    def write(self, update, values):
        self.calls.append(update)
        if update == 2:
            raise self.error

    def end(self, summary):
        self.calls.append("end")

    def release(self):
        self.calls.append("release")


def test_mirror_that_fails_warns_once_and_is_left_alone_from_then_on(prepared, caplog):
    mirror = Failing(*prepared())
    mirror.error = OSError("no space")
    with caplog.at_level(logging.WARNING):
        for update in (1, 2, 3, 4):
            mirror.log({"update": update, "split": "train"})
        mirror.finish(None)
    assert mirror.calls == [1, 2, "release"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "tracking=failing failed and is off for the rest of this run, whose own files go on (OSError: no space)"
    ]


def test_a_bug_in_a_mirror_is_not_swallowed(prepared):
    mirror = Failing(*prepared())
    mirror.error = KeyError("loss")
    with pytest.raises(KeyError):
        mirror.log({"update": 2, "split": "train"})


def test_no_mirror_starts_before_the_folder_is_locked(prepared):
    from nmtrain.training.run import run

    config, folder = prepared("tracking=tensorboard")
    with folder.locked(), pytest.raises(RunFolderError, match="another process"):
        run(config)
    assert not (folder / "tensorboard").exists()
    open_sink(config, folder).finish(None)
    assert (folder / "tensorboard").exists()
