"""The GLUE average: over the tasks that all recipes of a row have, by hand."""

import json

import pytest

from nmtrain.report import write_report
from nmtrain.report.compare.glue_average import glue_tables, why_no_average


@pytest.fixture
def train(run):
    """Runs of one recipe on one task of GLUE, a seed for each of ``values``."""

    def write(task, recipe, values, headline="accuracy", pattern="1:8", **config):
        for seed, value in enumerate(values):
            run(
                recipe, pattern, seed, value, config={"data.name": "glue", "data.task": task, **config},
                name="-".join([task, recipe, str(seed), *map(str, config.values())]), headline=headline,
                summary={"data": "glue", "headline": headline, "metrics": {f"val/{headline}": value}},
            )  # fmt: skip

    return write


def cells(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_a_row_averages_over_the_tasks_that_all_its_recipes_have(train, sections):
    train("rte", "sr_ste", [0.60, 0.62])
    train("cola", "sr_ste", [0.20, 0.30], headline="matthews")
    train("sst2", "sr_ste", [0.90, 0.90])  # which MDGF was not trained on
    train("rte", "mdgf", [0.70, 0.74])
    train("cola", "mdgf", [0.40, 0.40], headline="matthews")
    (table,) = glue_tables(sections())
    ((pattern, tasks, sr_ste, mdgf),) = table.rows
    assert (pattern.text, tasks.text, tasks.detail) == ("1:8", "cola, rte", "2 of 9")
    # By seed: (60 + 20) / 2 = 40 and (62 + 30) / 2 = 46; (70 + 40) / 2 = 55 and (74 + 40) / 2 = 57.
    assert sr_ste.value == pytest.approx(0.43)
    assert sr_ste.detail == "sd 4.24, n = 2"
    assert mdgf.value == pytest.approx(0.56)
    assert mdgf.best
    assert not sr_ste.best


def test_a_task_with_several_settings_of_its_data_is_left_out_and_named(train, sections):
    train("rte", "sr_ste", [0.60])
    train("cola", "sr_ste", [0.20])
    train("sst2", "sr_ste", [0.90])
    train("sst2", "sr_ste", [0.95], **{"data.input_length": 512})
    (table,) = glue_tables(sections())
    assert table.rows[0][1].text == "cola, rte"
    assert table.rows[0][2].value == pytest.approx(0.40)
    assert "Left out, trained with several settings: sst2." in table.notes


# Whatever the config says beside the task.
OTHER = [
    {"train.epochs": 7.0},
    {"optim.lr": 0.01},
    {"mask.axis": "output"},
    {"mask.names": ["head.weight"]},
    {"mask.patterns": {"ff": "1:4"}},
    {"model.pretrained": "google-t5/t5-base"},
    {"train.batch_size": 8},
    {"train.precision": "bf16"},
]


@pytest.mark.parametrize("other", OTHER, ids=lambda other: next(iter(other)))
def test_only_tasks_that_were_trained_alike_are_averaged(train, sections, other):
    train("rte", "sr_ste", [0.60])
    train("cola", "sr_ste", [0.20])
    train("sst2", "sr_ste", [0.90], **other)
    (table,) = glue_tables(sections())
    assert table.rows[0][1].text == "cola, rte"
    assert table.rows[0][2].value == pytest.approx(0.40)
    ((key, value),) = other.items()
    key, value = (key, value) if not isinstance(value, dict) else ("mask.patterns.ff", "1:4")
    shown = value if isinstance(value, str) else json.dumps(int(value) if value == 7.0 else value)
    assert f"Left out, trained with another setting: sst2 ({key}={shown})." in table.notes


def test_what_is_a_tasks_own_may_differ(train, sections):
    train("rte", "sr_ste", [0.60], **{"data.path": "/somewhere/rte", "data.input_length": 256})
    train("cola", "sr_ste", [0.20], headline="matthews", **{"data.path": "/somewhere/cola"})
    (table,) = glue_tables(sections())
    assert table.rows[0][2].value == pytest.approx(0.40)
    assert table.title == "GLUE average: vit, ff sparse, validation split"


def test_tasks_trained_in_two_ways_are_two_tables_that_say_how(train, sections):
    for rate, gain in ((0.01, 0.1), (0.001, 0.0)):
        for task in ("rte", "cola"):
            train(task, "sr_ste", [0.60 + gain], **{"optim.lr": rate})
    tables = {table.title: table.rows[0][2].text for table in glue_tables(sections())}
    assert tables == {
        "GLUE average: vit, ff sparse, validation split (optim.lr=0.001)": "60.00",
        "GLUE average: vit, ff sparse, validation split (optim.lr=0.01)": "70.00",
    }
    assert len({table.slug for table in glue_tables(sections())}) == 2


def test_the_title_says_what_is_not_as_shipped(train, sections):
    train("rte", "sr_ste", [0.60], **{"mask.axis": "output"})
    train("cola", "sr_ste", [0.60], **{"mask.axis": "output"})
    assert [table.title for table in glue_tables(sections())] == [
        "GLUE average: vit, ff sparse, validation split (mask.axis=output)"
    ]


def test_it_is_said_why_there_is_no_average(train, sections):
    train("rte", "sr_ste", [0.60], **{"optim.lr": 0.01})
    assert why_no_average(sections()) is None
    train("cola", "sr_ste", [0.20])
    assert glue_tables(sections()) == []
    assert why_no_average(sections()) == (
        "There is no average over tasks of GLUE: no two were trained alike. They differ in optim.lr."
    )
    train("cola", "sr_ste", [0.20], **{"optim.lr": 0.01})
    assert why_no_average(sections()) is None


def test_one_task_or_other_data_make_no_table(train, run, sections):
    train("rte", "sr_ste", [0.60])
    run("sr_ste", "1:8", 0, 0.5)
    assert glue_tables(sections()) == []


def test_the_report_has_the_table_in_all_its_forms(train, run, tmp_path):
    train("rte", "sr_ste", [0.60])
    train("cola", "sr_ste", [0.20])
    write_report([tmp_path / "runs"], tmp_path / "out")
    assert "GLUE average: vit, ff sparse, validation split" in (tmp_path / "out" / "report.md").read_text()
    assert "GLUE average" in (tmp_path / "out" / "report.html").read_text()
    assert list((tmp_path / "out" / "tables").glob("*glue-average*.tex"))
