"""`nmtrain clean` frees what finished runs no longer need, and nothing else; a run that cannot fit is refused."""

import json
import shutil
from collections import namedtuple

import pytest

from nmtrain.errors import ConfigError
from nmtrain.training.disk import checkpoint_bytes, require_space, run_bytes
from nmtrain.training.plan import make_plan
from nmtrain.training.run import run


def leave(folder, name, state, config="train:\n  keep_after: false\n"):
    checkpoints = folder / name / "checkpoints"
    checkpoints.mkdir(parents=True)
    (folder / name / "status.json").write_text(json.dumps({"state": state, "reason": None}))
    (folder / name / "config.yaml").write_text(config)
    for update in (4, 8):
        (checkpoints / f"{update:010d}-00ff.pt").write_bytes(b"x" * 1_000_000)
    (checkpoints / "mine.pt").write_text("not a checkpoint of ours")
    return checkpoints


def left(checkpoints):
    return sorted(file.name for file in checkpoints.iterdir())


def test_checkpoints_of_finished_runs_go_and_how_much_that_frees_is_said(nm, tmp_path):
    runs = {name: leave(tmp_path, name, name) for name in ("finished", "running", "failed", "preempted")}
    kept = leave(tmp_path, "kept", "finished", "train:\n  keep_after: true\n")
    status, out, _ = nm("clean", "--dry-run", str(tmp_path))
    assert (status, out.splitlines()[-1]) == (0, "would free 2.0 MB (finished runs: 1)")
    assert len(left(runs["finished"])) == 3
    status, out, _ = nm("clean", f"{tmp_path}/")
    assert out.splitlines() == [f"{tmp_path}/finished: 2 checkpoints, 2.0 MB", "freed 2.0 MB (finished runs: 1)"]
    assert left(runs["finished"]) == ["mine.pt"]
    assert all(len(left(folder)) == 3 for name, folder in runs.items() if name != "finished")
    assert len(left(kept)) == 3
    assert nm("clean", str(tmp_path))[1] == "freed 0.0 MB (finished runs: 0)\n"


def test_a_link_in_a_strangers_run_leads_nowhere(nm, tmp_path):
    outside = leave(tmp_path / "outside", "run", "running")
    inside = leave(tmp_path / "runs", "one", "finished")
    shutil.rmtree(inside)
    inside.symlink_to(outside)
    other = leave(tmp_path / "runs", "two", "finished")
    linked = other / "0000000004-00ff.pt"
    linked.unlink()
    linked.symlink_to(outside / "0000000004-00ff.pt")
    nm("clean", str(tmp_path / "runs"))
    assert len(left(outside)) == 3
    assert left(other) == ["0000000004-00ff.pt", "mine.pt"]


def test_what_holds_no_run_is_refused(refused, tmp_path):
    assert refused("clean", "nowhere") == "no such folder: nowhere"
    assert refused("clean", "--dry") == "usage: nmtrain clean [FOLDERS] [--dry-run]"


def test_a_finished_run_keeps_no_checkpoints_unless_told(make_config):
    fast = ["train.updates=4", "train.checkpoint_every=1", "measure=off", "train.keep=3"]
    config = make_config(*fast, "train.keep_after=false")
    run(config)
    assert list((config.run_folder / "checkpoints").iterdir()) == []
    told = make_config(*fast, "force=true")
    assert told.run_name == config.run_name
    run(told)
    assert [int(name[:10]) for name in left(told.run_folder / "checkpoints")] == [2, 3, 4]


def test_the_estimate_of_a_checkpoint_is_near_its_size(make_config):
    config = make_config("train.updates=2", "measure=off", "train.ema=0.9", "train.keep_best=true")
    run(config)
    size = max(file.stat().st_size for file in (config.run_folder / "checkpoints").iterdir())
    assert checkpoint_bytes(make_plan(config)) == pytest.approx(size, rel=0.3)


def test_a_run_that_cannot_fit_is_refused_with_what_to_do(make_config, monkeypatch):
    config = make_config("train.keep=5")
    plan = make_plan(config)
    needed = run_bytes(plan)[0]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed))
    require_space(plan)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed - 1))
    with pytest.raises(ConfigError, match=r"results_dir=.*runs: has .* GB free, and .* lower train.keep") as refusal:
        run(config)
    assert len(refusal.value.faults) == 1
    assert not config.run_folder.exists()
