"""Reading back what the mirrors wrote, and the runs and folders that they mirror."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

_FILE_HEADER, _BLOCK, _HEADER = 7, 32 * 1024, 7


def _records(file: Path) -> Iterator:
    """The protobuf records of a .wandb file: a LevelDB log of blocks, whose records may be cut into several parts."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = file.read_bytes()
    assert content.startswith(b":W&B")
    at, whole = _FILE_HEADER, b""
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:  # padding
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)  # checksum, length, and 1 full, 2 first, 4 last part
        part = content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        whole = part if kind in (1, 2) else whole + part
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record


class _Offline:
    """What the only segment that a run folder has to upload would show there."""

    def __init__(self, run_folder: Path) -> None:
        (self.segment,) = (run_folder / "wandb").glob("offline-run-*")
        (file,) = self.segment.glob("*.wandb")
        self.rows: dict[int, dict] = {}
        self.summary: dict = {}
        self.config: dict = {}
        self.exit_code = None
        for record in _records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                assert record.history.step.num not in self.rows
                items = {item.key or "/".join(item.nested_key): item for item in record.history.item}
                self.rows[record.history.step.num] = {
                    key: json.loads(item.value_json)
                    for key, item in items.items()
                    if not key.startswith(("_", "summary"))
                }
            elif kind == "summary":
                for item in record.summary.update:
                    self.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    @property
    def table(self) -> dict[str, float]:
        (file,) = (self.segment / "files" / "media" / "html").glob("summary*.html")
        cells = re.findall("<tr><td>(.*)</td><td>(.*)</td></tr>", file.read_text())
        return {name: float(value) for name, value in cells}


class WandbServer(BaseHTTPRequestHandler):
    """As much of a wandb server as lets a run begin."""

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer = {}
        if "RunResumeStatus" in asked:
            answer = {"model": None}
        elif "upsertBucket" in asked:
            project = {"id": "p", "name": "nmtrain", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": "b", "displayName": "b", "config": "{}", "project": project}
            answer = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        content = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def offline() -> Callable:
    """Reads the wandb segment of a run folder; fails if there are several, or a step is in it twice."""
    return _Offline


@pytest.fixture
def truth() -> Callable:
    """What mirrors must show of a run folder, from the files that are the truth: update, name, value."""

    def read(run_folder: Path) -> dict[int, dict[str, float]]:
        rows: dict[int, dict[str, float]] = {}
        lines = "".join((run_folder / name).read_text() for name in ("metrics.jsonl", "noise.jsonl"))
        for line in lines.splitlines():
            record = json.loads(line)
            if record.get("tensor", "mean") == "mean":
                row = rows.setdefault(record["update"], {})
                for name, value in record.items():
                    if name not in ("update", "split", "tensor", "sparsity", "pattern") and value is not None:
                        row[f"{record.get('split', 'noise')}/{name}"] = value
        return rows

    return read


@pytest.fixture
def die_in_update(monkeypatch) -> Callable:
    """Runs a config that fails in an update, some lines after its last checkpoint."""
    from nmtrain.training import loop
    from nmtrain.training import run as run_module

    def die(config, update: int) -> None:
        class Doomed(loop.Trainer):
            def update(self, number):
                if number == update:
                    raise RuntimeError("doomed")
                return super().update(number)

        with monkeypatch.context() as patch:
            patch.setattr(run_module, "Trainer", Doomed)
            with pytest.raises(loop.TrainingError, match="doomed"):
                run_module.run(config)

    return die


@pytest.fixture
def prepared(make_config) -> Callable:
    """A config and its run folder, without a run in it."""
    from nmtrain.runs.folder import RunFolder

    def prepare(*overrides: str):
        config = make_config(*overrides)
        folder = RunFolder(config.run_folder)
        folder.prepare()
        return config, folder

    return prepare
