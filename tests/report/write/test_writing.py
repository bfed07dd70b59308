from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from nmtrain.report import ReportError, write_report


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_same_folders_give_the_same_bytes(sweep, report, tmp_path):
    result = write_report([sweep], tmp_path / "elsewhere" / "again")
    first, second = contents(report), contents(tmp_path / "elsewhere" / "again")
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert {path.relative_to(tmp_path / "elsewhere" / "again").as_posix() for path in result.paths} == set(second)
    assert (result.runs, result.counted) == (23, 21)


def test_no_machine_path_in_any_file(sweep, report):
    holding = [name for name, content in contents(report).items() if str(sweep).encode() in content]
    assert holding == []


def test_frames_hold_every_run(report):
    runs = pd.read_parquet(report / "frames" / "runs.parquet")
    assert len(runs) == 23
    assert set(runs["headline"]) == {"accuracy"}
    assert runs.loc[runs["folder"] == "sdgf_stepwise-1of8-s2", "quality"].item() == pytest.approx(0.846)
    assert runs.loc[runs["folder"] == "ste-1of8-s0", ["status", "reason"]].iloc[0].tolist() == [
        "failed",
        "loss is NaN at update 40 (see ste-1of8-s0/train.log)",
    ]
    same = pd.read_csv(report / "frames" / "runs.csv")
    assert list(same.columns) == list(runs.columns)
    assert set(pd.read_parquet(report / "frames" / "noise.parquet")["tensor"]) == {"mean"}


def test_markdown_holds_tables_figures_and_runs(report):
    text = (report / "report.md").read_text()
    assert "| pattern | dense | STE | SR-STE | MDGF exponential | SDGF stepwise |" in text
    assert "| 1:4 | 90.30 ± 0.75 (sd 0.30, n = 3) | – | **88.30 ± 0.75** (sd 0.30, n = 3) |" in text
    assert "| 1:8 | 90.30 ± 0.75 (sd 0.30, n = 3) | diverged ! (n = 0, 1 of 1 seeds diverged) |" in text
    assert "Not counted, failed: ste-1of8-s0 (loss is NaN at update 40 (see ste-1of8-s0/train.log))." in text
    figures = {line.split("](")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert len(figures) == 5
    assert all((report / figure).is_file() for figure in figures)


def test_training_flops_are_explained_under_every_table(report):
    for path in (report / "tables").glob("*.tex"):
        assert "hardware skipping every pruned weight would execute (1 MAC = 2 FLOPs)" in path.read_text(), path.name


def test_odd_runs_make_a_report_all_the_same(run, runs, tmp_path):
    """No finished evaluation, a NaN, one seed, no noise, no dense run: nothing of it stops a report."""
    run("sdgf", "1:4", accuracy=math.nan)
    run("novel", "1:8", variant="novel_thing")
    run("ste", "1:8", status="running", name="just-started")
    (runs / "just-started" / "metrics.jsonl").unlink()
    result = write_report([runs], tmp_path / "out")
    assert "novel_thing" in result.table
    assert (tmp_path / "out" / "report.html").is_file()


def test_runs_that_all_ended_in_a_nan_make_a_report(run, runs, tmp_path):
    for seed in range(2):
        run("sdgf", "1:4", seed, math.nan)
    write_report([runs], tmp_path / "out")
    assert "NaN ! (n = 0, 2 of 2 seeds NaN)" in (tmp_path / "out" / "report.md").read_text()


def test_a_report_without_a_finished_run_lists_what_there_is(run, runs, tmp_path):
    run(status="failed", reason="out of memory")
    result = write_report([runs], tmp_path / "out")
    assert (result.runs, result.counted) == (1, 0)
    assert "out of memory" in (tmp_path / "out" / "report.html").read_text()


def test_a_second_report_removes_what_only_the_first_wrote_and_nothing_else(run, runs, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere.txt"
    elsewhere.write_text("")
    for recipe in ("sr_ste", "sdgf"):
        run(recipe, "1:4", config={"data.name": "digits"}, name=f"digits-{recipe}")
        run(recipe, "1:4", name=f"glyphs-{recipe}")
    write_report([runs], out)
    (out / "figures" / "mine-on-digits.png").write_text("")
    with open(out / "files.txt", "a") as file:
        file.write("../elsewhere.txt\n")
    alone = tmp_path / "alone"
    alone.mkdir()
    for folder in runs.glob("glyphs-*"):
        folder.rename(alone / folder.name)
    result = write_report([alone], out)
    assert [name for name in contents(out) if "digits" in name] == ["figures/mine-on-digits.png"]
    assert set(result.paths) == {path for path in out.rglob("*") if path.is_file()} - {
        out / "figures/mine-on-digits.png"
    }
    assert elsewhere.exists()
    write_report([alone], tmp_path / "fresh")
    assert contents(tmp_path / "fresh") == {
        name: content for name, content in contents(out).items() if name != "figures/mine-on-digits.png"
    }


def test_an_error_writes_nothing(tmp_path):
    with pytest.raises(ReportError):
        write_report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("blocked", ["out", "out/figures", "out/frames"])
def test_a_place_that_cannot_be_written_is_told_in_one_line(run, runs, tmp_path, blocked):
    run()
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("mine")
    with pytest.raises(ReportError, match=rf"{blocked}\S*: cannot be written \(.*\); --out names another folder"):
        write_report([runs], tmp_path / "out")
    assert (tmp_path / blocked).read_text() == "mine"


def test_markdown_shows_names_as_they_are(run, runs, tmp_path):
    run(name="a_b *c* <i>d", commit="_e_|`f`")
    write_report([runs], tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert r"| a_b \*c\* \<i\>d |" in report
    assert r"0.1.0, commit \_e\_\|\`f\`" in report


def test_dense_runs_alone_have_their_noise_drawn(run, runs, tmp_path):
    lines = [{"update": u, "tensor": "mean", "pattern": None, "decay": 0.0, "grad_noise": 1 / u} for u in (20, 40)]
    run("dense", "1:8", noise=lines)
    run("dense", "1:8", 1, noise=lines[:1])
    write_report([runs], tmp_path / "out")
    (drawn,) = (tmp_path / "out" / "figures").glob("*-noise-1of8.csv")
    assert pd.read_csv(drawn)[["recipe", "n", "grad_noise"]].to_numpy().tolist() == [
        ["dense", 2, 0.05],
        ["dense", 1, 0.025],
    ]
    assert "over seeds (n = 1 to 2)" in (tmp_path / "out" / "report.md").read_text()


def test_report_needs_no_torch(sweep, tmp_path):
    """In a process of its own: this one has loaded torch for other tests."""
    code = (
        "import sys; from pathlib import Path; import nmtrain.report;"
        "heavy = {'pandas', 'matplotlib', 'scipy'} & set(sys.modules); assert not heavy, heavy;"
        "from nmtrain.report import closing_table; closing_table([Path(sys.argv[1])]);"
        "assert 'matplotlib' not in sys.modules;"
        "import nmtrain.report.write.writing; assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code, str(sweep)], check=True)


def test_a_folder_of_the_same_name_where_the_report_is_called_is_not_imported(run, runs, tmp_path):
    run("sr_ste", "1:4", 0, 0.7)
    (tmp_path / "nmtrain").mkdir()
    (tmp_path / "nmtrain" / "__init__.py").write_text("raise SystemExit('the wrong nmtrain')")
    command = "import sys; sys.path.pop(0); from nmtrain.cli import _main; sys.exit(_main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", command, "report", str(runs), "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()


def test_every_group_has_the_noise_of_its_sparsest_pattern_drawn(run, runs, tmp_path):
    for data, pattern in itertools.product(("digits", "glyphs", "letters"), ("1:4", "1:8")):
        lines = [{"update": 20, "tensor": "mean", "pattern": pattern, "decay": 0.0, "grad_noise": 0.5}]
        run("sdgf", pattern, name=f"{data}-{pattern[-1]}", noise=lines, config={"data.name": data})
    write_report([runs], tmp_path / "out")
    drawn = sorted(path.name for path in (tmp_path / "out" / "figures").glob("*noise*.csv"))
    assert drawn == [f"vit-on-{data}-ff-sparse-noise-1of8.csv" for data in ("digits", "glyphs", "letters")]
    assert (tmp_path / "out" / "report.md").read_text().count("Noise was also recorded at 1:4: see") == 3
