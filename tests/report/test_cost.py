from __future__ import annotations

from nmtrain.report.cost import cost_table
from nmtrain.report.equal_flops import equal_flops_table
from nmtrain.report.folders import read_runs
from nmtrain.report.frame import build_frames
from nmtrain.report.sections import build_sections


def rows_at_budget(runs):
    """{(budget, recipe): (accuracy, n and sd, source, marks, bold)} of the table at equal FLOPs."""
    frames = build_frames(read_runs([runs]))
    (section,) = build_sections(frames)
    table = equal_flops_table(section, frames.curves)
    assert table is not None
    return {(r[1].text, r[2].text): (r[3].text, r[3].detail, r[4].text, r[3].marks, r[3].best) for r in table.rows}


def test_finished_runs_within_five_percent_answer_for_a_budget(run, runs):
    run("sr_ste", "1:4", 0, 0.70, training_flops=1.00e9)
    run("sdgf", "1:4", 0, 0.75, training_flops=0.96e9)
    run("mdgf", "1:4", 0, 0.72, training_flops=0.94e9)  # more than 5 % below: it does not reach the budget
    assert rows_at_budget(runs) == {
        ("940 MFLOPs", "MDGF exponential"): ("72.00", "n = 1", "finished", "", True),
        ("1.00 GFLOPs", "SR-STE"): ("70.00", "n = 1", "finished", "?", False),
        ("1.00 GFLOPs", "SDGF stepwise"): ("75.00", "n = 1", "finished", "", True),
    }


def test_longer_runs_are_interpolated_and_marked(run, runs):
    run("sr_ste", "1:4", 0, 0.60, training_flops=1e9)
    run("sdgf", "1:4", 0, 0.90, training_flops=2e9, curve=[(100, 0.5), (200, 0.8)])
    found = rows_at_budget(runs)
    # 1e9 is half of 2e9: update 150 of 300, between 0.5 and 0.8.
    assert found["1.00 GFLOPs", "SDGF stepwise"] == ("65.00", "n = 1", "interpolated", "†", True)
    assert found["1.00 GFLOPs", "SR-STE"] == ("60.00", "n = 1", "finished", "?", False)


def test_a_model_still_denser_than_its_pattern_is_marked_and_not_ranked(run, runs):
    run("sr_ste", "1:4", 0, 0.60, training_flops=1e9)
    run("mdgf", "1:4", 0, 0.90, training_flops=2e9, curve=[(100, 0.5), (200, 0.8)], strict_from=180)
    found = rows_at_budget(runs)
    assert found["1.00 GFLOPs", "MDGF exponential"] == ("65.00", "n = 1", "interpolated, too dense", "‡", False)
    assert found["1.00 GFLOPs", "SR-STE"] == ("60.00", "n = 1", "finished", "", True)


def test_runs_of_several_lengths_answer_before_interpolation(run, runs):
    run("sr_ste", "1:4", 0, 0.60, training_flops=1e9)
    run("sdgf", "1:4", 0, 0.90, name="long", training_flops=2e9, curve=[(100, 0.5)], config={"train.epochs": 6.0})
    run("sdgf", "1:4", 0, 0.77, name="short", training_flops=0.98e9, config={"train.epochs": 2.0})
    assert rows_at_budget(runs)["1.00 GFLOPs", "SDGF stepwise"] == ("77.00", "n = 1", "finished", "", True)


def test_dense_takes_part_but_does_not_compete(run, runs):
    run("sr_ste", "1:4", 0, 0.60, training_flops=1e9)
    run("dense", "1:4", 0, 0.90, training_flops=2e9, curve=[(150, 0.85)])
    assert rows_at_budget(runs)["1.00 GFLOPs", "dense"] == ("85.00", "n = 1", "interpolated", "†", False)


def test_before_the_first_evaluation_nothing_is_made_up(run, runs):
    run("sr_ste", "1:4", 0, 0.60, training_flops=1e9)
    run("sdgf", "1:4", 0, 0.90, training_flops=2e9, curve=[(200, 0.8)])
    assert ("1.00 GFLOPs", "SDGF stepwise") not in rows_at_budget(runs)


def test_no_table_where_no_budget_is_shared(run, runs):
    run("sdgf", "1:4")
    frames = build_frames(read_runs([runs]))
    assert equal_flops_table(build_sections(frames)[0], frames.curves) is None


def test_cost_table_shows_the_pareto_front(run, sections):
    run("dense", "1:4", accuracy=0.90, inference_flops=4e6, training_flops=1e10)
    run("sr_ste", "1:4", accuracy=0.80, inference_flops=2e6, size=3e4)
    run("sdgf", "1:4", accuracy=0.85, inference_flops=2e6, size=3e4)
    run("sdgf", "1:8", accuracy=0.79, inference_flops=1e6, size=5e4)  # cheaper in FLOPs, but not in bytes
    (group,) = sections()[0].groups
    table = cost_table(group, "")
    column = {name: i for i, name in enumerate(table.head)}
    rows = {(row[0].text, row[1].text): row for row in table.rows}
    fronts = {key: (row[column["inference FLOPs"]].best, row[column["bytes"]].best) for key, row in rows.items()}
    assert fronts == {
        ("dense", "dense"): (True, True),
        ("1:4", "SR-STE"): (False, False),
        ("1:4", "SDGF stepwise"): (True, True),
        ("1:8", "SDGF stepwise"): (True, False),
    }
    cells = [cell.text for cell in rows["1:4", "SDGF stepwise"]]
    assert cells == [
        "1:4",
        "SDGF stepwise",
        "85.00",
        "6.00 GFLOPs",
        "10.0 s",
        "–",
        "2.00 MFLOPs",
        "30.0 kB",
        "25.00",
        "500 MB",
    ]
    assert rows["1:4", "SDGF stepwise"][3].detail == "(60 %)"
    assert rows["1:4", "SDGF stepwise"][4].detail == "33.3 ms per update"  # 10 s for 300
    assert "would execute (1 MAC = 2 FLOPs)" in table.legend[0]


def test_the_size_on_disk_stands_beside_the_counted_bytes_where_it_was_recorded(run, runs, sections):
    size = {"dense": 1e5, "sparse": 3e4, "exported": 101_500}
    run("sr_ste", "1:4", 0, 0.70, summary={"bytes": size})
    run("mdgf", "1:4", 0, 0.72)
    ((group,),) = (section.groups for section in sections())
    table = cost_table(group, "title")
    column = list(table.head).index("bytes")
    shown = {row[1].text: (row[column].text, row[column].detail) for row in table.rows}
    assert shown == {"SR-STE": ("30.0 kB", "102 kB on disk"), "MDGF exponential": ("30.0 kB", "")}
