"""Shared by tests of several processes: two of them on this machine, and what their runs came to."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pair:
    """Two processes that do jobs (see one_rank.py) together."""

    def __init__(self, folder: Path, jobs: list[dict]) -> None:
        self.file, self._count = folder / "jobs.json", len(jobs)
        self.file.write_text(json.dumps(jobs))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.processes = [
            subprocess.Popen(
                [sys.executable, Path(__file__).with_name("one_rank.py"), self.file],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]

    def ended(self, timeout: float = 1800) -> tuple[list[int], list[str]]:
        """Exit status and standard error of both."""
        try:
            errors = [process.communicate(timeout=timeout)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], errors

    def outcomes(self) -> list[list[dict]]:
        """What came of each job, by rank."""
        status, errors = self.ended()
        assert status == [0, 0], errors
        return [[self.outcome(number, rank) for rank in range(2)] for number in range(self._count)]

    def outcome(self, number: int, rank: int) -> dict:
        return json.loads(Path(f"{self.file}.{number}.{rank}").read_text())


@pytest.fixture
def pair(tmp_path):
    """Start two processes with jobs."""
    started = []

    def start(*jobs: dict) -> Pair:
        started.append(Pair(tmp_path, list(jobs)))
        return started[-1]

    yield start
    for one in started:
        for process in one.processes:
            process.kill()


def records(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
