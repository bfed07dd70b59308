"""Processes that die or hang beside a run: it ends well, or in one plain message, and goes on to the same weights."""

import json
import os
import re
import signal
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from nmtrain.training.run import run
from tests.integration.commands import LINE, assert_equal, ended, start, updates, wait_for
from tests.tracking.conftest import WandbServer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _warm(make_config):
    run(make_config("train.updates=1", "measure=off"))  # what a process does once


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of small JPEGs of two brightnesses."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 4)):
        for name, brightness in (("dark", 60), ("light", 190)):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.normal(brightness, 60, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.jpg")
    return tmp_path / "photos"


def test_a_reader_that_is_killed_ends_the_run_in_one_message_and_the_same_command_goes_on(photos, tmp_path):
    line = ["data=folder", f"data.path={photos}", "data.workers=2", "model=vit", "sparsity=1:8", "train.batch_size=16"]
    line += ["model.options.depth=1", "model.options.embed_dim=64", "train.updates=60", "train.eval_every=8"]
    line += ["train.checkpoint_every=7", "train.log_every=1", "measure=off", "train.device=cpu"]
    whole, results, out = tmp_path / "whole", tmp_path / "killed", tmp_path / "out"
    assert ended(start([*line, f"results_dir={whole}"], out)) == 0, out.read_text()
    line += [f"results_dir={results}"]
    for count in (5, 20, 35):
        out.unlink()
        process = start(line, out)
        wait_for(lambda count=count: updates(results) >= count, process, out)
        readers = psutil.Process(process.pid).children()
        assert len(readers) in (2, 4)  # of training, and of evaluations once there was one
        readers[count % 2].kill()
        assert ended(process) == 1, out.read_text()
        told = out.read_text()
        assert re.fullmatch(
            r"failed: a process that reads images ended \((DataLoader worker .*|.*[Cc]onnection .*)\);"
            " if memory ran out, lower data.workers; 0 does without",
            told.splitlines()[-1],
        )
        assert "Traceback" not in told
        assert not [reader for reader in readers if reader.is_running() and reader.status() != "zombie"]
    assert ended(start(line, out)) == 0, out.read_text()
    assert_equal(whole, results)


class Hanging(WandbServer):
    """A server of wandb that takes requests and answers none once ``hangs`` is set."""

    hangs, over = threading.Event(), threading.Event()

    def do_POST(self):
        if self.hangs.is_set():
            self.over.wait()
        else:
            super().do_POST()


@pytest.fixture
def server(monkeypatch):
    for event in (Hanging.hangs, Hanging.over):
        event.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hanging) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        yield Hanging
        Hanging.over.set()
        server.shutdown()


@pytest.mark.parametrize("after", [0, 20])
def test_a_wandb_server_that_hangs_holds_a_run_for_half_a_minute_at_most(after, server, tmp_path):
    """From the first request, or from some update on."""
    out, results = tmp_path / "out", tmp_path / "mirrored"
    began = time.monotonic()
    assert ended(start([*LINE, f"results_dir={tmp_path}/whole"], out)) == 0, out.read_text()
    undisturbed, began = time.monotonic() - began, time.monotonic()
    out.unlink()
    if not after:
        server.hangs.set()
    process = start([*LINE, f"results_dir={results}", "tracking=wandb", "tracking.mode=online"], out)
    wait_for(lambda: updates(results) >= after, process, out)
    server.hangs.set()
    assert ended(process) == 0, out.read_text()
    longer = time.monotonic() - began - undisturbed
    print(f"{longer:.0f} s longer")
    assert longer < 45
    assert_equal(tmp_path / "whole", results)
    (folder,) = results.glob("vit-*")
    (warning,) = [line for line in out.read_text().splitlines() if line.startswith("tracking")]
    if after:
        assert warning.startswith("tracking=wandb failed and is off for the rest of this run, whose own files go on (")
    else:
        told = f"tracking.mode=online failed and goes on offline, to upload later with wandb sync {folder}/wandb ("
        assert warning.startswith(told)
        assert list((folder / "wandb").glob("offline-run-*/*.wandb"))


TOGETHER = [*LINE, "launch.processes=2", "train.updates=60"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results folder of a run of two processes that went well."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert ended(start([*TOGETHER, f"results_dir={folder}/runs"], folder / "out")) == 0, (folder / "out").read_text()
    return folder / "runs"


def ranks(process) -> dict[int, psutil.Process]:
    """The two processes of a run, by rank."""
    found = psutil.Process(process.pid).children(recursive=True)
    return {int(one.environ()["RANK"]): one for one in found if "nmtrain.launch.rank" in one.cmdline()}


def status(results: Path) -> dict:
    (file,) = results.glob("*/status.json")
    return json.loads(file.read_text())


def gone(processes) -> bool:
    return all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in processes)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_within_a_minute_and_the_run_goes_on(killed, tmp_path, undisturbed):
    results, out = tmp_path / "results", tmp_path / "out"
    line = [*TOGETHER, f"results_dir={results}"]
    process = start(line, out)
    wait_for(lambda: updates(results) >= 15, process, out)
    both = ranks(process)
    both[killed].kill()
    began = time.monotonic()
    assert ended(process) == 1, out.read_text()
    assert time.monotonic() - began < 25
    assert gone(both.values())
    told = out.read_text()
    assert "Traceback" not in told
    reason = {
        0: "rank 0 ended with signal 9; the same command resumes",
        1: "rank 1: ended without a word, or its machine did: it was killed, or memory ran out (last seen at",
    }[killed]
    assert told.splitlines()[-1].startswith(f"failed: {reason}")
    assert status(results)["state"] == "failed"
    assert status(results)["reason"].startswith(reason)
    assert ended(start(line, out)) == 0, out.read_text()
    assert "resuming at update" in out.read_text()
    assert_equal(undisturbed, results)


def test_ranks_whose_parent_is_killed_end_within_a_minute(tmp_path):
    """In 100,000 updates: by themselves they would go on for long."""
    results, out = tmp_path / "results", tmp_path / "out"
    process = start([*TOGETHER, "train.updates=100000", f"results_dir={results}"], out)
    wait_for(lambda: updates(results) >= 15, process, out)
    both = ranks(process)
    process.kill()
    began = time.monotonic()
    while not gone(both.values()):
        assert time.monotonic() - began < 60
        time.sleep(0.1)
    assert status(results)["state"] == "failed"
    assert status(results)["reason"].startswith("rank 0: what the ranks share is gone, and the process that kept it (")


@pytest.mark.parametrize(
    ("name", "to_all"), [("SIGTERM", False), ("SIGINT", False), ("SIGUSR2", False), ("SIGTERM", True)]
)
def test_a_signal_to_who_started_the_ranks_saves_the_run_also_where_they_all_get_it(
    name, to_all, tmp_path, undisturbed
):
    """A cluster sends it to all processes, and the first passes it on once more."""
    results, out = tmp_path / "results", tmp_path / "out"
    line = [*TOGETHER, f"results_dir={results}"]
    process = start(line, out)
    wait_for(lambda: updates(results) >= 15, process, out)
    both = ranks(process)
    for pid in [*(one.pid for one in both.values() if to_all), process.pid]:
        os.kill(pid, signal.Signals[name])
    assert ended(process, 60) == 130, out.read_text()
    assert gone(both.values())
    told = out.read_text()
    assert "Traceback" not in told
    assert re.fullmatch(rf"stopped: {name} after update \d+ of 60; the same command resumes", told.splitlines()[-1])
    assert status(results)["state"] == "preempted"
    assert ended(start(line, out)) == 0, out.read_text()
    assert "resuming at update" in out.read_text()
    assert_equal(undisturbed, results)


def test_a_signal_before_the_ranks_have_met_stops_them_too(tmp_path):
    results, out = tmp_path / "results", tmp_path / "out"
    process = start([*TOGETHER, f"results_dir={results}"], out)
    wait_for(lambda: len(ranks(process)) == 2, process, out)
    both = ranks(process)
    os.kill(process.pid, signal.SIGTERM)
    assert ended(process, 60) == 130, out.read_text()
    assert out.read_text() == "stopped: SIGTERM; the same command resumes\n"
    assert gone(both.values())
