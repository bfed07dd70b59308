import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import datasets
import pytest
from huggingface_hub import constants

from nmtrain.data.hub import load_from_hub, require_hub
from nmtrain.errors import DataError


@pytest.fixture
def server(monkeypatch):
    """A hub that answers every question with the status that is asked of it, and counts them."""

    class Handler(BaseHTTPRequestHandler):
        status, asked = 200, 0

        def do_HEAD(self):
            Handler.asked += 1
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield Handler
    running.shutdown()
    thread.join()
    running.server_close()


def refusal() -> str:
    with pytest.raises(DataError) as raised:
        require_hub("data=glue", "data.path=FOLDER")
    assert raised.value.exit_status == 2
    message = str(raised.value)
    assert message.startswith("data=glue is not on this machine, and ")
    assert message.endswith("Where there is a local copy, give data.path=FOLDER")
    assert "\n" not in message
    return message


def test_a_hub_that_answers_is_enough(server):
    require_hub("data=glue", "data.path=FOLDER")
    assert server.asked == 1


def test_a_hub_that_fails_is_told_with_its_address(server):
    server.status = 503
    assert f"the Hugging Face hub at {constants.ENDPOINT} cannot be reached (status 503)" in refusal()


def test_no_hub_is_told_at_once(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    begin = time.monotonic()
    assert "http://127.0.0.1:9 cannot be reached (" in refusal()
    assert time.monotonic() - begin < 5


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch, server):
    monkeypatch.setattr("nmtrain.data.hub.PATIENCE", 0.2)
    monkeypatch.setattr(server, "do_HEAD", lambda handler: time.sleep(1))
    begin = time.monotonic()
    message = refusal()
    assert "cannot be reached (no answer within 0.2 s)" in message or "imeout" in message
    assert time.monotonic() - begin < 0.9


def test_offline_mode_asks_nobody(monkeypatch, server):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refusal()
    assert server.asked == 0


def test_what_the_machine_has_is_loaded_without_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    datasets.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(tmp_path / "train.parquet")
    built = datasets.load_dataset_builder(
        "parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=str(tmp_path)
    )
    built.download_and_prepare(str(tmp_path / "somebody___some_set" / "small" / "0.0.0" / "abc"))
    for file in (tmp_path / "somebody___some_set").rglob("*.arrow"):
        file.rename(file.with_name(file.name.replace("parquet-", "some_set-")))
    info = tmp_path / "somebody___some_set" / "small" / "0.0.0" / "abc" / "dataset_info.json"
    info.write_text(info.read_text().replace('"parquet"', '"some_set"').replace('"default"', '"small"'))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    loaded = load_from_hub("somebody/some_set", "small", "data=test", str(tmp_path))
    assert loaded["train"]["text"][:] == ["a", "b"]
    assert datasets.config.HF_HUB_OFFLINE is False
    with pytest.raises(DataError, match="data=test is not on this machine"):
        load_from_hub("somebody/other_set", "small", "data=test", str(tmp_path))
    assert datasets.config.HF_HUB_OFFLINE is False
