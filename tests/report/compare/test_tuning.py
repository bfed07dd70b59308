"""Tuned sweeps in a report: final runs in one table whatever their values, tuning runs in a table of their own."""

import pytest

from nmtrain.errors import ReportError
from nmtrain.report import write_report
from nmtrain.report.compare.notices import notices
from nmtrain.report.compare.run_list import run_list
from nmtrain.report.compare.tuning import tuning_table, tuning_tables
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames
from nmtrain.runs.tuning import Trial, TunedCell, Tuning


def frames_of(folder):
    return build_frames(read_runs([folder]))


GRID = {"optim.lr": [0.001, 0.003, 0.01]}


def write_tuned(run, recipe, scores, chosen, finals):
    """A cell of a sweep at 1:4: tuning runs by the grid, and final runs by seed with the chosen value."""
    trials = []
    for lr, score in zip(GRID["optim.lr"], scores, strict=True):
        name = f"{recipe}-lr{lr}"
        run(recipe, "1:4", 100, score, name=name, config={"optim.lr": lr})
        trials.append(Trial({"optim.lr": lr}, [name], [score]))
    lr = GRID["optim.lr"][chosen]
    names = [f"{recipe}-final-s{seed}" for seed in range(len(finals))]
    for seed, accuracy in enumerate(finals):
        config = {"optim.lr": lr, "data.evaluate": "test"}
        run(recipe, "1:4", seed, accuracy, name=names[seed], config=config)
    return TunedCell(recipe, None if recipe == "dense" else "1:4", [], "accuracy", trials, chosen, names)


@pytest.fixture
def tuned(run, runs):
    cells = [
        write_tuned(run, "dense", [0.8, 0.9, 0.7], 1, [0.9, 0.92]),
        write_tuned(run, "sr_ste", [0.5, 0.6, 0.7], 2, [0.6, 0.62]),
    ]
    Tuning(GRID, [100], cells).write(runs / "tuning" / "sweep.json")
    return runs


def test_final_runs_of_other_rates_stand_in_one_table_which_names_the_key(tuned, sections):
    (section,) = sections()
    (group,) = section.groups
    assert section.title == "vit on glyphs, ff sparse, test split (optim.lr=tuned)"
    assert [label for _, label in group.columns] == ["dense", "SR-STE"]
    assert group.results["1:4", "SR-STE"].quality.mean == pytest.approx(0.61)
    assert group.results["dense", "dense"].quality.n == 2


def test_tuning_runs_count_in_no_table_and_are_listed_with_their_validation_scores(tuned):
    frames = frames_of(tuned)
    trials = frames.runs[frames.runs["status"] == "tuning"]
    assert len(trials) == 6
    assert not trials["counted"].any()
    listed = run_list(frames.runs).table
    shown = {row[0].text: (row[5].text, row[6].text, row[6].detail) for row in listed.rows}
    assert shown["sr_ste-lr0.01"] == ("tuning", "70.00", "validation accuracy / %")
    assert shown["sr_ste-final-s0"] == ("finished", "60.00", "test accuracy / %")


def test_the_grid_is_shown_with_what_was_chosen_and_an_edge_is_marked(tuned):
    (tuning,) = frames_of(tuned).tunings
    table = tuning_table(tuning)
    assert table.head == ["pattern", "recipe", "optim.lr=0.001", "optim.lr=0.003", "optim.lr=0.01"]
    cells = [[(cell.text, cell.best, cell.marks) for cell in row[2:]] for row in table.rows]
    assert cells[0] == [("80.00", False, ""), ("90.00", True, ""), ("70.00", False, "")]
    assert cells[1] == [("50.00", False, ""), ("60.00", False, ""), ("70.00", True, "⊣")]
    assert any(note.startswith("⊣ the best number lies at the edge") for note in table.legend)


def test_a_report_has_a_chapter_of_the_tuning(tuned, tmp_path):
    write_report([tuned], tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Tuning" in page
    assert "| optim.lr=0.001 | optim.lr=0.003 | optim.lr=0.01 |" in page


def test_sweeps_over_one_grid_share_a_table(tuned, run, sections):
    cell = write_tuned(run, "mdgf", [0.7, 0.8, 0.7], 1, [0.8, 0.82])
    Tuning(GRID, [100], [cell]).write(tuned / "tuning" / "another.json")
    (section,) = sections()
    assert len(section.groups[0].columns) == 3
    (tuning,) = frames_of(tuned).tunings
    assert [found.variant for found in tuning.cells] == ["mdgf", "dense", "sr_ste"]


def test_of_two_grids_the_wider_one_counts_and_a_run_of_both_stands_beside_either(tuned, run, sections):
    wider = {"optim.lr": [*GRID["optim.lr"], 0.03]}
    again = run("sr_ste", "1:4", 0, 0.7, name="wider", config={"optim.lr": 0.03, "data.evaluate": "test"})
    trial = Trial({"optim.lr": 0.03}, [], [0.8])
    cell = TunedCell("sr_ste", "1:4", [], "accuracy", [trial], 0, [again.name])
    dense = TunedCell("dense", None, [], "accuracy", [trial], 0, ["dense-final-s0", "dense-final-s1"])
    Tuning(wider, [100], [dense, cell]).write(tuned / "tuning" / "wider.json")
    (section,) = sections()
    (group,) = section.groups
    assert group.results["1:4", "SR-STE"].quality.mean == pytest.approx(0.7)
    assert group.results["dense", "dense"].quality.n == 2
    statuses = frames_of(tuned).runs.set_index("run")["status"]
    assert statuses["sr_ste-final-s1"] == "another tuning counts"
    assert statuses["dense-final-s1"] == "finished"


def test_a_tuned_option_of_a_recipe_makes_no_columns(run, runs, sections):
    names = {}
    for pattern, penalty in (("1:4", 0.1), ("1:8", 0.2)):
        path = run("sr_ste", pattern, options={"penalty": penalty})
        trial = Trial({"recipe.penalty": penalty}, [], [])
        names[pattern] = TunedCell("sr_ste", pattern, [], "accuracy", [trial], 0, [path.name])
    Tuning({"recipe.penalty": [0.1, 0.2]}, [100], list(names.values())).write(runs / "tuning" / "one.json")
    (section,) = sections()
    assert [label for _, label in section.groups[0].columns] == ["SR-STE"]
    assert section.groups[0].patterns == ["1:4", "1:8"]


def test_a_damaged_record_is_named(tuned):
    (tuned / "tuning" / "sweep.json").write_text("{}")
    with pytest.raises(ReportError, match=r"sweep\.json: is damaged .*; remove it, or repeat the sweep"):
        write_report([tuned], tuned / "out")


def test_tasks_that_one_grid_was_tried_on_have_a_table_each_with_dense_beside(tuned, run):
    run("gmp", "1:4", 100, name="both", summary={"roles": ["ff", "q"]})
    run("gmp", "1:4", 100, name="digits", config={"data.name": "digits"})
    trials = [Trial({"optim.lr": 0.01}, [name], [0.5]) for name in ("both", "digits", "removed")]
    cells = [TunedCell("gmp", "1:4", [], "accuracy", [trial], 0, []) for trial in trials]
    Tuning(GRID, [100], cells).write(tuned / "tuning" / "another.json")
    shown = {table.title: [row[1].text for row in table.rows] for table in tuning_tables(frames_of(tuned))}
    assert shown == {
        "Tuning of optim.lr": ["GMP"],
        "Tuning of optim.lr: vit on digits, ff sparse": ["GMP"],
        "Tuning of optim.lr: vit on glyphs, ff sparse": ["dense", "SR-STE"],
        "Tuning of optim.lr: vit on glyphs, ff+q sparse": ["dense", "GMP"],
    }


def test_the_list_of_runs_tells_roles_apart_and_names_tuning_runs_by_their_variant(tuned, run):
    run("mdgf", "1:4", 100, 0.5, name="both", summary={"roles": ["q", "ff"]})
    rows = {row[0].text: row for row in run_list(frames_of(tuned).runs).table.rows}
    assert [(rows[name][2].detail, rows[name][3].text) for name in ("sr_ste-lr0.01", "both", "dense-lr0.01")] == [
        ("ff", "SR-STE"),
        ("ff+q", "MDGF exponential"),
        ("", "dense"),
    ]


def test_of_two_grids_as_wide_the_better_score_on_validation_counts_and_rates_are_not_averaged(tuned, run, sections):
    moved = {"optim.lr": [0.003, 0.01, 0.03]}
    again = run("sr_ste", "1:4", 0, 0.4, name="moved", config={"optim.lr": 0.03, "data.evaluate": "test"})
    cell = TunedCell("sr_ste", "1:4", [], "accuracy", [Trial({"optim.lr": 0.03}, ["t"], [0.8])], 0, [again.name])
    Tuning(moved, [100], [cell]).write(tuned / "tuning" / "moved.json")
    assert quality(sections) == pytest.approx(0.4)  # 0.8 on validation, where 0.7 chose the other
    worse = TunedCell("sr_ste", "1:4", [], "accuracy", [Trial({"optim.lr": 0.03}, ["t"], [0.65])], 0, [again.name])
    Tuning(moved, [100], [worse]).write(tuned / "tuning" / "moved.json")
    assert quality(sections) == pytest.approx(0.61)


def quality(sections):
    (section,) = sections()
    return section.groups[0].results["1:4", "SR-STE"].quality.mean


def test_a_recipe_that_was_tuned_in_an_option_of_its_own_too_stands_beside_the_others(tuned, run, sections):
    own = {"optim.lr": GRID["optim.lr"], "recipe.finetune_fraction": [0.1, 0.5]}
    config = {"optim.lr": 0.01, "recipe.finetune_fraction": 0.5, "data.evaluate": "test"}
    final = run("mdgf", "1:4", 0, 0.7, name="mdgf-final", config=config)
    trial = Trial({"optim.lr": 0.01, "recipe.finetune_fraction": 0.5}, ["t"], [0.8])
    cell = TunedCell("mdgf", "1:4", [], "accuracy", [trial], 0, [final.name])
    Tuning(own, [100], [cell]).write(tuned / "tuning" / "own.json")
    (section,) = sections()
    (group,) = section.groups
    labels = [label for _, label in group.columns]
    assert labels[:2] == ["dense", "SR-STE"]
    assert group.results["1:4", labels[2]].quality.mean == pytest.approx(0.7)


def test_tuned_runs_that_a_table_at_their_rate_lacks_are_named(tuned, run):
    assert not [line for line in notices(frames_of(tuned).runs) if "chosen by tuning" in line]
    run("mdgf", "1:4", 0, 0.5, name="given", config={"optim.lr": 0.01, "data.evaluate": "test"})
    (said,) = [line for line in notices(frames_of(tuned).runs) if "chosen by tuning" in line]
    assert said.endswith("the same values were given: sr_ste-final-s0, sr_ste-final-s1.")  # dense chose 0.003
