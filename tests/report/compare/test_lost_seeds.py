"""Seeds whose run failed are missing from their cell: seen, marked and not ranked, in every table."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from nmtrain.report import closing_table, write_report
from nmtrain.report.compare.advice import advice
from nmtrain.report.compare.cost import cost_table
from nmtrain.report.compare.equal_flops import equal_flops_table
from nmtrain.report.compare.glue_average import glue_tables
from nmtrain.report.compare.quality import difference_table, quality_table
from nmtrain.report.compare.run_list import run_list
from nmtrain.report.compare.sections import build_sections
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames

DIVERGED = {
    "status": "failed",
    "reason": "the training loss is nan (updates 21 to 40); the last checkpoint is from before. A lower optim.lr or a "
    "longer optim.warmup_fraction often helps",
}
DISK_FULL = {"status": "failed", "reason": "/runs/a: No space left on device. Nothing already written is lost"}


@pytest.fixture
def one_lost(run):
    """SDGF with 80 and 81 % and a third seed that diverged, SR-STE with 70, 70.5 and 71 %."""
    for seed, accuracy in enumerate([0.70, 0.705, 0.71]):
        run("sr_ste", "1:8", seed, accuracy)
    for seed, accuracy in enumerate([0.80, 0.81]):
        run("sdgf", "1:8", seed, accuracy)
    run("sdgf", "1:8", 2, **DIVERGED)


def group_of(sections):
    ((group,),) = (section.groups for section in sections())
    return group


def row_of(table, *, row=0):
    return dict(zip(table.head, table.rows[row], strict=True))


def test_a_diverged_seed_is_marked_and_its_cell_is_not_ranked(one_lost, table):
    cell = table()["1:8", "SDGF stepwise"]
    assert (cell.text, cell.detail) == ("80.50 ± 6.35", "sd 0.71, n = 2, 1 of 3 seeds diverged")
    assert (cell.best, cell.marks) == (False, "!")
    assert table()["1:8", "SR-STE"].best


def test_the_advice_leaves_it_out_and_says_why(one_lost, sections):
    (said,) = advice(group_of(sections))
    assert said.text.endswith(
        "only SR-STE lost no seed (n = 3); there is nothing to compare it with. "
        "Left out: SDGF stepwise (1 of 3 seeds diverged)."
    )


def test_a_difference_with_a_lost_seed_says_so_and_is_not_bold(one_lost, sections):
    cell = row_of(difference_table(group_of(sections), ""))["SDGF stepwise"]
    assert (cell.text, cell.detail) == ("+10.25 ± 3.18", "p = 0.016, n = 2 pairs, 1 of 3 seeds diverged")
    assert (cell.best, cell.marks) == (False, "!")


def test_a_reference_that_lost_a_seed_is_named_in_the_difference(run, sections):
    for seed in range(2):
        run("sr_ste", "1:8", seed, 0.70)
        run("sdgf", "1:8", seed, 0.80)
    run("sr_ste", "1:8", 2, **DIVERGED)
    cell = row_of(difference_table(group_of(sections), ""))["SDGF stepwise"]
    assert cell.detail == "p < 0.001, n = 2 pairs, SR-STE: 1 of 3 seeds diverged"
    assert (cell.best, cell.marks) == (False, "!")


def test_at_equal_flops_it_is_not_ranked_either(one_lost, runs):
    frames = build_frames(read_runs([runs]))
    (section,) = build_sections(frames)
    table = equal_flops_table(section, frames.curves)
    cells = {row[2].text: row[3] for row in table.rows}
    assert cells["SDGF stepwise"].detail == "sd 0.71, n = 2, 1 of 3 seeds diverged"
    assert (cells["SDGF stepwise"].best, cells["SDGF stepwise"].marks) == (False, "!")
    assert not cells["SR-STE"].best  # alone


def test_inside_longer_runs_a_lost_seed_counts_too(run, runs):
    run("sr_ste", "1:8", 0, 0.60, training_flops=1e9)
    run("mdgf", "1:8", 0, 0.65, training_flops=1e9)
    run("sdgf", "1:8", 0, 0.90, training_flops=2e9, curve=[(100, 0.5), (200, 0.8)])
    run("sdgf", "1:8", 1, **DIVERGED)
    frames = build_frames(read_runs([runs]))
    (section,) = build_sections(frames)
    rows = equal_flops_table(section, frames.curves).rows
    cells = {row[2].text: row[3] for row in rows if row[1].text == "1.00 GFLOPs"}
    assert (cells["SDGF stepwise"].text, cells["SDGF stepwise"].detail) == ("65.00", "n = 1, 1 of 2 seeds diverged")
    assert (cells["SDGF stepwise"].best, cells["SDGF stepwise"].marks) == (False, "!†")


def test_it_is_on_no_pareto_front(one_lost, sections):
    table = cost_table(group_of(sections), "")
    rows = {row[1].text: row for row in table.rows}
    place = list(table.head).index("inference FLOPs")
    assert (rows["SR-STE"][place].best, rows["SDGF stepwise"][place].best) == (True, False)
    assert rows["SDGF stepwise"][2].detail == "sd 0.71, n = 2, 1 of 3 seeds diverged"


def test_an_average_over_tasks_loses_the_seed_that_one_task_lost(run, sections):
    for task in ("rte", "cola"):
        for seed, value in enumerate([0.6, 0.7]):
            lost = DIVERGED if (task, seed) == ("cola", 1) else {}
            config = {"data.name": "glue", "data.task": task}
            summary = {"data": "glue", "headline": "accuracy"}
            run("sdgf", "1:8", seed, value, name=f"{task}-{seed}", config=config, summary=summary, **lost)
            run("sr_ste", "1:8", seed, 0.5, name=f"{task}-{seed}-sr", config=config, summary=summary)
    (table,) = glue_tables(sections())
    cell = row_of(table)["SDGF stepwise"]
    assert (cell.text, cell.detail, cell.marks) == ("60.00", "n = 1, 1 of 2 seeds diverged", "!")
    assert (cell.best, row_of(table)["SR-STE"].best) == (False, True)


def test_a_cell_of_which_every_seed_diverged_says_so(run, runs, sections, tmp_path):
    for seed in range(3):
        run("sr_ste", "1:8", seed, 0.7 + seed / 100)
        run("sdgf", "1:8", seed, **DIVERGED, variant="sdgf_geometric", options={"structure": "geometric"})
    cell = row_of(quality_table(group_of(sections), ""))["SDGF geometric"]
    assert (cell.text, cell.detail, cell.value) == ("diverged", "n = 0, 3 of 3 seeds diverged", None)
    cell = row_of(difference_table(group_of(sections), ""))["SDGF geometric"]
    assert (cell.text, cell.detail, cell.marks) == ("–", "3 of 3 seeds diverged", "!")
    write_report([runs], tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Left out: SDGF geometric (3 of 3 seeds diverged)." in report
    assert "Not in it are the lost seeds of SDGF geometric at 1:8 (3 of 3 seeds diverged)." in report


@pytest.mark.parametrize(
    ("recipe", "options", "label"),
    [
        ("mdgf", {"decay": "linear"}, "MDGF linear"),
        ("mdgf", {"decay": "linear", "gradient": "straight_through"}, "MDGF linear, straight-through gradient"),
        ("sdgf", {"structure": "stepwise", "decay": "exponential"}, "SDGF stepwise + exponential decay"),
        ("static", {}, "static"),
        ("dense", {}, "dense"),
        ("novel", {}, "novel, straight-through gradient"),  # of a version that this one does not know
    ],
)
def test_a_failed_run_finds_its_column_by_its_config(run, sections, recipe, options, label):
    run("sr_ste", "1:8")
    run(recipe, "1:8", 0, options=options, **DIVERGED)
    assert row_of(quality_table(group_of(sections), ""))[label].text == "diverged"


def test_finished_and_failed_seeds_of_any_recipe_share_a_cell(run, table):
    for recipe, variant, options in (
        ("mdgf", "mdgf_linear", {"decay": "linear", "gradient": "masked"}),
        ("sdgf", "sdgf_custom", {"structure": "custom", "patterns": ["4:8", "1:8"]}),
        ("static", "static", {"finetune_fraction": 0.2}),
    ):
        run(recipe, "1:8", 0, 0.7, variant=variant, options=options)
        run(recipe, "1:8", 1, variant=variant, options=options, **DIVERGED)
    cells = [cell for (_, name), cell in table().items() if name != "pattern"]
    assert [cell.detail for cell in cells] == ["n = 1, 1 of 2 seeds diverged"] * 3


def test_a_run_that_failed_for_another_reason_is_lost_in_its_own_words(run, table):
    run("sdgf", "1:8", 0, 0.8)
    run("sdgf", "1:8", 1, 0.81)
    run("sdgf", "1:8", 2, **DISK_FULL)
    cell = table()["1:8", "SDGF stepwise"]
    assert (cell.detail, cell.marks, cell.best) == ("sd 0.71, n = 2, 1 of 3 seeds failed", "!", False)


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("the training loss is nan (updates 1 to 20); the last checkpoint is from before", "diverged"),
        ("the training loss is -inf (updates 1 to 20); the last checkpoint is from before", "diverged"),
        ("3 weights are not finite after update 40, first blocks.0.mlp.fc1.weight", "diverged"),
        ("OutOfMemoryError: CUDA out of memory (traceback in train.log)", "failed"),
        (None, "failed"),
    ],
)
def test_what_counts_as_divergence(run, table, reason, how):
    run("sdgf", "1:8", 0, 0.8)
    run("sdgf", "1:8", 1, status="failed", reason=reason)
    assert table()["1:8", "SDGF stepwise"].detail == f"n = 1, 1 of 2 seeds {how}"


def test_a_seed_that_finished_in_another_folder_is_not_lost(run, runs, table):
    run("sdgf", "1:8", 0, 0.80)
    run("sdgf", "1:8", 0, name="copied/sdgf", **DIVERGED)
    cell = table()["1:8", "SDGF stepwise"]
    assert (cell.detail, cell.marks) == ("n = 1", "")
    listed = run_list(build_frames(read_runs([runs])).runs)
    assert [row[5].text.split(":")[0] for row in listed.table.rows] == ["finished", "failed"]
    assert listed.cells[1] is None


def test_a_seed_that_failed_in_two_folders_is_lost_once(run, table):
    run("sdgf", "1:8", 0, 0.80)
    run("sdgf", "1:8", 1, name="first", **DISK_FULL)
    run("sdgf", "1:8", 1, name="second", **DIVERGED)
    assert table()["1:8", "SDGF stepwise"].detail == "n = 1, 1 of 2 seeds diverged"


def test_runs_that_go_on_or_were_stopped_are_not_lost(run, table):
    run("sdgf", "1:8", 0, 0.80)
    run("sdgf", "1:8", 1, status="running")
    run("sdgf", "1:8", 2, status="preempted")
    assert table()["1:8", "SDGF stepwise"].detail == "n = 1"


def test_dense_runs_are_lost_like_others(run, sections):
    run("dense", "1:8", 0, 0.9)
    run("dense", "1:8", 1, **DIVERGED)
    run("sdgf", "1:8", 0, 0.8)
    run("sr_ste", "1:8", 0, 0.7)
    cell = row_of(quality_table(group_of(sections), ""))["dense"]
    assert (cell.detail, cell.marks) == ("n = 1, 1 of 2 seeds diverged", "!")
    assert advice(group_of(sections))[0].text.endswith("Left out: dense (1 of 2 seeds diverged).")


def test_the_runs_behind_a_cell_are_listed_with_the_lost_ones(one_lost, runs):
    listed = run_list(build_frames(read_runs([runs])).runs)
    rows = [(row[0].text, row[6].text, row[6].marks) for row in listed.table.rows]
    assert rows[3:] == [
        ("sdgf_stepwise-1of8-s0", "80.00", ""),
        ("sdgf_stepwise-1of8-s1", "81.00", ""),
        ("sdgf_stepwise-1of8-s2", "–", "!"),
    ]
    assert len(set(listed.cells[3:])) == 1


def test_a_run_without_a_metric_has_that_of_its_group(run, sections):
    text = {"data.name": "text", "model.name": "gpt"}
    run(
        "sdgf",
        "1:8",
        0,
        20.0,
        config=text,
        headline="perplexity",
        summary={"headline": "perplexity", "metrics": {"val/perplexity": 20.0}},
    )
    run("sdgf", "1:8", 1, config=text, **DIVERGED)
    table = quality_table(group_of(sections), "")
    assert table.title.startswith("Perplexity")
    assert (table.rows[0][1].text, table.rows[0][1].detail) == ("20.00", "n = 1, 1 of 2 seeds diverged")


def test_a_setting_in_which_every_run_diverged_is_shown_by_the_metric_of_its_data(run, runs, tmp_path):
    run("sdgf", "1:8", 0, 0.8)
    config = {"data.name": "glue", "data.task": "cola", "optim.lr": 1.0}
    run("sdgf", "1:8", 0, name="cola", config=config, **DIVERGED)
    write_report([runs], tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## vit on glue-cola, ff sparse, validation split (optim.lr=1)\n" in report
    assert "**Matthews correlation: vit on glue-cola, ff sparse, validation split**" in report
    assert "| 1:8 | diverged ! (n = 0, 1 of 1 seeds diverged) |" in report
    assert "no recipe can be ranked by its final Matthews correlation. Left out: SDGF stepwise (1 of 1 seeds" in report


def test_a_length_at_which_every_run_diverged_is_a_table_without_figures(run, runs, tmp_path):
    run("sdgf", "1:8", 0, 0.8)
    run("sdgf", "1:8", 0, name="longer", config={"train.epochs": 30.0}, **DIVERGED)
    write_report([runs], tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "**Accuracy: vit on glyphs, ff sparse, validation split (train.epochs=30)**" in report
    assert "**Cost: vit on glyphs, ff sparse, validation split (train.epochs=3)**" in report
    assert "**Cost: vit on glyphs, ff sparse, validation split (train.epochs=30)**" not in report


def test_runs_that_only_failed_make_no_table(run, runs):
    run("sdgf", "1:8", 0, **DISK_FULL)
    assert closing_table([runs]).startswith("0 of 1 runs are finished and counted.")


def test_curves_and_noise_are_of_finished_runs(run, runs, tmp_path):
    noise = [{"update": 20, "tensor": "mean", "pattern": "1:8", "decay": 0.0, "grad_noise": 1.0, "sad": 1}]
    for seed, lost in enumerate([{}, {}, DIVERGED]):
        run("sdgf", "1:8", seed, 0.8, curve=[(100, 0.5)], noise=noise, **lost)
    write_report([runs], tmp_path / "out")
    for name in ("training", "noise-1of8"):
        data = pd.read_csv(tmp_path / "out" / "figures" / f"vit-on-glyphs-ff-sparse-{name}.csv")
        assert set(data["n"]) == {2}
    frame = pd.read_csv(tmp_path / "out" / "frames" / "runs.csv").set_index("seed")
    assert frame["lost"].fillna("").to_dict() == {0: "", 1: "", 2: "diverged"}
    assert math.isnan(frame.loc[2, "quality"])
