"""Figures on validation and on test: they stand in sections of their own and say which they are."""

import json

import pandas as pd
import pytest

from nmtrain.report import write_report
from nmtrain.report.compare.advice import advice
from nmtrain.report.compare.cost import cost_table
from nmtrain.report.compare.equal_flops import equal_flops_table
from nmtrain.report.compare.glue_average import glue_tables
from nmtrain.report.compare.notices import notices
from nmtrain.report.compare.quality import difference_table, quality_table
from nmtrain.report.compare.run_list import run_list
from nmtrain.report.compare.sections import build_sections
from nmtrain.report.compare.table import plain_text
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames
from nmtrain.report.read.split import metrics_on

VALIDATION, TEST = "vit on glyphs, ff sparse, validation split", "vit on glyphs, ff sparse, test split"


def evaluate(folder, value, *, headline="accuracy", data=None, **changes):
    """What ``nmtrain eval RUN data.evaluate=test`` leaves in a run's folder."""
    content = {
        "run": folder.name,
        "split": "test",
        "headline": headline,
        "metrics": {f"test/{headline}": value, "test/loss": 1.5},
        "fixes": ["penalty-once", "needed-gradients", "junk-answers"],
        "data": {"name": "glyphs", "evaluate": "test", "cache_dir": None} | (data or {}),
        "digests": {"examples": "00"},
        "versions": {"nmtrain": "0.1.0"},
    }
    (folder / "test").mkdir(exist_ok=True)
    file = folder / "test" / "metrics.json"
    file.write_text(json.dumps({key: v for key, v in (content | changes).items() if v is not None}))
    return file


@pytest.fixture
def frames(runs):
    return lambda: build_frames(read_runs([runs]))


@pytest.fixture
def tested(run):
    """SR-STE and SDGF over three seeds: on validation SDGF is the better one, on test the worse one."""
    for seed in range(3):
        noise = seed / 1000
        sdgf = run("sdgf", "1:8", seed, 0.80 + noise, curve=[(100, 0.5), (200, 0.6)])
        sr_ste = run("sr_ste", "1:8", seed, 0.70 + noise, curve=[(100, 0.4), (200, 0.5)])
        evaluate(sdgf, 0.60 + noise)
        evaluate(sr_ste, 0.65 + noise)


def cells(group) -> dict[str, str]:
    table = quality_table(group, "")
    return {label: cell.text for label, cell in zip(table.head, table.rows[0], strict=True)}


def test_each_split_has_a_section_of_its_own(tested, frames):
    validation, test = build_sections(frames())
    assert [validation.title, test.title] == [VALIDATION, TEST]
    assert [validation.slug, test.slug] == ["vit-on-glyphs-ff-sparse", "vit-on-glyphs-ff-sparse-test"]
    assert cells(validation.groups[0]) == {"pattern": "1:8", "SR-STE": "70.10 ± 0.25", "SDGF stepwise": "80.10 ± 0.25"}
    assert cells(test.groups[0]) == {"pattern": "1:8", "SR-STE": "65.10 ± 0.25", "SDGF stepwise": "60.10 ± 0.25"}


def test_differences_advice_and_fronts_are_those_of_their_split(tested, frames):
    for section, difference, best in zip(
        build_sections(frames()), ("+10.00 ± 0.00", "-5.00 ± 0.00"), ("SDGF stepwise", "SR-STE"), strict=True
    ):
        (group,) = section.groups
        assert difference_table(group, section.title).rows[0][1].text == difference
        assert f"{best} with" in advice(group)[0].text.split(" is best")[0]
        table = cost_table(group, section.title)
        word = section.headline.split
        assert table.head[2] == f"{word} accuracy / %"
        bytes_ = list(table.head).index("bytes")
        assert [row[1].text for row in table.rows if row[bytes_].best] == [best]


def test_every_table_of_quality_says_its_split(tested, frames):
    read = frames()
    curves = {"validation": read.curves, "test": read.curves[:0]}
    for section, word in zip(build_sections(read), curves, strict=True):
        (group,) = section.groups
        tables = [
            quality_table(group, section.title),
            difference_table(group, section.title),
            cost_table(group, section.title),
            equal_flops_table(section, curves[word]),
        ]
        for table in tables:
            assert f"{word} split" in table.title
            said = plain_text(table).replace(table.title, "")
            assert f"{word} split" in said or f"{word} accuracy" in said
            assert ("validation" if word == "test" else "test split") not in said


def test_a_report_with_test_figures_has_both_and_runs_without_them_are_as_they_were(tested, run, runs, tmp_path):
    result = write_report([runs], tmp_path / "out")
    assert (result.runs, result.counted) == (6, 6)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in result.paths}
    tables = {name for name in names if name.startswith("tables/")}
    plain = {f"tables/vit-on-glyphs-ff-sparse-{name}.tex" for name in ("accuracy", "difference", "cost", "equal-flops")}
    plain.add("tables/vit-on-glyphs-ff-sparse-claims.tex")
    assert tables == plain | {name.replace("sparse-", "sparse-test-") for name in plain} | {"tables/verdict.csv"}
    assert "figures/vit-on-glyphs-ff-sparse-training.png" in names
    assert "figures/vit-on-glyphs-ff-sparse-test-training.png" not in names  # nothing was evaluated along the way
    assert "figures/vit-on-glyphs-ff-sparse-test-patterns.png" in names
    page = (tmp_path / "out" / "report.html").read_text()
    for row in pd.read_csv(tmp_path / "out" / "frames" / "runs.csv").itertuples():
        assert f'id="{row.cell}"' in page  # what the numbers link to
    before = (tmp_path / "out" / "tables" / "vit-on-glyphs-ff-sparse-accuracy.tex").read_bytes()
    for folder in runs.iterdir():
        (folder / "test" / "metrics.json").unlink()
    again = write_report([runs], tmp_path / "out")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in again.paths} == {
        name for name in names if "-test-" not in name
    }
    assert (tmp_path / "out" / "tables" / "vit-on-glyphs-ff-sparse-accuracy.tex").read_bytes() == before


def test_the_list_of_runs_says_the_split_of_each_value(run, frames):
    folder = run("sdgf", "1:8", 0, 0.8)
    assert "validation accuracy / %" in run_list(frames().runs).table.head
    evaluate(folder, 0.6)
    listed = run_list(frames().runs)
    value = list(listed.table.head).index("final value")
    found = {row[value].detail: row[value].text for row in listed.table.rows}
    assert found == {"validation accuracy / %": "80.00", "test accuracy / %": "60.00"}
    assert len(set(listed.cells)) == 2


def test_a_run_that_trained_on_the_test_split_stands_with_those_evaluated_on_it_later(run, frames):
    evaluate(run("sdgf", "1:8", 0, 0.8, name="later"), 0.6)
    summary = {"metrics": {"test/accuracy": 0.62, "test/loss": 1.0}}
    run("sdgf", "1:8", 1, 0.62, name="at-once", config={"data.evaluate": "test"}, summary=summary)
    validation, test = build_sections(frames())
    assert validation.groups[0].result("1:8", "sdgf_stepwise", "SDGF stepwise").scores.by_seed == {0: 0.8}
    assert test.groups[0].result("1:8", "sdgf_stepwise", "SDGF stepwise").scores.by_seed == {0: 0.6, 1: 0.62}


def test_metrics_of_before_are_of_the_split_that_the_config_names(run, frames):
    run("sdgf", "1:8", 0, 0.62, config={"data.evaluate": "test"})  # its summary says val/accuracy
    (section,) = build_sections(frames())
    assert section.title == TEST
    assert section.groups[0].runs["quality"].tolist() == [0.62]
    assert metrics_on("test", {"val/accuracy": 0.62}) == {"accuracy": 0.62}
    assert metrics_on("test", {"val/accuracy": 0.8, "test/accuracy": 0.62}) == {"accuracy": 0.62}
    assert metrics_on("val", {"test/accuracy": 0.62}) == {}


def test_curves_of_runs_that_trained_on_test_are_theirs_alone(run, runs, tmp_path):
    on_test = {"data.evaluate": "test"}
    lines = '{"update": 100, "epoch": 1.0, "split": "test", "flops": 2e9, "accuracy": 0.4, "loss": 1.0}\n'
    for recipe in ("sdgf", "sr_ste"):
        run(recipe, "1:8", 0, 0.62, config=on_test, metrics_tail=lines, name=f"{recipe}-test")
        evaluate(run(recipe, "1:8", 1, 0.8, curve=[(100, 0.5)]), 0.6)
    write_report([runs], tmp_path / "out")
    for name, expected in (("", {0.5, 0.8}), ("-test", {0.4, 0.62})):
        data = pd.read_csv(tmp_path / "out" / "figures" / f"vit-on-glyphs-ff-sparse{name}-training.csv")
        assert set(data["accuracy"]) == expected


def test_other_test_data_are_another_section(run, frames):
    evaluate(run("sdgf", "1:8", 0, 0.8), 0.6)
    evaluate(run("sdgf", "1:8", 1, 0.8), 0.7, data={"test_size": 400})
    titles = [section.title for section in build_sections(frames())]
    assert titles == [VALIDATION, f"{TEST} (data.test_size=10000)", f"{TEST} (data.test_size=400)"]


def test_a_lost_seed_is_lost_on_test_too(tested, run, frames):
    run("sdgf", "1:8", 3, status="failed", reason="the training loss is nan (updates 1 to 2)")
    for section in build_sections(frames()):
        result = section.groups[0].result("1:8", "sdgf_stepwise", "SDGF stepwise")
        assert result.scores.lost == {3: "diverged"}
        assert "1 of 4 seeds diverged" in result.scores.lost_text


def test_a_lost_run_makes_no_section_on_test_by_itself(run, frames):
    run("sdgf", "1:8", 0, 0.8)
    run("sdgf", "1:8", 3, status="failed", reason="the training loss is nan (updates 1 to 2)")
    assert [section.title for section in build_sections(frames())] == [VALIDATION]


def test_what_is_not_evaluated_on_test_beside_others_is_named(tested, run, frames):
    run("sdgf", "1:8", 3, 0.8)
    run("sdgf", "1:8", 0, 0.8, config={"optim.lr": 1.0}, name="of-another-setting")
    said = notices(frames().runs)
    assert said[0] == "8 of 8 runs are finished and counted."
    assert said[1:] == [
        "Not evaluated on the test split, as others like them are (nmtrain eval RUN data.evaluate=test does it): "
        "sdgf_stepwise-1of8-s3."
    ]


def test_what_was_trained_on_test_once_more_is_not_missing_there(tested, run, frames):
    for status, seed in (("finished", 3), ("failed", 4)):
        run("sdgf", "1:8", seed, 0.8, status=status, reason="loss is NaN" if status == "failed" else None)
        run("sdgf", " 1:8", seed, 0.6, name=f"again-{seed}", config={"data.evaluate": "test"})
    read = frames()
    assert not any("Not evaluated on the test split" in said for said in notices(read.runs))
    on_test = build_sections(read)[1].groups[0].result("1:8", "sdgf_stepwise", "SDGF stepwise")
    assert (on_test.quality.n, on_test.scores.lost) == (5, {})


def test_what_was_trained_on_test_with_other_options_is_still_missing(tested, run, frames):
    run("sdgf", "1:8", 3, 0.8)
    run("sdgf", "1:8", 3, 0.6, name="again", options={"finetune_fraction": 0.3}, config={"data.evaluate": "test"})
    assert any("Not evaluated on the test split" in said for said in notices(frames().runs))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run": "of-somebody-else"}, "is of another run, 'of-somebody-else'"),
        ({"split": "val"}, "is of another split, 'val'"),
        ({"headline": "bleu"}, "has the headline 'bleu', the run has 'accuracy'"),
        ({"metrics": {"val/accuracy": 0.6}}, "lacks metrics.test/accuracy"),
        ({"metrics": {"test/accuracy": "0.6"}}, 'metrics.test/accuracy = "0.6": must be a number'),
        ({"metrics": None}, "lacks metrics.test/accuracy"),
        ({"data": {"name": "digits"}}, "does not say that it is on the test split of data=glyphs"),
        ({"data": {"evaluate": "val"}}, "does not say that it is on the test split of data=glyphs"),
        ({"fixes": "all"}, "has signatures or fixes of another form"),
    ],
)
def test_a_foreign_test_file_is_told_and_the_run_still_counts(changes, why, tested, run, frames):
    evaluate(run("sdgf", "1:8", 3, 0.8), 0.6, **changes)
    _says_why_and_counts_the_rest(frames(), why)


def test_data_that_a_run_trained_on_are_no_test_data(run, frames):
    digits = {"data.name": "digits"}  # of before there was a test split
    evaluate(run("sdgf", "1:8", 0, 0.8, config=digits), 0.9, data={"name": "digits", "test_split": True})
    (section,) = build_sections(frames())
    assert "validation split" in section.title
    assert notices(frames().runs)[1] == (
        "Not counted on the test split, since test/metrics.json cannot be used: sdgf_stepwise-1of8-s0 (is on data that "
        "the run may have trained on: data.test_split=true, and false in training)."
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"run": ', "is damaged: Expecting value: line 1 column 9 (char 8)"),
        ("", "is damaged: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "is not a JSON object"),
    ],
)
def test_a_damaged_test_file_is_told_and_the_run_still_counts(content, why, tested, run, frames):
    evaluate(run("sdgf", "1:8", 3, 0.8), 0.6).write_text(content)
    _says_why_and_counts_the_rest(frames(), why)


def _says_why_and_counts_the_rest(read, why):
    expected = f"Not counted on the test split, since test/metrics.json cannot be used: sdgf_stepwise-1of8-s3 ({why})."
    assert expected in notices(read.runs)
    assert not any("Not evaluated" in said for said in notices(read.runs))
    validation, test = (section.groups[0] for section in build_sections(read))
    assert sorted(validation.result("1:8", "sdgf_stepwise", "SDGF stepwise").scores.by_seed) == [0, 1, 2, 3]
    assert sorted(test.result("1:8", "sdgf_stepwise", "SDGF stepwise").scores.by_seed) == [0, 1, 2]


def test_a_nan_on_test_is_named_by_its_split(run, frames):
    evaluate(run("sdgf", "1:8", 0, 0.8), float("nan"))
    said = "Finished with a final test accuracy that is NaN or missing: sdgf_stepwise-1of8-s0."
    assert notices(frames().runs)[1] == said


def test_a_run_folder_that_was_renamed_keeps_its_test_figures(run, runs, frames):
    folder = run("sdgf", "1:8", 0, 0.8)
    evaluate(folder, 0.6)
    folder.rename(runs / "another name")
    assert [section.title for section in build_sections(frames())] == [VALIDATION, TEST]


def test_glue_averages_over_one_split(run, frames):
    for task, value in (("cola", 0.5), ("rte", 0.7)):
        config = {"data.name": "glue", "data.task": task}
        folder = run("sdgf", "1:8", 0, value, name=task, config=config)
        evaluate(folder, value / 2, data={"name": "glue", "task": task})
    validation, test = glue_tables(build_sections(frames()))
    titles = [f"GLUE average: vit, ff sparse, {word} split" for word in ("validation", "test")]
    assert [validation.title, test.title] == titles
    assert [table.rows[0][2].text for table in (validation, test)] == ["60.00", "30.00"]
    assert validation.slug != test.slug
    assert "on the test split" in test.notes[0]


def test_scores_on_test_are_by_the_rules_of_the_code_that_scored_them(run, frames):
    config = {"data.name": "glue", "data.task": "rte"}
    on = {"name": "glue", "task": "rte"}
    evaluate(run("sdgf", "1:8", 0, 0.8, name="new", config=config), 0.6, data=on)
    evaluate(run("sdgf", "1:8", 1, 0.8, name="old", config=config), 0.6, data=on, fixes=[])
    titles = [section.title for section in build_sections(frames()) if "test split" in section.title]
    assert len(titles) == 2
    assert sum("older scoring=true" in title for title in titles) == 1
