from __future__ import annotations

from nmtrain.report.compare.cost import cost_table
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames


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
        "–",
        "10.0 s",
        "–",
        "2.00 MFLOPs",
        "30.0 kB",
        "25.00",
        "500 MB",
    ]
    assert rows["1:4", "SDGF stepwise"][3].detail == "(60 %)"
    assert rows["1:4", "SDGF stepwise"][5].detail == "33.3 ms per update"  # 10 s for 300
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


def test_the_share_of_active_parameters_stands_beside_training_flops(run, runs, sections):
    run("sr_ste", "1:4", 0, 0.70, summary={"active_share": 0.4375})
    run("mdgf", "1:4", 0, 0.72)  # by an earlier version
    ((group,),) = (section.groups for section in sections())
    table = cost_table(group, "title")
    column = list(table.head).index("active / %")
    assert table.head[column - 1] == "training FLOPs"
    assert {row[1].text: row[column].text for row in table.rows} == {"SR-STE": "43.75", "MDGF exponential": "–"}
    assert any(note.startswith("Active: ") for note in table.legend)
    frame = build_frames(read_runs([runs])).runs.set_index("recipe")
    assert frame["active_share"].fillna(0).to_dict() == {"sr_ste": 0.4375, "mdgf": 0.0}


CPU, GPU = {"device": "Intel CPU", "device_type": "cpu"}, {"device": "NVIDIA H100", "device_type": "cuda"}


def measured(train, images, memory):
    return {
        "seconds": {"total": 2 * train, "train": train, "eval": 1.0, "data": 0.0},
        "throughput": {"unit": "images", "per_second": images},
        "peak_memory_bytes": memory,
    }


def test_what_was_measured_on_several_devices_stands_apart_and_is_never_averaged(run, sections):
    run("sr_ste", "1:4", 0, 0.70, environment=CPU, summary=measured(100.0, 192.0, 1e9))
    run("sr_ste", "1:4", 1, 0.72, environment=GPU, summary=measured(1.0, 19200.0, 3e9))
    run("sdgf", "1:4", 0, 0.71, environment=GPU, summary=measured(2.0, 9600.0, 3e9))
    (group,) = sections()[0].groups
    table = cost_table(group, "")
    place = [list(table.head).index(name) for name in ("measured training", "throughput", "peak memory")]
    shown = [(row[1].text, row[1].detail, row[2].text, *(row[i].text for i in place)) for row in table.rows]
    assert shown == [
        ("SR-STE", "on Intel CPU", "71.00 ± 12.71", "100 s", "192 images/s", "1.00 GB"),
        ("SR-STE", "on NVIDIA H100", "71.00 ± 12.71", "1.00 s", "19200 images/s", "3.00 GB"),
        ("SDGF stepwise", "on NVIDIA H100", "71.00", "2.00 s", "9600 images/s", "3.00 GB"),
    ]
    assert [row[place[0]].detail for row in table.rows] == [
        "333 ms per update",
        "3.33 ms per update",
        "6.67 ms per update",
    ]
    assert [row[2].marks for row in table.rows] == ["△", "△", ""]


def test_what_was_measured_is_the_median_so_that_a_run_that_was_held_up_does_not_move_it(run, sections):
    for seed, train in enumerate((10.0, 12.0, 900.0)):
        seconds = {"total": train, "train": train, "eval": 0.0, "data": 0.0}
        rate = {"unit": "images", "per_second": 1200 / train}
        run("sr_ste", "1:4", seed, summary={"seconds": seconds, "throughput": rate, "peak_memory_bytes": train * 1e6})
    ((group,),) = (section.groups for section in sections())
    table = cost_table(group, "title")
    shown = dict(zip(table.head, table.rows[0], strict=True))
    assert (shown["measured training"].text, shown["measured training"].detail) == ("12.0 s", "40.0 ms per update")
    assert (shown["throughput"].text, shown["peak memory"].text) == ("100 images/s", "12.0 MB")
