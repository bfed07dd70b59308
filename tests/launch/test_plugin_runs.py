"""Runs with plug-ins: what their folders record, and what eval, export, report, resume and sweeps make of them."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FAST = ["train.updates=4", "train.eval_every=1", "train.log_every=1", "measure=off"]
NETS = """\
import os

from torch import nn

from nmtrain.models import register


class Mixer(nn.Sequential):
    calls = 0

    def forward(self, images):
        self.calls += images.device.type != "meta"
        if str(self.calls) == os.environ.get("FAIL_AT"):
            raise ArithmeticError("fails")
        return super().forward(images)


@register(roles={"ff": ["1.weight"]})
def mixer(shape, width=64):
    inputs = shape.channels * shape.image_size**2
    return Mixer(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, shape.num_classes))
"""
BLOBS = """\
from dataclasses import dataclass

import torch

from nmtrain.data import DataShape, ImageSource, register


@register
@dataclass(frozen=True)
class Blobs(ImageSource):
    name = "blobs"
    splits = ("val", "test")
    size: int = 128

    def faults(self):
        return super().faults()

    def shape(self):
        return DataShape(num_classes=2, channels=1, image_size=8, train_size=self.size, val_size=32)

    def load(self, seed):
        from nmtrain.data.images.in_memory import ImageData

        labels = torch.arange(self.size + 64) % 2
        images = (labels * 100)[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8)
        held_out = slice(0, 32) if self.evaluate == "val" else slice(32, 64)
        train, val = ((images[part], labels[part]) for part in (slice(64, None), held_out))
        return ImageData(
            name="blobs", shape=self.shape(), class_names=["dark", "light"], train=train, val=val, seed=seed,
            augment=False,
        )
"""
FILES = {
    "nets.py": NETS,
    "blobs.py": BLOBS,
    "model/mixer.yaml": "kind: image_classifier\nname: mixer\nroles: [ff]\noptions: {}\n",
    "data/blobs.yaml": "name: blobs\nsize: 128\n",
    "recipe/cubic.yaml": "name: cubic\ngradient: masked\nfinetune_fraction: 0.25\n",
    "experiment/blobs.yaml": "# @package _global_\ndefaults:\n  - override /model: mixer\n  - override /data: blobs\n"
    "  - override /recipe: cubic\nsparsity: '1:8'\ntrain: {batch_size: 32}\n",
}


@pytest.fixture
def folder(own):
    return own(FILES | {"cubic.py": own.cubic})


@pytest.fixture
def without_plugins(registries_as_before, tmp_path):
    """A command in a process of its own, which knows no plug-in: ``status, stdout, stderr``."""
    clean = {key: value for key, value in os.environ.items() if key != "NMTRAIN_PLUGINS"}

    def command(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "nmtrain", *map(str, arguments)],
            cwd=tmp_path,
            env=clean | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return command


def test_a_run_of_own_recipe_model_and_data_records_what_it_loaded(nm, folder, caplog):
    plugins = ["--plugins", str(folder)]
    status, out, err = nm(*plugins, "experiment=blobs", *FAST)
    assert (status, err) == (0, "")
    (run,) = Path("results/runs").iterdir()
    assert run.name.startswith("mixer-blobs-1of8-cubic-s0-")
    environment = json.loads((run / "environment.json").read_text())
    assert environment["recipe"] == {"name": "cubic", "variant": "cubic", "gradient": "masked"}
    assert environment["plugins"] == [
        {
            "name": f"my folder, a=b/{name}",
            "version": None,
            "file": f"{folder}/{name}",
            "hash": hashlib.blake2b((folder / name).read_bytes(), digest_size=16).hexdigest(),
            "provides": [provided],
        }
        for name, provided in (("blobs.py", "data blobs"), ("cubic.py", "recipe cubic"), ("nets.py", "model mixer"))
    ]
    tensors = json.loads((run / "sparse_tensors.json").read_text())
    assert [(tensor["role"], tensor["name"]) for tensor in tensors] == [("ff", "1.weight")]
    summary = json.loads((run / "summary.json").read_text())

    status, out, err = nm("eval", str(run), *plugins)
    assert (status, err) == (0, "")
    assert f"val/accuracy: {summary['metrics']['val/accuracy']:.6f}\n" in out
    status, out, err = nm("eval", str(run), "data.evaluate=test", *plugins)
    assert (status, err) == (0, "")
    assert "test/accuracy: " in out

    status, out, err = nm("export", *plugins, str(run))
    assert (status, err) == (0, "")
    assert out.endswith('export/model.safetensors")), model as mixer builds it\n')
    description = json.loads((run / "export" / "config.json").read_text())
    assert (description["model"], description["plugin"]["name"]) == ("mixer", "my folder, a=b/nets.py")

    environment["plugins"][0]["hash"] = "of other code"
    (run / "environment.json").write_text(json.dumps(environment))
    assert nm("eval", str(run), *plugins)[0] == 0
    assert f"{run}: {folder}/blobs.py is not what this run was trained with" in caplog.text


def test_a_model_of_a_plug_in_starts_from_a_run_whose_shapes_are_its_own(nm, folder):
    line = ["--plugins", str(folder), "experiment=blobs", *FAST]
    assert nm(*line, "recipe=dense")[0] == 0
    (dense,) = Path("results/runs").iterdir()
    start = f"init_from={dense.absolute()}"
    rates = ["optim.lr=1e-12", "optim.warmup_fraction=0", "optim.final_lr=0"]
    assert nm(*line, "recipe=static", *rates, start)[0] == 0
    (sparse,) = Path("results/runs").glob("*-static-*")
    there, here = (load_file(run / "model.safetensors")["3.weight"] for run in (dense, sparse))
    assert torch.allclose(there, here, atol=1e-9)  # dense, as the run began and ended with it

    status, _, err = nm(*line, start, "model.options.width=32")
    assert status == 2
    assert err.startswith(
        f"{start}: does not fit mixer with {{width:32}}: other shapes: 1.weight ([64, 64] there, [32,"
    )
    config = dense / "config.yaml"
    config.write_text(config.read_text().replace("options: {}", "options: {width: 48}"))
    assert "another architecture: width is 48 there and 64 here" in nm(*line, start, "model.options.width=64")[2]
    refusal = "model.pretrained=x.pt: is not for model.name=mixer of a plug-in; init_from=RUN is\n"
    assert nm(*line, "model.pretrained=x.pt")[2] == refusal


@pytest.mark.slow
def test_without_the_plug_in_eval_and_export_name_it_and_report_needs_none(nm, folder, without_plugins, tmp_path):
    assert nm("--plugins", str(folder), "experiment=blobs", *FAST, f"results_dir={tmp_path}/runs")[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    # Nothing of what the run folder names is loaded: it would leave a trace.
    for file in folder.glob("*.py"):
        file.write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')\n" + file.read_text())
    for command in ("eval", "export"):
        status, out, err = without_plugins(command, run)
        assert (status, out) == (2, "")
        assert err == (
            f"{run}: its recipe=cubic is of the plug-in my folder, a=b/cubic.py, which is not loaded;"
            f" give --plugins {shlex.quote(str(folder))} (or where it is now)\n"
        )
    status, out, err = without_plugins("report", tmp_path / "runs")
    assert (status, err) == (0, "")
    assert "cubic" in out
    assert "1 of 1 runs are finished and counted" in out
    assert not (tmp_path / "loaded").exists()


def test_a_recipe_that_has_become_ours_needs_no_plug_in(nm, own, monkeypatch, registries_as_before):
    from nmtrain import recipes
    from nmtrain.runs.loaded import LOADED

    folder = str(own())
    assert nm("--plugins", folder, "experiment=smoke", "recipe=cubic", "sparsity=1:8", *FAST)[0] == 0
    (run,) = Path("results/runs").iterdir()
    LOADED.clear()  # and the recipe stays
    assert "cubic" in recipes.RECIPES
    status, _, err = nm("eval", str(run))
    assert (status, err) == (0, "")


@pytest.mark.slow
def test_a_run_that_failed_in_a_plug_in_says_where_and_goes_on_with_other_code(
    nm, folder, without_plugins, monkeypatch, tmp_path
):
    content = (folder / "cubic.py").read_text()
    more = "    @property\n    def variant(self):\n        return 'cubic_fast'\n\n    def between"
    (folder / "cubic.py").write_text(content.replace("    def between", more))
    command = ["--plugins", str(folder), "experiment=blobs", *FAST, "train.checkpoint_every=2"]
    command.append(f"results_dir={tmp_path}/runs")
    monkeypatch.setenv("FAIL_AT", "4")
    status, _, err = nm(*command)
    (run,) = (tmp_path / "runs").iterdir()
    reason = f"ArithmeticError: fails ({folder}/nets.py, line 14) (traceback in {run}/train.log)"
    assert (status, err) == (1, f"failed: {reason}\n")
    assert json.loads((run / "status.json").read_text()) == {"state": "failed", "reason": reason}
    assert 'raise ArithmeticError("fails")' in (run / "train.log").read_text()

    # The recipe cannot be built for the report, which takes its variant from the run folder.
    status, out, err = without_plugins("report", tmp_path / "runs")
    assert (status, err) == (0, "")
    assert "| cubic_fast" in (tmp_path / "results/report/report.md").read_text()

    monkeypatch.delenv("FAIL_AT")
    before = json.loads((run / "environment.json").read_text())
    (folder / "nets.py").write_text((folder / "nets.py").read_text() + "# mended\n")
    status, out, err = without_plugins(*command)
    assert (status, err) == (0, "")
    assert "resuming with other code, plug-ins or library versions than before" in out
    environment = json.loads((run / "environment.json").read_text())
    hashes = [[plugin["hash"] for plugin in one["plugins"]] for one in (*environment["before"], environment)]
    assert hashes[0] == [plugin["hash"] for plugin in before["plugins"]]
    assert [old == new for old, new in zip(*hashes, strict=True)] == [True, True, False]


def test_reports_tell_runs_of_one_config_under_two_versions_of_a_plug_in(tmp_path):
    from nmtrain.report.compare.notices import notices
    from nmtrain.report.read.folders import read_runs
    from nmtrain.report.read.frame import build_frames
    from tests.report.conftest import write_run

    def plugin(number):
        return {"name": "mine/cubic.py", "version": None, "hash": str(number) * 32, "provides": ["recipe cubic"]}

    for seed in (0, 1):
        write_run(tmp_path, "cubic", seed=seed, environment={"plugins": [plugin(seed)]})
    write_run(tmp_path, "ste", seed=0, environment={"plugins": [plugin(0)]})
    runs = build_frames(read_runs([tmp_path])).runs
    told = dict(zip(runs["run"], runs["plugins"].fillna("none"), strict=True))
    assert told == {
        "cubic-1of4-s0": "mine/cubic.py 00000000",
        "cubic-1of4-s1": "mine/cubic.py 11111111",
        "ste-1of4-s0": "none",  # it used nothing of it
    }
    (said,) = [line for line in notices(runs) if line.startswith("Same config, different code")]
    assert "0.1.0, commit 0123456789abcdef, mine/cubic.py 00000000: cubic-1of4-s0; " in said
    assert "mine/cubic.py 11111111: cubic-1of4-s1" in said


@pytest.mark.slow
def test_another_process_of_a_sweep_loads_what_the_command_named(nm, folder, tmp_path, make_config):
    """As a launcher starts it: with the pickled job and nothing else."""
    script = f"""
import sys
from functools import partial
from nmtrain.launch.running import _sweep_job
from nmtrain.recipes import list_recipes
assert "cubic" not in list_recipes()
search = 'hydra.searchpath=["file://{folder}"]'
line = [search, "experiment=blobs", *{FAST}, "results_dir={tmp_path}/runs"]
partial(_sweep_job, [{str(folder)!r}], {{7: line}}, set(), [], "sweep", 1)(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("mixer-*")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_the_workers_of_a_sweep_load_plug_ins(without_plugins, folder, tmp_path):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    relative = folder.relative_to(tmp_path)
    status, _, err = without_plugins(f"--plugins={relative}", "-m", "experiment=blobs", "seed=0,1", *FAST, *launcher)
    assert status == 0, err
    runs = list((tmp_path / "results" / "runs").glob("*/environment.json"))
    assert len(runs) == 2
    for file in runs:
        provided = [plugin["provides"] for plugin in json.loads(file.read_text())["plugins"]]
        assert provided == [["data blobs"], ["recipe cubic"], ["model mixer"]]
