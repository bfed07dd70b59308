"""wandb shows what the run folder holds, whatever happens to it, and stays inside that folder."""

import json
import logging
import os
import pty
import subprocess
import sys
import threading
import time
from http.server import ThreadingHTTPServer

import psutil
import pytest

from nmtrain.tracking import open_sink
from nmtrain.training.run import run
from tests.tracking.conftest import WandbServer

SUMMARY = {"run": "a", "updates": 3, "metrics": {"val/accuracy": 0.5}, "bytes": {"sparse": 100}}


def log(sink, *updates):
    for update in updates:
        sink.log({"update": update, "epoch": update / 10, "split": "train", "loss": 1 / update, "pattern": "1:8"})


def rows(*updates):
    return {update: {"train/epoch": update / 10, "train/loss": 1 / update} for update in updates}


def test_resumed_run_goes_on_in_the_same_wandb_run_with_every_record_once(make_config, die_in_update, truth, offline):
    options = ("measure.every=4", "train.checkpoint_every=8", "train.log_every=2")
    config = make_config(*options, "tracking=wandb", "tracking.group=patterns")
    die_in_update(config, 11)
    died = offline(config.run_folder)
    assert died.exit_code == 1
    assert sorted(died.rows) == [2, 4, 6, 8, 10]
    summary = run(config)

    shown = offline(config.run_folder)
    assert shown.rows == truth(config.run_folder)
    assert sorted(shown.rows) == [2, 4, 6, 8, 10, 12]
    assert shown.rows[12].keys() >= {"train/loss", "final/accuracy", "noise/flip_rate"}
    assert shown.exit_code == 0
    assert shown.run.run_id == died.run.run_id == (config.run_folder / "wandb_id.txt").read_text()
    assert (shown.run.run_group, shown.run.project) == ("patterns", "nmtrain")
    assert shown.run.display_name == config.run_name
    assert {key: shown.config[key] for key in config.values} == config.values
    for where in (shown.table, shown.summary):
        assert where["flops/training"] == summary["flops"]["training"]
        assert where["metrics/val/accuracy"] == summary["metrics"]["val/accuracy"]
        assert where["density"] == 0.125


def test_mirror_that_starts_late_shows_the_lines_from_before(prepared, offline):
    config, folder = prepared("tracking=wandb")
    lines = [{"update": update, "epoch": update / 10, "split": "train", "loss": 1 / update} for update in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sink = open_sink(config, folder)
    log(sink, 3)
    sink.finish(None)
    assert offline(folder.path).rows == rows(1, 2, 3)


def test_nothing_is_written_outside_the_run_folder_and_nothing_printed(prepared, tmp_path, monkeypatch, capfd, offline):
    home, here = tmp_path / "home", tmp_path / "here"
    for place in (home, here):
        place.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for variable in [name for name in os.environ if name.startswith(("XDG_", "WANDB_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(here)
    before = dict(os.environ)
    config, folder = prepared("tracking=wandb")
    sink = open_sink(config, folder)
    log(sink, 1, 2, 1)
    sink.finish(SUMMARY)
    assert list(home.iterdir()) == list(here.iterdir()) == []
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")
    assert offline(folder.path).table == {"updates": 3, "metrics/val/accuracy": 0.5, "bytes/sparse": 100}


def test_wandb_process_that_dies_ends_neither_this_run_nor_the_next_one_s_mirror(prepared, caplog, offline):
    config, folder = prepared("tracking=wandb")
    sink = open_sink(config, folder)
    log(sink, 1)
    (service,) = [child for child in psutil.Process().children() if "wandb-core" in child.name()]
    service.kill()
    service.wait(5)
    for update in range(2, 6):
        log(sink, update)
        time.sleep(0.1)  # the loss of the connection is seen a moment later
    sink.finish(SUMMARY)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning.split(" failed")[0] for warning in warnings] == ["tracking=wandb"]
    assert not [child for child in psutil.Process().children() if "wandb-core" in child.name()]

    config, folder = prepared("tracking=wandb", "seed=1")
    sink = open_sink(config, folder)
    log(sink, 1)
    sink.finish(None)
    assert offline(folder.path).rows == rows(1)


def test_variable_that_wandb_cannot_read_ends_the_mirror_and_not_the_run(prepared, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "")
    config, folder = prepared("tracking=wandb")
    sink = open_sink(config, folder)
    log(sink, 1)
    sink.finish(SUMMARY)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("tracking=wandb failed and is off for the rest of this run")
    assert "mode" in warning


@pytest.mark.slow
def test_server_that_goes_away_holds_the_end_of_a_run_for_20_seconds_at_most(prepared, monkeypatch, caplog):
    with ThreadingHTTPServer(("127.0.0.1", 0), WandbServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        config, folder = prepared("tracking=wandb", "tracking.mode=online")
        sink = open_sink(config, folder)
        log(sink, 1)
        server.shutdown()
    started = time.monotonic()
    log(sink, 2)
    assert time.monotonic() - started < 1
    sink.finish(SUMMARY)
    assert time.monotonic() - started < 20
    assert not list((folder / "wandb").glob("offline-run-*"))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("tracking=wandb failed")
    assert "Timed out finishing run" in warning


ONLINE = """
import logging, sys, time
from nmtrain.config.compose import compose_values, prepare_overrides
from nmtrain.config.check import check_config
from nmtrain.tracking import open_sink
from nmtrain.runs.folder import RunFolder
logging.basicConfig(level=logging.INFO, format="%(message)s")
config = check_config(compose_values(prepare_overrides(sys.argv[1:])))
folder = RunFolder(config.run_folder)
folder.prepare()
started = time.monotonic()
sink = open_sink(config, folder)
opened = time.monotonic()
sink.log({"update": 1, "epoch": 0.1, "split": "train", "loss": 1.0})
sink.finish(None)
print(opened - started, time.monotonic() - opened)
"""


def on_a_terminal(options, environment):
    """What ONLINE prints before its times, and its times."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ONLINE, *options], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # how a terminal whose programs have ended says so
        pass
    os.close(ours)
    assert process.wait(30) == 0, shown
    *before, times = shown.decode().splitlines()
    return "\n".join(before), tuple(map(float, times.split()))


@pytest.mark.slow
@pytest.mark.parametrize(("key", "reason"), [(None, "No API key configured"), ("0123456789" * 4, "connection refused")])
def test_online_that_cannot_be_had_goes_on_offline_within_20_seconds(key, reason, prepared, tiny, tmp_path, offline):
    """On a terminal, where wandb would ask for a key and wait."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9", "TERM": "xterm"}
    if key:
        environment["WANDB_API_KEY"] = key
    _, (open_offline, finish_offline) = on_a_terminal([*tiny, "tracking=wandb", "seed=1"], environment)
    warning, (to_open, to_finish) = on_a_terminal([*tiny, "tracking=wandb", "tracking.mode=online"], environment)
    assert warning.startswith("tracking.mode=online failed and goes on offline")
    assert reason in warning
    # What wandb's own process takes to start depends on what else the machine does.
    assert to_open - open_offline < 20
    assert to_finish - finish_offline < 20
    _, folder = prepared("tracking=wandb")
    assert offline(folder.path).rows == rows(1)
