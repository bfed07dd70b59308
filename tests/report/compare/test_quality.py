from __future__ import annotations

import math

import pytest

from nmtrain.report import write_report
from nmtrain.report.compare.advice import advice
from nmtrain.report.compare.quality import best_difference_table, difference_table, quality_table, top5_table
from nmtrain.report.compare.sections import build_sections
from nmtrain.report.compare.table import plain_text
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames


def seeds(run, recipe, pattern, accuracies, **more):
    for seed, accuracy in enumerate(accuracies):
        run(recipe, pattern, seed, accuracy, **more)


def test_mean_interval_sd_and_n(run, table):
    seeds(run, "sr_ste", "1:4", [0.70, 0.72, 0.74])
    cell = table()["1:4", "SR-STE"]
    assert (cell.text, cell.detail) == ("72.00 ± 4.97", "sd 2.00, n = 3")
    assert cell.value == pytest.approx(0.72)


def test_rows_go_from_dense_to_sparse_and_columns_in_fixed_order(run, sections):
    for pattern in ("1:32", "2:4", "1:8"):
        for recipe in ("sdgf", "sr_ste", "static", "dense", "mdgf"):
            if recipe != "dense" or pattern == "2:4":
                run(recipe, pattern)
    (group,) = sections()[0].groups
    table = quality_table(group, "title")
    assert [row[0].text for row in table.rows] == ["2:4", "1:8", "1:32"]
    assert list(table.head) == ["pattern", "dense", "static", "SR-STE", "MDGF exponential", "SDGF stepwise"]


def test_best_is_bold_and_what_it_is_not_shown_to_beat_is_marked(run, table):
    seeds(run, "sr_ste", "1:4", [0.700, 0.701, 0.702])
    seeds(run, "mdgf", "1:4", [0.803, 0.808, 0.802])  # 0.17 ± 0.99 points below on the same seeds: p = 0.55
    seeds(run, "sdgf", "1:4", [0.804, 0.806, 0.808])
    seeds(run, "dense", "1:4", [0.900, 0.901, 0.902])
    cells = table()
    assert {name: cell.best for (_, name), cell in cells.items() if cell.best} == {"SDGF stepwise": True}
    assert cells["1:4", "MDGF exponential"].marks == "≈"
    assert cells["1:4", "SR-STE"].marks == ""
    assert cells["1:4", "dense"].marks == ""


def test_dense_stands_in_every_row_though_trained_once(run, table):
    seeds(run, "dense", "1:8", [0.90, 0.91])
    for pattern in ("1:4", "1:8", "1:16"):
        run("sdgf", pattern)
    cells = table()
    dense = [cells[pattern, "dense"] for pattern in ("1:4", "1:8", "1:16")]
    assert {cell.text for cell in dense} == {"90.50 ± 6.35"}  # t = 12.706, sd 0.707
    assert len({cell.anchor for cell in dense}) == 1


def test_one_seed_says_so(run, table):
    run("sdgf", "1:4", 0, 0.8)
    run("sr_ste", "1:4", 0, 0.7)
    cells = table()
    assert (cells["1:4", "SDGF stepwise"].text, cells["1:4", "SDGF stepwise"].detail) == ("80.00", "n = 1")
    assert cells["1:4", "SDGF stepwise"].best
    assert cells["1:4", "SR-STE"].marks == "?"  # nothing was compared, so "no difference shown" would say too much


def test_seeds_that_no_two_recipes_share_are_compared_without_a_test(run, runs, sections):
    run("sr_ste", "1:4", 0, 0.7)
    run("sdgf", "1:4", 1, 0.8)
    ((group,),) = (section.groups for section in sections())
    table = difference_table(group, "title")
    assert table is not None
    assert (table.rows[0][1].text, table.rows[0][1].detail) == ("+10.00", "no seed in common, no test")
    assert not table.rows[0][1].best
    run("sdgf", "1:4", 0, math.nan)
    ((group,),) = (section.groups for section in sections())
    cell = difference_table(group, "title").rows[0][1]
    assert (cell.text, cell.marks) == ("+10.00", "!")


def test_missing_cells_of_a_partial_sweep_are_dashes(run, table):
    run("sdgf", "1:4")
    run("sr_ste", "1:8")
    assert table()["1:8", "SDGF stepwise"].text == "–"


@pytest.mark.parametrize("lost", [math.nan, None])
def test_nan_is_visible_and_never_best(run, table, lost):
    seeds(run, "sdgf", "1:4", [0.90, lost, 0.92])
    seeds(run, "sr_ste", "1:4", [0.70, 0.71, 0.72])
    cells = table()
    assert cells["1:4", "SDGF stepwise"].marks == "!"
    assert cells["1:4", "SDGF stepwise"].detail == "sd 1.41, n = 2, 1 of 3 seeds NaN"
    assert cells["1:4", "SR-STE"].best


def test_all_nan(run, table):
    run("sdgf", "1:4", accuracy=math.nan)
    cell = table()["1:4", "SDGF stepwise"]
    assert (cell.text, cell.detail, cell.value, cell.best) == ("NaN", "n = 0, 1 of 1 seeds NaN", None, False)


def test_unfinished_runs_do_not_count(run, table):
    run("sdgf", "1:4", 0, 0.8)
    for seed, status in enumerate(["running", "preempted"], start=1):
        run("sdgf", "1:4", seed, 0.1, status=status)
    assert table()["1:4", "SDGF stepwise"].detail == "n = 1"


def test_other_lengths_are_other_tables(run, sections):
    run("sdgf", "1:4", 0, 0.7)
    run("sdgf", "1:4", 0, 0.8, name="longer", config={"train.epochs": 30.0})
    (section,) = sections()
    assert [group.title for group in section.groups] == ["train.epochs=3", "train.epochs=30"]
    assert [quality_table(group, "").rows[0][1].text for group in section.groups] == ["70.00", "80.00"]


def test_other_settings_are_other_sections_that_say_how(run, sections):
    run("sdgf", "1:4", 0, 0.7)
    run("sdgf", "1:4", 0, 0.8, name="other", config={"optim.lr": 0.01})
    assert [section.title for section in sections()] == [
        "vit on glyphs, ff sparse, validation split (optim.lr=0.001)",
        "vit on glyphs, ff sparse, validation split (optim.lr=0.01)",
    ]


def test_a_roles_own_pattern_is_in_the_title(run, sections):
    run("sdgf", "1:8", config={"mask.patterns": {"q": "1:4"}})
    assert sections()[0].title == "vit on glyphs, ff sparse, q at 1:4, validation split"


def test_dense_of_a_length_without_sparse_runs_is_not_lost(run, sections):
    run("sdgf", "1:4")
    run("dense", "1:4", name="long", config={"train.epochs": 30.0}, accuracy=0.93)
    (section,) = sections()
    assert [len(group.runs) for group in section.groups] == [1, 1]
    assert quality_table(section.groups[1], "").rows[0][1].text == "93.00"


def test_code_versions_and_repeated_seeds_are_marked(run, table):
    run("sdgf", "1:4", 0, 0.70, name="a")
    run("sdgf", "1:4", 0, 0.72, name="b", commit="fedcba9876543210")
    run("sdgf", "1:4", 1, 0.75, name="c")
    cell = table()["1:4", "SDGF stepwise"]
    assert cell.marks == "◊§"
    assert cell.detail == "sd 2.83, n = 2"  # 71 and 75


def test_difference_to_sr_ste_over_matching_seeds(run, sections):
    seeds(run, "sr_ste", "1:4", [0.70, 0.71, 0.70, 0.73])
    seeds(run, "sdgf", "1:4", [0.71, 0.74, 0.72])
    (group,) = sections()[0].groups
    found = difference_table(group, "")
    assert found is not None
    cell = found.rows[0][1]
    assert cell.text == "+2.00 ± 2.48"
    assert cell.detail == "p = 0.074, n = 3 pairs"
    assert not cell.best


def test_one_pair_is_shown_as_one_pair(run, sections):
    run("sr_ste", "1:4", 0, 0.7)
    run("sdgf", "1:4", 0, 0.8)
    (group,) = sections()[0].groups
    found = difference_table(group, "")
    assert found is not None
    assert (found.rows[0][1].text, found.rows[0][1].detail) == ("+10.00", "n = 1 pair")


def test_no_difference_without_sr_ste(run, sections):
    run("sdgf", "1:4")
    (group,) = sections()[0].groups
    assert difference_table(group, "") is None


def test_plain_text_is_aligned_and_explained(run, sections):
    seeds(run, "sdgf", "1:4", [0.80, 0.81])
    seeds(run, "sr_ste", "1:4", [0.80, 0.79])
    (group,) = sections()[0].groups
    lines = plain_text(quality_table(group, "vit")).splitlines()
    assert lines[0] == "Accuracy: vit"
    assert lines[2] == "pattern  SR-STE          SDGF stepwise"
    assert lines[4] == "1:4      79.50 ± 6.35 ≈  *80.50 ± 6.35"
    assert lines[5] == "         sd 0.71, n = 2  sd 0.71, n = 2"
    assert lines[-1] == "≈ no difference to the best (*) shown by the test that the notes name."
    assert any("t-test at 5 %, paired over the seeds" in line and "Holm's method" in line for line in lines)
    assert "Gradient rule: straight-through for SR-STE, SDGF stepwise." in lines
    assert any("hardware skipping every pruned weight would execute (1 MAC = 2 FLOPs)" in line for line in lines)


def test_a_title_names_what_is_not_as_shipped_even_where_nothing_else_was_trained(run, sections):
    run("sdgf", "1:4", config={"mask.axis": "output", "mask.names": ["head.weight"], "train.precision": "bf16"})
    assert [section.title for section in sections()] == [
        "vit on glyphs, ff sparse, validation split "
        '(mask.axis=output, mask.names=["head.weight"], train.precision=bf16)'
    ]


def test_a_title_of_dense_runs_leaves_the_mask_out(run, sections):
    run("dense", config={"mask.axis": "output", "optim.lr": 0.01})
    assert [section.title for section in sections()] == ["vit on glyphs, dense only, validation split (optim.lr=0.01)"]
    run("dense", name="other", config={"optim.lr": 0.02})
    assert [section.title for section in sections()] == [
        "vit on glyphs, dense only, validation split (optim.lr=0.01)",
        "vit on glyphs, dense only, validation split (optim.lr=0.02)",
    ]


def test_the_order_of_roles_and_how_a_pattern_is_written_split_no_table(run, table, sections):
    run("sdgf", "1:4", 0, 0.7, config={"mask.roles": ["q", "ff"]}, summary={"roles": ["q", "ff"]})
    run("sdgf", " 1 : 4", 1, 0.8, config={"mask.roles": ["ff", "q"]}, summary={"roles": ["ff", "q"]}, name="other")
    assert table()["1:4", "SDGF stepwise"].text == "75.00 ± 63.53"
    assert [section.title for section in sections()] == ["vit on glyphs, ff+q sparse, validation split"]


def test_epochs_beside_updates_split_no_table(run, table):
    run("sdgf", "1:4", 0, 0.7, config={"train.updates": 300, "train.epochs": 3.0})
    run("sdgf", "1:4", 1, 0.8, config={"train.updates": 300, "train.epochs": 5.0})
    assert table()["1:4", "SDGF stepwise"].detail == "sd 7.07, n = 2"


def test_runs_of_one_budget_share_a_table_that_names_it_whatever_their_updates(run, sections):
    budget = {"train.flops": 1.2e12}
    run("sdgf", "1:4", 0, 0.7, config=budget, updates=300)
    run("sdgf", "1:8", 0, 0.7, config=budget, updates=400)
    run("dense", "1:8", 0, 0.9, config=budget | {"train.epochs": 5.0}, updates=200)
    (section,) = sections()
    (group,) = section.groups
    assert group.title == "train.flops=1.2e+12"
    assert group.patterns == ["1:4", "1:8"]
    assert [label for _, label in group.columns] == ["dense", "SDGF stepwise"]
    run("sdgf", "1:4", 0, 0.7, config={"train.flops": 2.4e12}, updates=600, name="longer")
    run("sdgf", "1:4", 0, 0.7, updates=300, name="epochs")
    titles = [group.title for group in sections()[0].groups]
    assert sorted(titles) == ["train.epochs=3", "train.flops=1.2e+12", "train.flops=2.4e+12"]


def test_keys_that_older_configs_lack_split_no_table(run, table):
    run("sdgf", "1:4", 0, 0.7)
    newer = {
        "train.label_smoothing": 0.1,
        "mask.stacks": None,
        "optim.weight_decay": 0.05,
        "model.kind": "image_classifier",
    }
    run("sdgf", "1:4", 1, 0.8, config=newer, options={"structure": "stepwise", "finetune_fraction": 0.1, "k": None})
    assert table()["1:4", "SDGF stepwise"].detail == "sd 7.07, n = 2"


def test_the_marks_of_a_row_follow_the_difference_table(run, sections):
    """SDGF is above SR-STE on each seed (p = 0.003), though the two intervals overlap almost wholly."""
    seeds(run, "sr_ste", "1:4", [0.60, 0.70, 0.80])
    seeds(run, "sdgf", "1:4", [0.62, 0.722, 0.818])
    (group,) = sections()[0].groups
    row = dict(zip(("pattern", "SR-STE", "SDGF"), quality_table(group, "").rows[0], strict=True))
    assert (row["SR-STE"].text, row["SR-STE"].marks) == ("70.00 ± 24.84", "")
    cell = difference_table(group, "").rows[0][1]
    assert (cell.text, cell.detail, cell.best) == ("+2.00 ± 0.50", "p = 0.003, n = 3 pairs", True)


def test_without_shared_seeds_marks_and_differences_are_welchs(run, sections):
    for seed, accuracy in enumerate([0.70, 0.71, 0.72]):
        run("sr_ste", "1:4", seed, accuracy)
        run("sdgf", "1:4", seed + 10, accuracy + 0.03)
    (group,) = sections()[0].groups
    cell = difference_table(group, "").rows[0][1]
    # Standard error 0.01 sqrt(2/3), 4 degrees of freedom: t = 3.674.
    assert (cell.text, cell.detail, cell.best) == ("+3.00 ± 2.27", "p = 0.021, Welch, n = 3 and 3", True)
    assert [cell.marks for cell in quality_table(group, "").rows[0]] == ["", "", ""]


# Below it by 0.6, 1.0 and 1.4 points: t = 1 / (0.4 / sqrt(3)) = 4.330 with 2 degrees of freedom, p = 0.049.
ABOVE, BELOW = [0.800, 0.800, 0.800], [0.794, 0.790, 0.786]


def test_the_tests_of_a_row_are_corrected_together_and_both_p_values_stand_there(run, sections):
    seeds(run, "static", "1:4", BELOW)
    seeds(run, "ste", "1:4", BELOW)
    seeds(run, "sdgf", "1:4", ABOVE)
    (group,) = sections()[0].groups
    assert [cell.marks for cell in quality_table(group, "").rows[0]] == ["", "≈", "≈", ""]
    table = best_difference_table(group, "")
    assert list(table.head) == ["pattern", "best", "static", "STE", "SDGF stepwise"]
    assert [cell.text for cell in table.rows[0]] == ["1:4", "SDGF stepwise", "-1.00 ± 0.99", "-1.00 ± 0.99", "–"]
    assert table.rows[0][2].detail == "p = 0.049, Holm 0.099, n = 3 pairs"
    assert [cell.best for cell in table.rows[0]] == [False] * 5


def test_what_is_shown_by_far_costs_the_other_tests_of_its_row_nothing(run, sections):
    seeds(run, "static", "1:4", [0.700, 0.701, 0.702])
    seeds(run, "ste", "1:4", BELOW)
    seeds(run, "sdgf", "1:4", ABOVE)
    (group,) = sections()[0].groups
    cell = best_difference_table(group, "").rows[0][3]
    assert (cell.detail, cell.best) == ("p = 0.049, Holm 0.049, n = 3 pairs", True)


def test_dense_training_is_compared_with_the_best_and_corrected_with_it(run, sections):
    seeds(run, "dense", "1:4", [0.806, 0.810, 0.814])
    seeds(run, "ste", "1:4", BELOW)
    seeds(run, "sdgf", "1:4", ABOVE)
    (group,) = sections()[0].groups
    assert best_difference_table(group, "").rows[0][2].detail == "p = 0.049, Holm 0.099, n = 3 pairs"
    assert advice(group)[0].text.endswith("No difference to dense shown (n = 3).")


def test_one_pair_of_recipes_is_told_alike_wherever_it_stands(run, sections):
    """SR-STE and the best, MDGF, are in both tables; the three comparisons of the row are one family."""
    seeds(run, "sr_ste", "1:4", BELOW)
    seeds(run, "sdgf", "1:4", [0.792, 0.793, 0.790])
    seeds(run, "mdgf", "1:4", ABOVE)
    (group,) = sections()[0].groups
    to_best = dict(zip(best_difference_table(group, "").head, best_difference_table(group, "").rows[0], strict=True))
    to_sr_ste = dict(zip(difference_table(group, "").head, difference_table(group, "").rows[0], strict=True))
    one, other = to_best["SR-STE"], to_sr_ste["MDGF exponential"]
    assert (one.text, other.text) == ("-1.00 ± 0.99", "+1.00 ± 0.99")
    assert one.detail == other.detail == "p = 0.049, Holm 0.099, n = 3 pairs"  # twice: SDGF's with MDGF is smaller
    assert not one.best
    assert not other.best
    assert quality_table(group, "").rows[0][1].marks == "≈"
    assert advice(group)[0].text.startswith(
        "1:4 (density 25 %): no difference shown between MDGF exponential and SR-STE"
    )


def test_where_the_table_of_sr_ste_holds_every_test_there_is_no_second_one(run, sections):
    seeds(run, "sr_ste", "1:4", ABOVE)
    seeds(run, "sdgf", "1:4", BELOW)
    (group,) = sections()[0].groups
    assert best_difference_table(group, "") is None
    assert difference_table(group, "").rows[0][1].detail == "p = 0.049, n = 3 pairs"  # alone: nothing to correct


def test_dense_beside_sr_ste_and_another_stands_in_a_table_of_its_own(run, sections):
    seeds(run, "dense", "1:4", [0.9, 0.9, 0.9])
    seeds(run, "sr_ste", "1:4", ABOVE)
    seeds(run, "sdgf", "1:4", BELOW)
    (group,) = sections()[0].groups
    assert [cell.text for cell in best_difference_table(group, "").rows[0]] == [
        *("1:4", "SR-STE", "+10.00 ± 0.00", "–", "-1.00 ± 0.99")
    ]


def scored(top5):
    return {"metrics": {"val/accuracy": 0.7, "val/loss": 1.0, "val/top5": top5}}


def test_where_all_finished_runs_recorded_it_there_is_a_table_of_the_accuracy_of_top_5(run, runs):
    for seed, top5 in enumerate([0.90, 0.92, 0.94]):
        run("sr_ste", "1:4", seed, 0.7, summary=scored(top5))
    run("sr_ste", "1:4", 3, status="failed", reason="the training loss is nan")
    run("dense", "1:4", 0, 0.7, summary=scored(0.97))
    frames = build_frames(read_runs([runs]))
    ((group,),) = (section.groups for section in build_sections(frames))
    table = top5_table(group, "title", frames.metrics)
    assert table.title == "Top-5 accuracy: title"
    assert table.slug == quality_table(group, "title").slug.replace("accuracy", "top5")
    assert list(table.head) == ["pattern", "dense", "SR-STE"]
    ((_, dense, sparse),) = table.rows
    assert (dense.text, sparse.text) == ("97.00", "92.00 ± 4.97")
    assert sparse.detail.endswith("1 of 4 seeds diverged")


def test_beside_runs_that_did_not_record_it_there_is_no_such_table(run, runs):
    run("sr_ste", "1:4", 0, 0.7)
    run("sr_ste", "1:4", 1, 0.7, summary=scored(0.9))
    frames = build_frames(read_runs([runs]))
    ((group,),) = (section.groups for section in build_sections(frames))
    assert top5_table(group, "title", frames.metrics) is None


def test_a_report_has_it_beside_the_accuracy(run, runs, tmp_path):
    for recipe in ("sr_ste", "mdgf"):
        run(recipe, "1:4", 0, 0.7, summary=scored(0.9))
    write_report([runs], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.index("Accuracy: vit on glyphs") < text.index("Top-5 accuracy: vit on glyphs") < text.index("Cost: vit")


def test_captions_say_only_what_tells_a_section_from_others(run, sections):
    run("sdgf", "1:4", config={"optim.lr": 0.01, "train.precision": "bf16"})
    assert [section.name for section in sections()] == ["vit on glyphs, ff sparse, validation split"]
    run("sdgf", "1:4", name="other", config={"optim.lr": 0.02, "train.precision": "bf16"})
    assert [section.name for section in sections()] == [
        "vit on glyphs, ff sparse, validation split (optim.lr=0.01)",
        "vit on glyphs, ff sparse, validation split (optim.lr=0.02)",
    ]
