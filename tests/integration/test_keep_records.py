"""Published records: small, without weights, and neither reports nor sweeps miss anything."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "keep_records.py"


def test_records_of_training_are_thinned_once_and_evaluations_and_phases_stay():
    thinned = runpy.run_path(str(SCRIPT))["thinned"]
    lines = []
    for update in range(10, 1001, 10):
        lines.append(json.dumps({"update": update, "split": "train", "phase": int(update > 530)}))
        if update % 250 == 0:
            lines.append(json.dumps({"update": update, "split": "val", "loss": 1.0}))
    kept = list(thinned(lines, updates=2000))  # a line every 40 updates
    updates = {split: [r["update"] for r in map(json.loads, kept) if r["split"] == split] for split in ("train", "val")}
    assert updates["val"] == [250, 500, 750, 1000]
    assert updates["train"] == [10, *range(50, 531, 40), *range(540, 1001, 40)]
    assert list(thinned(kept, updates=2000)) == kept


@pytest.mark.slow
def test_kept_records_give_the_same_report_and_no_run_trains_again(nm, tiny, tmp_path):
    line = ["-m", *tiny, "recipe=dense,sr_ste", "seed=0,1", "measure.every=4", "tune={optim.lr:[1e-3,3e-3]}"]
    assert nm(*line)[0] == 0
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    cut_off = next(runs.glob("*sr_ste-s0-*"))
    before = (cut_off / "status.json").read_text()
    (cut_off / "status.json").write_text('{"state": "preempted", "reason": null}')
    subprocess.run([sys.executable, SCRIPT, runs, kept], check=True)
    assert len(list(kept.glob("*/status.json"))) == 7  # 4 that tried a rate, 3 of 4 final ones
    (cut_off / "status.json").write_text(before)
    subprocess.run([sys.executable, SCRIPT, runs, kept], check=True)
    assert not list(kept.rglob("*.safetensors")) + list(kept.rglob("*.pt"))
    noise = [json.loads(text) for text in (kept / cut_off.name / "noise.jsonl").read_text().splitlines()]
    assert [record["update"] for record in noise] == [4, 8, 12]
    assert {record["tensor"] for record in noise} == {"mean"}

    diverged = next(runs.glob("*sr_ste-s1-*"))
    (diverged / "summary.json").unlink()
    (diverged / "status.json").write_text('{"state": "failed", "reason": "the training loss is nan (updates 1 to 4)"}')
    shutil.rmtree(kept / diverged.name)
    assert nm("eval", str(cut_off), "data.evaluate=test")[0] == 0
    subprocess.run([sys.executable, SCRIPT, runs, kept], check=True)
    assert (kept / cut_off.name / "test" / "metrics.json").exists()
    reports = []
    for folder in (runs, kept):
        assert nm("report", str(folder), "--out", str(tmp_path / "report"))[0] == 0
        reports.append((tmp_path / "report" / "report.md").read_text().replace(str(folder), "FOLDER"))
        shutil.rmtree(tmp_path / "report")
    incomplete = [line for line in reports[0].splitlines() if line.startswith("- The sweep ")]
    assert len(incomplete) == 1
    assert [line for line in reports[0].splitlines() if line not in incomplete] == reports[1].splitlines()
    assert "1 of 2 seeds diverged" in reports[1]
    status, out, _ = nm(*[f"results_dir={kept}" if part.startswith("results_dir=") else part for part in line])
    assert status == 0
    assert out.count("is finished already") == 7
