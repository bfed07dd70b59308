from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import yaml

from nmtrain.report.read.folders import ReportError, find_run_folders, read_run, read_runs
from nmtrain.report.read.records import read_metrics, read_noise


def test_runs_are_found_below_and_once(run, runs, tmp_path):
    first = run(name="a/b/one")
    second = run(name="two")
    (second / "checkpoints").mkdir()
    assert find_run_folders([tmp_path, runs, second]) == [first, second]


@pytest.mark.parametrize("lost", ["config.yaml", "status.json"])
def test_a_run_that_lost_a_file_is_listed(run, runs, lost):
    (run() / lost).unlink()
    run(seed=1)
    found = read_runs([runs])
    assert [(folder.status, folder.reason) for folder in found] == [
        ("unreadable", f"{lost}: No such file or directory"),
        ("finished", None),
    ]


def test_a_run_killed_before_it_wrote_its_config_is_listed(runs):
    (runs / "early").mkdir(parents=True)
    (runs / "early" / "status.json").write_text('{"state": "running", "reason": null}')
    assert read_runs([runs])[0].reason == "config.yaml: No such file or directory"


def test_linked_runs_are_found_once_and_links_that_lead_back_end(run, tmp_path, monkeypatch):
    folder = run()
    links = tmp_path / "links"
    links.mkdir()
    (links / "one").symlink_to(folder)
    (links / "two").symlink_to(folder.parent)
    (links / "back").symlink_to(links)
    scandir, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    assert find_run_folders([links]) == [folder]
    assert len(listed) < 10  # without an end of its own, a walk goes round until the system refuses


def test_a_folder_that_cannot_be_listed_is_refused(run, runs, monkeypatch):
    run()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):  # as root, who runs tests in containers, may list everything
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    (runs / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(ReportError, match=r"locked: cannot be listed \(Permission denied\)"):
        find_run_folders([runs])


def test_no_runs_is_one_plain_message(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(ReportError, match=r"^no run folder found: searched .* with config.yaml and status.json$"):
        read_runs([tmp_path])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ReportError, match=r"no such folder: .*absent"):
        read_runs([tmp_path / "absent"])


def test_mixed_schemas_are_refused_by_folder(run, runs):
    run(name="old")
    run(name="new", schema=2)
    with pytest.raises(ReportError, match=r"reads schema 1 only, but found schema 1: old; schema 2: new"):
        read_runs([runs])


def test_half_written_last_line_is_dropped_and_counted(run):
    metrics = read_run(run(metrics_tail='{"update": 300, "spl')).metrics
    assert metrics is not None
    assert metrics.dropped == [metrics.lines]
    assert metrics.lines == 17  # 15 training lines, the final one, the broken one


def test_half_written_line_in_the_middle_is_not_mistaken_for_a_record(tmp_path):
    line = json.dumps({"update": 2, "split": "train", "pattern": "1:4", "decay": 0.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1, "split": "train", "pat' + line + "\n" + line + "\n")
    metrics = read_metrics(path, "1:4")
    assert metrics.dropped == [1]
    assert metrics.strict_from == 2


def test_other_json_spelling_is_read_alike(tmp_path):
    records = [{"update": u, "split": "train", "pattern": "1:4", "decay": 0.0 if u > 1 else 0.5} for u in range(4)]
    records.append({"update": 4, "split": "val", "accuracy": 0.5})
    wide, compact = tmp_path / "wide.jsonl", tmp_path / "compact.jsonl"
    wide.write_text("".join(json.dumps(record) + "\n" for record in records))
    compact.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records))
    assert read_metrics(wide, "1:4") == read_metrics(compact, "1:4")
    assert read_metrics(wide, "1:4").strict_from == 2
    assert read_metrics(wide, "1:4").points == records[-1:]


def test_evaluations_between_training_lines_do_not_hide_when_the_pattern_was_reached(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for reached in range(20):
        lines = []
        for update in range(20):
            schedule = {"pattern": "1:4", "decay": 0.0 if update >= reached else 0.5}
            lines.append({"update": update, "split": "train"} | schedule)
            if update % 3:
                lines.append({"update": update, "split": "val", "accuracy": update / 20})
        lines.append({"update": 20, "split": "final", "accuracy": 1.0})
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        metrics = read_metrics(path, "1:4")
        assert metrics.strict_from == reached
        assert [point["update"] for point in metrics.points] == [u for u in range(20) if u % 3] + [20]
        assert (metrics.lines, metrics.dropped) == (len(lines), [])


def test_of_strict_stretches_the_last_one_counts(tmp_path):
    """AC/DC's dense and sparse stretches alternate; D of 0.05 begins as 0.0 is spelled."""
    path = tmp_path / "metrics.jsonl"
    stretches = [(None, 0.0), ("1:4", 0.0), (None, 0.0), ("1:4", 0.05), ("1:4", 0.0)]
    records = [{"split": "train", "pattern": pattern, "decay": decay} for pattern, decay in stretches for _ in range(9)]
    for length, reached in ((45, 36), (18, 9), (27, None)):
        path.write_text("".join(json.dumps({"update": u} | r) + "\n" for u, r in enumerate(records[:length])))
        assert read_metrics(path, "1:4").strict_from == reached


def test_an_empty_file_and_one_without_a_whole_line_are_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for content, lines, dropped in (("", 0, []), ('{"update": 1, "spl', 1, [1]), ("\n", 1, [1])):
        path.write_text(content)
        metrics = read_metrics(path, "1:4")
        assert (metrics.points, metrics.lines, metrics.dropped) == ([], lines, dropped)
        assert metrics.strict_from is None


def test_run_that_never_reached_its_pattern(run):
    metrics = read_run(run(strict_from=10_000)).metrics
    assert metrics is not None
    assert metrics.strict_from is None


def test_nan_lines_are_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"update": 1, "split": "train", "loss": NaN}\n{"update": 2, "split": "val", "accuracy": Infinity}\n'
    )
    assert read_metrics(path, None).not_finite == 2


def test_noise_keeps_only_the_average_over_tensors(tmp_path):
    path = tmp_path / "noise.jsonl"
    lines = [
        {"update": u, "tensor": tensor, "sad": u} for u in (0, 10) for tensor in ("blocks.0.fc1", "role:ff", "mean")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"update": 20, "ten')
    noise = read_noise(path)
    assert [(point["update"], point["tensor"]) for point in noise.points] == [(0, "mean"), (10, "mean")]
    assert noise.dropped == [7]


def test_half_written_average_is_dropped(tmp_path):
    path = tmp_path / "noise.jsonl"
    path.write_text('{"update": 0, "tensor": "mean", "sad": 1}\n{"update": 5, "tensor": "mean", "sa')
    assert read_noise(path).dropped == [2]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("summary.json", "{", "summary.json: Expecting property name"),
        ("summary.json", '{"schema": 1, "run": "a"}', "summary.json: lacks model, data, sparsity"),
        ("summary.json", "[]", "summary.json: is not a JSON object"),
        ("summary.json", {"seconds": {"total": 1}}, "summary.json: lacks seconds.train, seconds.eval, seconds.data"),
        (
            "summary.json",
            {"seconds": {"total": 1, "train": None, "eval": 1, "data": 0}},
            "summary.json: seconds.train = null: must be a number",
        ),
        ("summary.json", {"updates": 0}, "summary.json: updates = 0: must be at least 1"),
        ("config.yaml", {"seed": None}, "config.yaml: seed = None: must be an integer"),
        ("config.yaml", {"mask": {"roles": ["q"], "patterns": {"q": 64}}}, "config.yaml: 64 is what YAML reads from"),
        ("config.yaml", "a: [", "config.yaml: while parsing"),
        ("config.yaml", "seed: 1", "config.yaml: lacks model.name"),
        ("status.json", "{}", "status.json: lacks 'state'"),
    ],
)
def test_what_cannot_be_read_is_said(run, file, content, reason):
    """``content``: the whole file, or what is changed in it."""
    folder: Path = run()
    if isinstance(content, dict):
        content = json.dumps(yaml.safe_load((folder / file).read_text()) | content)
    (folder / file).write_text(content)
    found = read_run(folder)
    assert found.status == "unreadable"
    assert found.reason is not None
    assert found.reason.startswith(reason)


def test_finished_run_without_summary_is_unreadable(run):
    folder: Path = run()
    (folder / "summary.json").unlink()
    assert read_run(folder).reason == "summary.json: No such file or directory"


def test_unquoted_pattern_in_a_config_is_refused(run):
    folder: Path = run()
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("sparsity: '1:4'", "sparsity: 1:4").replace('"1:4"', "1:4"))
    assert "64" in str(read_run(folder).reason)


@pytest.mark.parametrize(
    "layout",
    [
        "{config}",
        "# written by hand\n---\n{config}",
        "{config}notes: &words [a, b]\nmore: *words\n",
        "{config}notes: [a,\nb]\n",
        "{config}notes: |\n  seed: 7\n  # no comment\n",
        "{config}notes: 'first\n\n  seed: 7'\nlist:\n- model: 1\n- 2\n",
        "{config}seed: 8\n",
        "{config}'quoted': 1\nnothing:\n",
    ],
)
def test_config_reads_as_yaml_does_in_any_layout(run, layout):
    folder = run()
    content = layout.format(config=(folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(content)
    assert read_run(folder).config == yaml.safe_load(content)


def test_config_in_flow_style_is_read(run):
    folder = run()
    content = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(content, default_flow_style=True, width=40))
    assert read_run(folder).config == content


def test_processes_that_help_change_neither_what_is_read_nor_its_order(run, runs):
    for seed in range(70):
        run("sr_ste", "1:4", seed, seed / 100)
    alone = read_runs([runs])
    assert [folder.path for folder in alone] == find_run_folders([runs])
    with ThreadPoolExecutor(2) as pool:
        assert read_runs([runs], pool) == alone
    with ThreadPoolExecutor(1) as busy:  # nothing is ever begun there
        release = Event()
        busy.submit(release.wait)
        assert read_runs([runs], busy) == alone
        release.set()
