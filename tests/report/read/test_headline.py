"""Reports on other metrics than accuracy: their names, units and directions reach every table, figure and sentence."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from nmtrain.launch.terminal import show_summary
from nmtrain.report import closing_table, write_report
from nmtrain.report.compare.advice import advice
from nmtrain.report.compare.cost import cost_table
from nmtrain.report.compare.equal_flops import equal_flops_table
from nmtrain.report.compare.notices import notices
from nmtrain.report.compare.quality import difference_table, quality_table
from nmtrain.report.compare.run_list import run_list
from nmtrain.report.compare.sections import build_sections
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames
from nmtrain.report.read.headline import headline_of

TEXT = {"model.name": "gpt", "data.name": "text"}


@pytest.fixture
def train(run):
    """Runs of one recipe, a seed for each of ``values``, whose headline metric is ``headline``."""

    def write(headline, recipe, pattern, values, *, curve=(), config=TEXT, **more):
        for seed, value in enumerate(values):
            summary = {"headline": headline, "metrics": {"val/loss": 1.0, f"val/{headline}": value}}
            run(
                recipe, pattern, seed, value, curve=curve, config=config, headline=headline,
                summary=summary | more.pop("summary", {}), **more,
            )  # fmt: skip

    return write


@pytest.fixture
def perplexity(train):
    """SDGF clearly best, MDGF second, SR-STE worst, dense better than all."""
    train("perplexity", "dense", "1:8", [18.0, 18.1, 18.2], inference_flops=4e6)
    train("perplexity", "sr_ste", "1:8", [30.0, 30.1, 30.2], curve=[(100, 60.0), (200, 40.0)], training_flops=1e9)
    train("perplexity", "mdgf", "1:8", [25.0, 25.1, 25.2], training_flops=2e9, curve=[(100, 50.0), (200, 35.0)])
    train("perplexity", "sdgf", "1:8", [20.0, 20.1, 20.2], training_flops=1e9, curve=[(100, 55.0), (200, 30.0)])


def group_of(sections):
    ((group,),) = (section.groups for section in sections())
    return group


def test_known_metrics_have_units_and_directions_and_unknown_ones_are_plain_numbers_to_raise():
    assert (headline_of("accuracy").text(0.7123), headline_of("accuracy").axis) == ("71.23", "accuracy / %")
    assert (headline_of("matthews").text(0.5), headline_of("matthews").axis) == ("50.00", "Matthews correlation / %")
    assert (headline_of("bleu").text(27.312), headline_of("bleu").axis) == ("27.31", "BLEU")
    assert (headline_of("perplexity").text(18.256), headline_of("perplexity").axis) == ("18.26", "perplexity")
    assert headline_of("accuracy", "test").axis == "test accuracy / %"
    assert headline_of("perplexity").signed(-1.5) == "-1.50"
    assert [headline_of(name).gain(2.0) for name in ("bleu", "loss", "perplexity", "novel")] == [2.0, -2.0, -2.0, 2.0]
    assert (headline_of("novel").text(0.71234), headline_of("novel").axis) == ("0.7123", "novel")


def test_the_lowest_perplexity_is_bold(perplexity, sections):
    group = group_of(sections)
    table = quality_table(group, "gpt on text")
    assert (table.slug, table.title) == ("gpt-on-text-ff-sparse-perplexity", "Perplexity: gpt on text")
    cells = dict(zip(table.head, table.rows[0], strict=True))
    assert (cells["SDGF stepwise"].text, cells["SDGF stepwise"].best) == ("20.10 ± 0.25", True)
    assert [name for name, cell in cells.items() if cell.best] == ["SDGF stepwise"]
    assert table.notes[0].startswith("Perplexity of the final, projected model")
    assert table.notes[0].endswith("Lower is better.")


def test_differences_keep_their_sign_and_say_which_is_better(perplexity, sections):
    table = difference_table(group_of(sections), "gpt on text")
    assert table is not None
    assert table.title == "Difference in perplexity to SR-STE: gpt on text"
    assert dict(zip(table.head, table.rows[0], strict=True))["SDGF stepwise"].text == "-10.00 ± 0.00"
    assert table.notes[0].startswith(
        "Perplexity above SR-STE on the validation split, so that less than zero is better: mean over pairs"
    )


def test_advice_names_the_lowest_as_best(perplexity, sections):
    (sentence,) = (said.text for said in advice(group_of(sections)))
    assert sentence == (
        "1:8 (density 12.5 %): SDGF stepwise with 20.10 ± 0.25 (n = 3) is best; next is MDGF exponential with "
        "25.10 ± 0.25 (n = 3). SDGF stepwise is 2.00 above dense with 18.10 ± 0.25 (n = 3)."
    )


def test_advice_on_what_does_not_separate_speaks_of_the_lowest_mean(train, sections):
    for recipe, values in (("sr_ste", [30.0, 30.1, 30.2]), ("sdgf", [20.0, 20.4]), ("mdgf", [20.3, 20.3])):
        train("perplexity", recipe, "1:8", values)
    (sentence,) = (said.text for said in advice(group_of(sections)))
    assert "Lowest mean: SDGF stepwise with 20.20 ± 2.54 (n = 2); it is below SR-STE." in sentence


def test_the_pareto_front_of_perplexity_runs_along_its_lower_side(perplexity, sections):
    table = cost_table(group_of(sections), "")
    assert table.head[2] == "validation perplexity"
    flops = list(table.head).index("inference FLOPs")
    assert {row[1].text for row in table.rows if row[flops].best} == {"dense", "SDGF stepwise"}


def test_the_lowest_is_best_at_equal_flops(perplexity, runs):
    frames = build_frames(read_runs([runs]))
    (section,) = build_sections(frames)
    table = equal_flops_table(section, frames.curves)
    assert table is not None
    assert table.title.startswith("Perplexity at equal training FLOPs")
    found = {row[2].text: (row[3].text, row[3].best) for row in table.rows if row[1].text == "1.00 GFLOPs"}
    assert found == {  # 1e9 is half way of MDGF's 2e9, between updates 100 and 200
        "SR-STE": ("30.10 ± 0.25", False),
        "MDGF exponential": ("42.50 ± 0.00", False),
        "SDGF stepwise": ("20.10 ± 0.25", True),
    }


def test_throughput_and_time_per_update_stand_in_the_cost_table(train, sections):
    summary = {"throughput": {"unit": "tokens", "per_second": 1234.5}}
    train("bleu", "sdgf", "1:8", [27.3], summary=summary)
    train("bleu", "sr_ste", "1:8", [26.0])
    table = cost_table(group_of(sections), "")
    rows = {row[1].text: dict(zip(table.head, row, strict=True)) for row in table.rows}
    assert rows["SDGF stepwise"]["validation BLEU"].text == "27.30"
    assert rows["SDGF stepwise"]["throughput"].text == "1234 tokens/s"
    assert rows["SR-STE"]["throughput"].text == "–"
    assert rows["SDGF stepwise"]["measured training"].detail == "33.3 ms per update"


def test_the_list_of_runs_says_which_metric_a_value_is_and_how_much_was_padding(train, run, runs):
    train("perplexity", "sdgf", "1:8", [20.0], summary={"padding": 0.123}, name="text")
    run("sdgf", "1:8", 0, 0.9, name="images")
    listed = run_list(build_frames(read_runs([runs])).runs).table
    place = {name: list(listed.head).index(name) for name in ("final value", "padding / %")}
    rows = {row[0].text: row for row in listed.rows}
    assert (rows["text"][place["final value"]].text, rows["text"][place["final value"]].detail) == (
        "20.00",
        "validation perplexity",
    )
    assert rows["images"][place["final value"]].detail == "validation accuracy / %"
    assert [rows[name][place["padding / %"]].text for name in ("text", "images")] == ["12.3", "–"]


def test_other_metrics_and_tasks_are_other_sections(train, run, sections):
    run("sdgf", "1:8", 0, 0.9)
    for task, headline in (("cola", "matthews"), ("mnli", "accuracy")):
        config = {"model.name": "t5", "data.name": "glue", "data.task": task}
        train(headline, "sdgf", "1:8", [0.6], config=config, name=task)
    train("bleu", "sdgf", "1:8", [27.0], config={"data.name": "wmt", "data.pair": "en-de"}, name="wmt")
    titles = [(section.title, section.headline.name) for section in sections()]
    assert titles == [
        ("t5 on glue-cola, ff sparse, validation split", "matthews"),
        ("t5 on glue-mnli, ff sparse, validation split", "accuracy"),
        ("vit on glyphs, ff sparse, validation split", "accuracy"),
        ("vit on wmt-en-de, ff sparse, validation split", "bleu"),
    ]


def test_one_config_with_two_metrics_is_not_averaged(train, sections):
    train("accuracy", "sdgf", "1:8", [0.6], name="old")
    train("loss", "sdgf", "1:8", [1.25], name="new")
    tables = [quality_table(group, "") for section in sections() for group in section.groups]
    assert sorted(table.rows[0][1].text for table in tables) == ["1.2500", "60.00"]
    assert len({table.slug for table in tables}) == 2


def test_a_missing_value_is_named_by_its_metric(train, runs):
    train("bleu", "sdgf", "1:8", [27.0, math.nan])
    assert notices(build_frames(read_runs([runs])).runs)[-1] == (
        "Finished with a final validation BLEU that is NaN or missing: sdgf_stepwise-1of8-s1."
    )
    assert "27.00" in closing_table([runs])


def test_a_whole_report_on_perplexity_never_speaks_of_accuracy(perplexity, runs, tmp_path):
    write_report([runs], tmp_path)
    for path in (*tmp_path.glob("*.md"), *tmp_path.glob("tables/*"), *tmp_path.glob("figures/*.csv")):
        assert "ccuracy" not in path.read_text(), path.name
    data = pd.read_csv(tmp_path / "figures" / "gpt-on-text-ff-sparse-inference.csv")
    assert set(data.loc[data["inference_flops_front"], "recipe"]) == {"dense", "SDGF stepwise"}
    curves = pd.read_csv(tmp_path / "frames" / "curves.csv")
    assert curves["quality"].max() == 60.0


def test_the_closing_table_of_a_run_names_its_metric(capsys, tmp_path):
    summary = {
        "recipe": {"variant": "sdgf_stepwise"}, "sparsity": "1:8", "density": 0.125,
        "flops": {"training": 1e9, "training_dense": 2e9, "inference": 1e6, "inference_dense": 2e6},
        "bytes": {"sparse": 1e3, "dense": 2e3}, "seconds": {"total": 2.0, "train": 1.0, "data": 0.5},
    }  # fmt: skip
    tokens = {"throughput": {"unit": "tokens", "per_second": 1234.5}, "active_share": 0.4375}
    show_summary(summary | tokens | {"headline": "perplexity", "metrics": {"val/perplexity": 18.256}}, tmp_path, "val")
    show_summary(summary | {"metrics": {"test/accuracy": 0.7123}}, tmp_path, "test")
    show_summary(summary | {"metrics": {"val/accuracy": 0.8123}}, Path("my results/run"), "test")  # of before
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "validation perplexity, projected model 18.26" in lines
    assert "throughput 1234 tokens/s" in lines
    assert [line for line in lines if line.startswith("active")] == ["active parameters, average over training 0.4375"]
    assert "test accuracy, projected model 71.23 %" in lines
    assert "test accuracy, projected model 81.23 %" in lines
    assert lines[-2:] == ["report: nmtrain report 'my results'", "run folder: my results/run"]
