"""Several processes that come to one folder at once, as the jobs of an array do."""

import json
import multiprocessing

from nmtrain.runs.folder import RunFolder
from nmtrain.runs.whole import write_beside_runs


def _come(folder, times):
    for _ in range(times):
        RunFolder(folder / "run").prepare()
        write_beside_runs(folder / "sweeps" / "line.json", {"runs": ["run"]})


def test_none_is_told_that_the_folder_cannot_be_written(tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_come, args=(tmp_path, 150)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert json.loads((tmp_path / "sweeps" / "line.json").read_text()) == {"runs": ["run"]}
    assert [path.name for path in (tmp_path / "sweeps").iterdir()] == ["line.json"]
