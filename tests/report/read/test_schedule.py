"""From which update on a run was at its patterns, and what of its schedule only training found out."""

from nmtrain.report.compare.run_list import run_list
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames
from nmtrain.report.read.schedule import strict_from
from tests.report.conftest import write_run

AUTO = {"dense_fraction": "auto", "finetune_fraction": 0.0, "freeze_mask": False}
OWN = {"mask.roles": ["ff", "q"], "mask.patterns": {"q": "1:8"}}


def test_a_switch_that_training_found_is_where_a_role_s_own_pattern_begins(tmp_path):
    write_run(tmp_path, "step", options=AUTO, config=OWN, summary={"switched_at": 60}, updates=300)
    write_run(tmp_path, "step", seed=1, options=AUTO | {"dense_fraction": 0.5}, config=OWN, updates=300)
    assert [strict_from(folder) for folder in read_runs([tmp_path])] == [61, 151]


def test_the_list_of_runs_says_where_the_dense_phase_ended(tmp_path):
    write_run(tmp_path, "step", options=AUTO, summary={"switched_at": 60})
    write_run(tmp_path, "sr_ste")
    runs = build_frames(read_runs([tmp_path])).runs
    table = run_list(runs).table
    cells = {row[0].text: row[table.head.index("updates")] for row in table.rows}
    assert [(cell.text, cell.detail) for cell in cells.values()] == [("300", ""), ("300", "dense up to 60")]
    assert runs.set_index("run")["switched_at"].to_dict()["step-1of4-s0"] == 60
