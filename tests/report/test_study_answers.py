"""The study's answers: by hand where they are simple, and as committed they are what the committed records give."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study_answers():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import study_answers

        yield study_answers
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_a_correlation_has_the_interval_and_p_of_the_tables(study_answers):
    found = study_answers.Correlation("g2p", "grad_noise", "runs", 10, -0.6)
    # z = atanh(-0.6) = -0.6931, its reach 1.96 * 1.03 / sqrt(7) = 0.7630; t = 0.6 sqrt(8 / 0.64) = 2.1213, 8 degrees.
    assert found.interval == pytest.approx((-0.8969, 0.0698), abs=1e-4)
    assert found.p == pytest.approx(0.0667, abs=1e-4)


def test_gains_are_paired_by_seed_inside_a_bed_and_not_between_beds(study_answers):
    gain = study_answers.gain({0: 46.0, 1: 48.0, 2: 50.0}, {1: 44.0, 0: 43.0})
    assert gain == {0: 3.0, 1: 4.0}
    between = study_answers.difference(gain, study_answers.unpaired({0: 1.0, 1: 2.0}))
    assert (between.mean, between.pairs, between.n) == (2.0, 0, (2, 2))


def test_the_published_answers_are_those_of_the_published_records(study_answers):
    records = study_answers.Records(ROOT / "results" / "study")
    found, correlated = study_answers.answers(records), study_answers.correlations(records)
    written = list(study_answers.lines(records, found, correlated))
    assert (ROOT / "results" / "study" / "answers.md").read_text().splitlines() == written


def test_what_the_pages_say_with_an_interval_stands_in_the_answers():
    """In any order of the two sides: a page says how far one is below the other."""
    given = set(re.findall(r"(\d+\.\d) ± (\d+\.\d)", (ROOT / "results/study/answers.md").read_text()))
    page = (ROOT / "docs/study.md").read_text()
    results = (ROOT / "README.md").read_text().split("## What it shows")[1].split("\n## ")[0]
    said = re.findall(r"(\d+\.\d+) ± (\d+\.\d+)", page + results)
    assert len(said) > 40
    assert sorted(set(said) - given) == []
