"""Claims on runs whose differences a reader can work out: see `test_quality` for ABOVE and BELOW."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import yaml

from nmtrain.errors import ReportError
from nmtrain.report import write_report
from nmtrain.report.compare.sections import build_sections
from nmtrain.report.compare.verdict import judge
from nmtrain.report.compare.verdict_table import verdict_tables, why_fewer
from nmtrain.report.read.claims import read_claims
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames

# Differences of 0.6, 1.0 and 1.4 points: p = 0.049 of a t-test with 2 degrees of freedom.
ABOVE, BELOW = [0.800, 0.800, 0.800], [0.794, 0.790, 0.786]


@pytest.fixture
def claim(runs):
    """Write claims.yaml beside the runs; keys are changed from MDGF over SR-STE at 1:8, at equal updates."""

    def write(*changes):
        usual = {"recipe": "mdgf", "over": "sr_ste", "patterns": ["1:8"], "at": "updates"}
        (runs / "claims.yaml").write_text(yaml.safe_dump([usual | change for change in changes or ({},)]))

    return write


@pytest.fixture
def verdict(runs):
    def build():
        frames = build_frames(read_runs([runs]))
        return judge(read_claims([runs]), build_sections(frames), frames)

    return build


@pytest.fixture
def rows(verdict):
    """Rows of the user's claims: pattern, at equal, verdict and why not, difference, n, p, could show."""

    def build():
        found = [row for table in verdict_tables(verdict()) for row in table.rows if row[1].text == "claims.yaml"]
        return [
            (row[2].text, row[3].detail, row[4].text, row[4].detail, *(cell.text for cell in row[6:10]))
            for row in found
        ]

    return build


def seeds(run, recipe, accuracies, pattern="1:8", **more):
    for seed, accuracy in enumerate(accuracies):
        run(recipe, pattern, seed, accuracy, **more)


def test_supported_with_effect_interval_n_p_and_power(run, claim, rows):
    """Could show: 3.264 standard deviations of 0.4 points, for three pairs (see `test_statistics`)."""
    seeds(run, "mdgf", ABOVE)
    seeds(run, "sr_ste", BELOW)
    claim()
    assert rows() == [("1:8", "300", "supported", "", "+1.00 ± 0.99", "3 pairs", "0.049", "1.31")]


def test_how_much_is_claimed_stands_beside_what_was_found(run, claim, verdict):
    seeds(run, "mdgf", ABOVE)
    seeds(run, "sr_ste", BELOW)
    claim({"claimed": "3 points"}, {})
    (table,) = verdict_tables(verdict())
    assert table.head[-1] == "claimed"
    assert [(row[1].text, row[-1].text) for row in table.rows] == [
        ("paper", "up to 2 points in vision, 5 in language"),
        ("paper", "up to 2 points"),  # at equal FLOPs
        ("claims.yaml", "3 points"),
        ("claims.yaml", "–"),
    ]


def test_contradicted(run, claim, rows):
    seeds(run, "mdgf", BELOW)
    seeds(run, "sr_ste", ABOVE)
    claim()
    assert rows() == [("1:8", "300", "contradicted", "", "-1.00 ± 0.99", "3 pairs", "0.049", "1.31")]


def test_not_supported(run, claim, rows):
    seeds(run, "mdgf", [0.80, 0.81, 0.80])
    seeds(run, "sr_ste", [0.80, 0.80, 0.81])
    claim()
    # Differences of 0, 1 and -1 points: sd 1, half width 4.303 / sqrt(3).
    assert rows() == [("1:8", "300", "not supported", "", "+0.00 ± 2.48", "3 pairs", "1.000", "3.26")]


def test_the_patterns_of_a_claim_are_corrected_together_and_claims_are_not(run, claim, rows):
    for pattern in ("1:8", "1:16"):
        seeds(run, "mdgf", ABOVE, pattern)
        seeds(run, "sr_ste", BELOW, pattern)
    claim({"patterns": ["1:8", "1:16"]}, {"patterns": ["1:16"]})
    assert [(row[0], row[2], row[6]) for row in rows()] == [
        ("1:8", "not supported", "0.049, Holm 0.099"),
        ("1:16", "not supported", "0.049, Holm 0.099"),
        ("1:16", "supported", "0.049"),
    ]


def test_less_is_better_where_the_metric_says_so(run, claim, rows):
    for recipe, values in (("mdgf", [6.0, 6.1, 6.2]), ("sr_ste", [7.0, 7.1, 7.3])):
        for seed, value in enumerate(values):
            metrics = {"val/perplexity": value, "val/loss": math.log(value), "val/accuracy": 0.5}
            run(recipe, "1:8", seed, value, headline="perplexity",
                summary={"headline": "perplexity", "metrics": metrics})  # fmt: skip
    claim({}, {"metric": "loss"}, {"metric": "accuracy"})
    assert [(row[2], row[4]) for row in rows()] == [
        ("supported", "-1.03 ± 0.14"),
        ("supported", "-0.1564 ± 0.0151"),
        ("not supported", "+0.00 ± 0.00"),
    ]


def test_one_seed_or_a_lost_one_is_no_test(run, claim, rows):
    seeds(run, "mdgf", [0.8])
    seeds(run, "sr_ste", [0.7])
    seeds(run, "sdgf", [0.9, 0.8, math.nan])
    run("ste", "1:8", 0, status="failed", reason="loss is NaN at update 40")
    claim({}, {"recipe": "sdgf"}, {"recipe": "ste"})
    assert rows() == [
        ("1:8", "300", "not tested", "too few seeds", "+10.00", "1 pair", "–", "–"),
        ("1:8", "300", "not tested", "SDGF stepwise: 1 of 3 seeds NaN", "+20.00", "1 pair", "–", "–"),
        ("1:8", "– and 300", "not tested", "STE: 1 of 1 seeds diverged", *"––––"),
    ]


def test_equal_flops_take_finished_runs_of_any_length_that_lie_within_five_percent(run, claim, rows):
    seeds(run, "mdgf", ABOVE, training_flops=9.8e9)
    seeds(run, "sr_ste", BELOW, training_flops=5e9)
    for seed in range(3):
        longer = {"train.epochs": 6.0}
        run("sr_ste", "1:8", seed, ABOVE[seed], name=f"longer-{seed}", training_flops=1e10, updates=600, config=longer)
    claim({"at": "flops"}, {"at": "updates"})
    assert [row[:3] + row[4:6] for row in rows()] == [
        ("1:8", "9.80 GFLOPs and 10.0 GFLOPs", "not supported", "+0.00 ± 0.00", "3 pairs"),
        ("1:8", "300", "supported", "+1.00 ± 0.99", "3 pairs"),
    ]


def test_what_spent_otherwise_is_not_tested_at_equal_flops(run, claim, rows):
    seeds(run, "mdgf", ABOVE, training_flops=9e9)
    seeds(run, "sr_ste", BELOW, training_flops=5e9)
    claim({"at": "flops"})
    assert rows() == [("1:8", "9.00 GFLOPs and 5.00 GFLOPs", "not tested", "not at equal flops", *"––––")]


def test_runs_of_one_budget_are_not_at_equal_updates(run, claim, rows):
    seeds(run, "mdgf", ABOVE, updates=200)
    seeds(run, "sr_ste", BELOW, updates=300)
    claim()
    assert rows() == [("1:8", "200 and 300", "not tested", "not at equal updates", *"––––")]


def test_dense_training_can_be_claimed_over_a_recipe(run, claim, rows):
    seeds(run, "dense", ABOVE)
    seeds(run, "sr_ste", BELOW)
    claim({"recipe": "dense"})
    assert rows()[0][2:5] == ("supported", "", "+1.00 ± 0.99")


def test_a_claim_is_about_the_runs_that_it_names(run, claim, verdict):
    for place, roles in enumerate((["ff"], ["ff", "q"])):
        more = {"config": {"mask.roles": roles}, "summary": {"roles": roles}}
        for recipe, values in (("mdgf", ABOVE), ("sr_ste", BELOW)):
            for seed, value in enumerate(values):
                run(recipe, "1:8", seed, value, name=f"{recipe}-{place}-{seed}", **more)
    claim({}, {"roles": ["q", "ff"]}, {"roles": "ff", "model": "vit", "data": "glyphs"})
    found = [(one.claim.roles, one.section.title) for one in verdict().findings if one.claim.place]
    ff, both = (f"vit on glyphs, {roles} sparse, validation split" for roles in ("ff", "ff+q"))
    assert sorted(found, key=str) == sorted([(None, ff), (None, both), ("ff+q", both), ("ff", ff)], key=str)


def test_columns_are_named_by_recipe_variant_or_title(run, claim, rows):
    seeds(run, "sr_ste", BELOW)
    seeds(run, "mdgf", ABOVE)
    for seed in range(3):
        run("mdgf", "1:8", seed, BELOW[seed], name=f"other-{seed}", gradient="straight_through")
    titles = ("mdgf_exponential", "MDGF exponential", "MDGF exponential, straight-through gradient")
    claim(*({"recipe": title} for title in titles))
    assert [row[2] for row in rows()] == ["supported", "supported", "not supported"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"recipe": "sdgf"}, "recipe: 'sdgf' has no runs here. Available: ['sr_ste', 'mdgf_exponential',"),
        ({"recipe": "mdgf_exponentail"}, "did you mean mdgf_exponential?"),
        (
            {"recipe": "mdgf"},
            "recipe: 'mdgf' may be any of ['mdgf_exponential', 'MDGF exponential, 0.5 gradient']; name one of them",
        ),
        ({"over": "rigl"}, "over: 'rigl' has no runs here."),
        ({"patterns": ["1:8", "1:32"]}, "patterns: '1:32' has no runs of mdgf_exponential and sr_ste in one table. "),
        ({"patterns": ["1:8", "1:32"]}, "Available: ['1:8']"),
        ({"metric": "bleu"}, "metric: 'bleu' has no runs here. Available: ['accuracy', 'loss']"),
        ({"model": "t5"}, "model: 't5' has no runs here. Available: ['vit']"),
        ({"data": "glyph"}, "data: 'glyph' has no runs here. Available: ['glyphs']; did you mean glyphs?"),
        ({"roles": ["q"]}, "roles: 'q' has no runs here. Available: ['ff']"),
    ],
)
def test_a_claim_that_names_what_has_no_runs_ends_the_report_before_it_writes(
    change, fault, run, runs, claim, tmp_path
):
    seeds(run, "sr_ste", BELOW)
    seeds(run, "mdgf", ABOVE)
    run("mdgf", "1:8", 0, 0.5, name="other", gradient="0.5")
    claim({"recipe": "mdgf_exponential"} | change)
    with pytest.raises(ReportError) as raised:
        write_report([runs], tmp_path / "out")
    assert str(raised.value).startswith(f"{runs / 'claims.yaml'}: ")
    assert fault in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_what_we_claim_is_told_where_it_has_runs_and_counted_where_not(run, verdict):
    seeds(run, "sr_ste", BELOW, "1:32")
    seeds(run, "mdgf", ABOVE, "1:32", variant="mdgf_linear", training_flops=9e9)
    found = verdict()
    assert [(one.claim.source, one.one.label, one.pattern, one.claim.at) for one in found.findings] == [
        ("paper", "MDGF linear", "1:32", "updates")
    ]
    assert why_fewer(found) == ["14 of the 15 claims that nmtrain ships have no runs here to be tested by."]


def test_where_nothing_is_claimed_a_report_has_no_verdict(run, runs, tmp_path):
    run("sdgf", "1:8")
    result = write_report([runs], tmp_path / "out")
    assert "Verdict" not in (tmp_path / "out" / "report.md").read_text()
    assert tmp_path / "out" / "tables" / "verdict.csv" not in result.paths


def test_the_verdict_stands_in_page_terminal_and_csv(run, runs, claim, tmp_path):
    seeds(run, "mdgf", ABOVE)
    seeds(run, "sr_ste", BELOW)
    claim()
    result = write_report([runs], tmp_path / "out")
    assert "MDGF exponential over SR-STE  claims.yaml  1:8" in result.table
    for page in ("report.html", "report.md"):
        assert "supported" in (tmp_path / "out" / page).read_text()
    record = pd.read_csv(tmp_path / "out" / "tables" / "verdict.csv").query("claim_in == 'claims.yaml'").iloc[0]
    assert record["recipe":"split"].tolist() == ["MDGF exponential", "SR-STE", "vit", "glyphs", "ff", "val"]
    assert record["pattern":"verdict"].tolist() == ["1:8", "accuracy", "updates", 300, 300, "supported"]
    assert record[["difference", "low", "high"]].tolist() == pytest.approx(
        [0.01, 0.01 - 0.009937, 0.01 + 0.009937], abs=1e-6
    )
    assert record[["pairs", "n", "n_over"]].tolist() == [3, 3, 3]
    assert record[["p", "holm", "smallest_shown"]].tolist() == pytest.approx([0.0494, 0.0494, 0.01306], abs=5e-5)
