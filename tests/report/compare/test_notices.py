from __future__ import annotations

import json
import math

import pytest

from nmtrain.report import closing_table
from nmtrain.report.compare.notices import notices
from nmtrain.report.compare.run_list import run_list
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames

MEASURED = {"measure": {"every": 100, "window": 50}}


def noise(measurements):
    return [
        {"update": 100 * (number + 1), "tensor": "mean", "pattern": "1:4", "decay": 0.0, "sad": 1}
        for number in range(measurements)
    ]


@pytest.fixture
def said(runs):
    return lambda: notices(build_frames(read_runs([runs])).runs)


def test_every_run_that_does_not_count_is_named_with_its_reason(run, said):
    run(seed=0)
    run(seed=1, status="failed", reason="out of memory at update 7")
    run(seed=2, status="running")
    run(seed=3, status="preempted")
    broken = run(seed=4)
    (broken / "summary.json").write_text("{")
    assert said() == [
        "1 of 5 runs are finished and counted.",
        "Not counted, failed: sr_ste-1of4-s1 (out of memory at update 7).",
        "Not counted, were preempted and not resumed: sr_ste-1of4-s3.",
        "Not counted, still running, or were killed while running: sr_ste-1of4-s2.",
        "Not counted, could not be read: sr_ste-1of4-s4 (summary.json: Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)).",
    ]


def test_dropped_lines_and_nans_are_counted(run, said):
    run(seed=0, metrics_tail='{"upd')
    run(seed=1, accuracy=math.nan)
    assert said()[1:] == [
        "Lines of records that were broken off (a killed process leaves such) and dropped: 1, in sr_ste-1of4-s0.",
        "Lines of records that hold a NaN or an infinity: 1, in sr_ste-1of4-s1.",
        "Finished with a final validation accuracy that is NaN or missing: sr_ste-1of4-s1.",
    ]


def test_dense_runs_that_lack_the_mask_of_a_pattern_are_named(run, said):
    run("dense", "1:4", seed=0, config=MEASURED, noise=noise(3))
    both = MEASURED["measure"] | {"patterns": ["1:4", "1:8"]}
    run("dense", "1:4", seed=1, config={"measure": both}, noise=2 * noise(3))
    run("dense", "1:4", seed=2, config={"measure": both}, noise=noise(3))
    for pattern in ("1:4", "1:8"):
        run("sr_ste", pattern, config=MEASURED, noise=noise(3))
    assert said()[1:] == [
        "Counted, but lacking 3 noise measurements that their configs ask for: dense-dense-s2.",
        "Dense, and without noise by the masks of 1:8, which others beside them have (measure.patterns=[1:4,1:8] "
        "force=true repeats them): dense-dense-s0.",
    ]


def test_same_config_different_code_is_shown(run, said):
    run(seed=0, commit="v0.1.0-3-gaaaaaaa")
    run(seed=1, commit="bbbbbbb-dirty")
    assert said()[1:] == [
        "Trained by 2 versions of the code: 0.1.0, commit bbbbbbb-dirty (1 runs); "
        "0.1.0, commit v0.1.0-3-gaaaaaaa (1 runs).",
        "Same config, different code versions (vit glyphs 1:4 SR-STE): 0.1.0, commit bbbbbbb-dirty: sr_ste-1of4-s1; "
        "0.1.0, commit v0.1.0-3-gaaaaaaa: sr_ste-1of4-s0.",
    ]


def test_a_run_resumed_with_other_code_says_both(run, said):
    folder = run()
    environment = json.loads((folder / "environment.json").read_text())
    before = [environment | {"git_commit": commit} for commit in ("aaaa", "bbbb")]
    (folder / "environment.json").write_text(json.dumps(environment | {"git_commit": "bbbb", "before": before}))
    run(seed=1, commit="bbbb")
    found = "\n".join(said())
    assert "0.1.0, commit aaaa, then 0.1.0, commit bbbb (1 runs); 0.1.0, commit bbbb (1 runs)" in found
    assert "Same config, different code versions" in found


def test_counted_runs_without_records_are_named(run, said):
    full, empty = run(seed=0, config=MEASURED, noise=noise(3)), run(seed=1, config=MEASURED, noise=noise(1))
    (empty / "metrics.jsonl").write_text("")
    found = said()
    assert f"Counted, but without lines in metrics.jsonl, and so in no curve: {empty.name}." in found
    assert f"Counted, but lacking 2 noise measurements that their configs ask for: {empty.name}." in found
    (full / "noise.jsonl").unlink()
    assert f"lacking 5 noise measurements that their configs ask for: {full.name}, {empty.name}." in "\n".join(said())


def test_an_evaluation_that_is_null_counts_as_not_finite(run, said):
    run(curve=[(100, None), (200, math.nan), (300, 0.5)])
    assert "Lines of records that hold a NaN or an infinity: 2, in sr_ste-1of4-s0." in said()


def test_a_reason_of_several_lines_is_told_in_one(run, said):
    run(status="failed", reason="mat1 and mat2\ncannot be multiplied\n")
    assert said()[1].endswith("(mat1 and mat2 cannot be multiplied).")


def test_repeated_seed_is_shown(run, said):
    run(seed=0, name="a")
    run(seed=0, name="b")
    assert said()[1:] == ["The same seed was run more than once (vit glyphs 1:4 SR-STE) and counts once: a, b."]


def test_run_list_holds_every_folder_once_and_those_that_do_not_count_last(run, runs):
    run("sdgf", "1:4", seed=1)
    run("sdgf", "1:4", seed=0)
    run("dense", "1:4", seed=0)
    run("sr_ste", "1:4", seed=0, status="failed", reason="a reason")
    run("mdgf", "1:4", seed=0, status="running")
    listed = run_list(build_frames(read_runs([runs])).runs)
    assert [row[0].text for row in listed.table.rows] == [
        "dense-dense-s0",
        "sr_ste-1of4-s0",  # lost, but of a cell
        "sdgf_stepwise-1of4-s0",
        "sdgf_stepwise-1of4-s1",
        "mdgf_exponential-1of4-s0",
    ]
    assert listed.cells[2] == listed.cells[3] != listed.cells[0]
    assert listed.cells[4] is None
    assert listed.table.rows[1][5].text == "failed: a reason"


def test_closing_table_holds_accuracy_and_notices(run, runs):
    run(seed=0, accuracy=0.7)
    run(seed=1, status="failed", reason="out of memory")
    text = closing_table([runs])
    assert "1:4      70.00 !" in text
    assert "n = 1, 1 of 2 seeds failed" in text
    assert text.endswith("Not counted, failed: sr_ste-1of4-s1 (out of memory).")


def test_a_sweep_without_a_finished_run_still_has_a_closing_table(run, runs):
    run(status="failed", reason="out of memory")
    assert closing_table([runs]).splitlines() == [
        "0 of 1 runs are finished and counted.",
        "Not counted, failed: sr_ste-1of4-s0 (out of memory).",
    ]
