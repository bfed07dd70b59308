"""Runs that started from others (`init_from`): which of them are one cell."""

from __future__ import annotations

import json
import shutil

import pytest

from nmtrain.report.compare.quality import quality_table
from nmtrain.report.compare.sections import build_sections
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames


def cells(folder):
    """The column and the text of every number in the tables of a report on a folder."""
    groups = [group for section in build_sections(build_frames(read_runs([folder]))) for group in section.groups]
    found = []
    for table in (quality_table(group, "") for group in groups):
        for row in table.rows:
            found += [(head, cell.text) for head, cell in zip(table.head, row, strict=True)]
    return found


@pytest.fixture
def from_dense(run, tmp_path):
    """Two seeds of a sparse run, each from the dense run of its seed, which lie ``below`` and may differ."""

    def make(below="runs", **changes):
        for seed in (0, 1):
            config = {f"train.{key}": values[seed] for key, values in changes.items()}
            start = run("dense", seed=seed, accuracy=0.9, name=f"dense-s{seed}", config=config)
            started = tmp_path / below / start.name
            if below != "runs":
                started.parent.mkdir(exist_ok=True)
                shutil.move(start, started)
            run("static", seed=seed, accuracy=0.7 + 0.1 * seed, config={"init_from": str(started)})

    return make


@pytest.mark.parametrize("below", ["runs", "elsewhere"])
def test_seeds_that_each_started_from_their_own_dense_run_are_averaged(from_dense, runs, below):
    from_dense(below)
    assert ("static", "75.00 ± 63.53") in cells(runs)


def test_a_sweep_that_moved_with_its_dense_runs_is_what_it_was(from_dense, runs, tmp_path):
    from_dense()
    runs.rename(tmp_path / "moved")
    assert ("static", "75.00 ± 63.53") in cells(tmp_path / "moved")


def test_seeds_that_started_from_dense_runs_of_other_settings_are_not(from_dense, runs):
    from_dense(epochs=(3.0, 6.0))
    found = [text for head, text in cells(runs) if head == "static"]
    assert sorted(found) == ["70.00", "80.00"]


def test_where_the_dense_runs_are_gone_their_names_tell_runs_apart(from_dense, runs, tmp_path):
    from_dense("elsewhere")
    shutil.rmtree(tmp_path / "elsewhere")
    found = [text for head, text in cells(runs) if head == "static"]
    assert sorted(found) == ["70.00", "80.00"]


def titles(folder):
    return [section.title for section in build_sections(build_frames(read_runs([folder])))]


def test_titles_name_the_run_or_the_kind_of_several(from_dense, runs):
    from_dense()
    assert [title for title in titles(runs) if "(init_from=vit-glyphs-dense-" in title]
    shutil.rmtree(next(runs.glob("static-*-s1")))
    assert [title for title in titles(runs) if "(init_from=dense-s0)" in title]


def test_one_run_that_was_scored_on_test_is_of_the_kind_that_it_was(from_dense, runs):
    from_dense()
    content = {"run": "dense-s0", "split": "test", "headline": "accuracy", "metrics": {"test/accuracy": 0.8}}
    content["data"] = {"name": "glyphs", "evaluate": "test", "test_size": 77}
    (runs / "dense-s0" / "test").mkdir()
    (runs / "dense-s0" / "test" / "metrics.json").write_text(json.dumps(content))
    assert ("static", "75.00 ± 63.53") in cells(runs)
