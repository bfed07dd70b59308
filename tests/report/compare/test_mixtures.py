"""Runs that are averaged or compared although something beside the seed or the recipe differs: marked and named."""

from __future__ import annotations

import pandas as pd
import pytest

from nmtrain.report import write_report
from nmtrain.report.compare.advice import advice
from nmtrain.report.compare.notices import notices
from nmtrain.report.compare.quality import difference_table, quality_table
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames

TORCH = {"nmtrain": "0.1.0", "torch": "2.11.0", "timm": "1.0.31", "python": "3.11.1"}


@pytest.fixture
def said(runs):
    return lambda: notices(build_frames(read_runs([runs])).runs)


@pytest.mark.parametrize("library", ["torch", "timm", "transformers", "tokenizers", "datasets", "sacrebleu"])
def test_other_versions_of_a_library_in_one_mean_are_marked_and_named(run, table, said, library):
    versions = TORCH | {library: "2.11.0"}
    run(seed=0, environment={"versions": versions})
    run(seed=1, environment={"versions": versions | {library: "2.15.0"}})
    assert table()["1:4", "SR-STE"].marks == "◊"
    assert said()[1:] == [
        "Compared, though trained by 2 sets of library versions or variables (vit on glyphs): "
        f"{library} 2.11.0: sr_ste-1of4-s0; {library} 2.15.0: sr_ste-1of4-s1."
    ]


def test_other_variables_of_the_environment_are_marked_and_named(run, table, said):
    run(seed=0, environment={"versions": TORCH, "variables": {}})
    run(seed=1, environment={"versions": TORCH, "variables": {"NVIDIA_TF32_OVERRIDE": "1"}})
    assert table()["1:4", "SR-STE"].marks == "◊"
    assert "NVIDIA_TF32_OVERRIDE=1: sr_ste-1of4-s1" in said()[1]


def test_what_cannot_change_a_result_is_no_mixture(run, table, said):
    run(seed=0, environment={"versions": TORCH})
    run(seed=1, environment={"versions": TORCH | {"python": "3.13.0", "hydra-core": "1.4"}})
    assert table()["1:4", "SR-STE"].marks == ""
    assert len(said()) == 1


def test_recipes_compared_across_versions_are_named_though_no_mean_is_mixed(run, table, sections, said):
    run("sr_ste", environment={"versions": TORCH})
    run("sdgf", accuracy=0.8, environment={"versions": TORCH | {"torch": "2.15.0"}})
    run("dense", environment={"versions": TORCH | {"torch": "2.15.0"}})
    assert table()["1:4", "SR-STE"].marks == "?"
    ((group,),) = (section.groups for section in sections())
    assert difference_table(group, "").rows[0][1].marks == "◊"
    assert said()[1:] == [
        "Compared, though trained by 2 sets of library versions or variables (vit on glyphs): torch 2.11.0: "
        "sr_ste-1of4-s0; torch 2.15.0: dense-dense-s0, sdgf_stepwise-1of4-s0."
    ]


def test_sections_that_are_not_compared_may_differ(run, said):
    run(environment={"versions": TORCH})
    run(environment={"versions": TORCH | {"torch": "2.15.0"}}, config={"data.name": "digits"}, name="digits")
    assert len(said()) == 1


def test_other_devices_in_one_mean_are_marked_and_named(run, table, said):
    run(seed=0, environment={"device": "Intel CPU", "device_type": "cpu"})
    run(seed=1, environment={"device": "NVIDIA H100", "device_type": "cuda"})
    assert table()["1:4", "SR-STE"].marks == "△"
    assert said()[1:] == [
        "Compared, though trained by 2 devices (vit on glyphs): Intel CPU: sr_ste-1of4-s0; "
        "NVIDIA H100: sr_ste-1of4-s1. What was measured stands apart, the final values do not."
    ]


def test_a_run_resumed_on_another_device_or_version_is_told_from_the_others(run, table, said):
    before = {"versions": TORCH, "device": "Intel CPU", "git_commit": "0123456789abcdef"}
    run(seed=0, environment={"versions": TORCH, "device": "NVIDIA H100", "before": [before]})
    run(seed=1, environment={"versions": TORCH, "device": "NVIDIA H100"})
    assert table()["1:4", "SR-STE"].marks == "△"
    assert "Intel CPU, then NVIDIA H100: sr_ste-1of4-s0; NVIDIA H100: sr_ste-1of4-s1" in said()[1]


MICRO = {"train.micro_batches": 4}
FIXED = {"fixes": ["penalty-once"]}


def test_a_penalty_that_was_added_once_per_micro_batch_is_marked_and_named(run, table, sections, said):
    run("sr_ste", "1:4", 0, config={**MICRO, "train.batch_size": 64})
    run("sdgf", "1:4", 0, 0.8, config={**MICRO, "train.batch_size": 64})
    cells = table()
    assert (cells["1:4", "SR-STE"].marks, cells["1:4", "SDGF stepwise"].marks) == ("?¶", "")
    ((group,),) = (section.groups for section in sections())
    assert difference_table(group, "").rows[0][1].marks == "¶"
    assert advice(group)[0].text.endswith("Trained with too much of its penalty, see the notices: SR-STE.")
    assert said()[1:] == [
        "Trained by a version that added the penalty of SR-STE once per micro-batch, where once per update is right: "
        "sr_ste-1of4-s0 (4 times the penalty). Repeat them (force=true); they are marked ¶."
    ]


@pytest.mark.parametrize(
    ("options", "config", "summary", "before", "is_marked"),
    [
        ({}, MICRO, {}, [], True),
        ({"penalty": 2e-4}, MICRO, {"fixes": ["another"]}, [], True),
        ({"penalty": 0.0}, MICRO, {}, [], False),
        ({}, {"train.micro_batches": 1}, {}, [], False),
        ({}, {}, {}, [], False),
        ({}, MICRO, FIXED, [], False),
        ({}, MICRO, FIXED, [FIXED], False),
        ({}, MICRO, FIXED, [FIXED, {}], True),  # begun, or resumed, by the old code
    ],
)
def test_which_runs_had_too_much_of_the_penalty(run, table, options, config, summary, before, is_marked):
    run("sr_ste", options=options, config=config, summary=summary, environment={"before": before})
    ((_, cell),) = [(key, cell) for key, cell in table().items() if key[1] != "pattern"]
    assert ("¶" in cell.marks) == is_marked


SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:{}|smooth:exp|version:{}"


@pytest.fixture
def translate(run):
    def write(recipe, seed, signature, value=27.0):
        summary = {"headline": "bleu", "metrics": {"val/bleu": value}}
        summary |= {"signatures": {"bleu": signature}} if signature else {}
        run(
            recipe,
            "1:4",
            seed,
            value,
            config={"data.name": "wmt", "data.pair": "en-de"},
            headline="bleu",
            summary=summary,
        )

    return write


def test_the_signature_stands_under_each_table(translate, sections):
    translate("sr_ste", 0, SIGNATURE.format("intl", "2.5.1"))
    translate("sdgf", 0, SIGNATURE.format("intl", "2.5.1"))
    (group,) = sections()[0].groups
    for table in (quality_table(group, ""), difference_table(group, "")):
        assert "sacreBLEU: nrefs:1|case:mixed|eff:no|tok:intl|smooth:exp|version:2.5.1." in table.notes


def test_runs_that_were_scored_in_several_ways_are_not_compared(translate, sections, said):
    translate("sr_ste", 0, SIGNATURE.format("13a", "2.5.1"))
    translate("sdgf", 0, SIGNATURE.format("intl", "2.5.1"))
    assert [section.title for section in sections()] == [
        "vit on wmt-en-de, ff sparse, validation split (signature=nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp)",
        "vit on wmt-en-de, ff sparse, validation split (signature=nrefs:1|case:mixed|eff:no|tok:intl|smooth:exp)",
    ]
    assert said()[-1] == (
        "Scored by several signatures of sacreBLEU, which do not compare (vit on wmt-en-de): "
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp: sr_ste-1of4-s0; "
        "nrefs:1|case:mixed|eff:no|tok:intl|smooth:exp: sdgf_stepwise-1of4-s0."
    )


def test_versions_of_sacrebleu_and_runs_without_a_signature_share_a_table(translate, sections, said):
    for seed, signature in enumerate([SIGNATURE.format("intl", "2.5.1"), SIGNATURE.format("intl", "2.6.0"), None]):
        translate("sdgf", seed, signature)
    ((group,),) = (section.groups for section in sections())
    assert quality_table(group, "").rows[0][1].text == "27.00 ± 0.00"
    assert len(said()) == 1


def test_answers_that_are_no_label_are_told_where_they_are_many(run, said):
    run(seed=0, summary={"metrics": {"val/accuracy": 0.5, "val/invalid": 0.04}})
    run(seed=1, summary={"metrics": {"val/accuracy": 0.5, "val/invalid": 0.251}})
    run(seed=2, summary={"metrics": {"val/accuracy": 0.5, "val/invalid_matched": 0.0, "val/invalid_mismatched": 0.06}})
    assert said()[1:] == ["More than 5 % of the answers are no label: sr_ste-1of4-s1 (25.1 %), sr_ste-1of4-s2 (6.0 %)."]


def test_curves_of_noise_measured_in_several_ways_are_not_averaged(run, runs, tmp_path):
    """Every 10 and every 30 updates: SAD counts since the last measurement, and a mean of both would saw."""
    for seed, every in enumerate([10, 30]):
        lines = [
            {"update": update, "tensor": "mean", "pattern": "1:8", "decay": 0.0, "grad_noise": 1.0, "sad": every}
            for update in range(every, 301, every)
        ]
        run("sdgf", "1:8", seed, 0.8, noise=lines, config={"measure": {"every": every, "window": 50}})
    write_report([runs], tmp_path / "out")
    data = pd.read_csv(tmp_path / "out" / "figures" / "vit-on-glyphs-ff-sparse-noise-1of8.csv")
    assert {name: set(curve["sad"]) for name, curve in data.groupby("recipe")} == {
        "SDGF stepwise, every 10": {10.0},
        "SDGF stepwise, every 30": {30.0},
    }
    assert set(data["n"]) == {1}
    assert "it counts since the last time" in (tmp_path / "out" / "report.md").read_text()


def test_noise_of_dense_runs_is_averaged_by_the_mask_that_it_was_measured_with(run, runs, tmp_path):
    for seed, pattern in enumerate(["1:8", "1:32"]):
        lines = [{"update": 20, "tensor": "mean", "pattern": None, "decay": 0.0, "grad_noise": 1.0, "sad": seed}]
        run("dense", pattern, seed, 0.8, noise=lines)
    run("sdgf", "1:8", 0, 0.8, noise=[lines[0] | {"pattern": "1:8"}])
    write_report([runs], tmp_path / "out")
    data = pd.read_csv(tmp_path / "out" / "figures" / "vit-on-glyphs-ff-sparse-noise-1of8.csv")
    assert set(data["recipe"]) == {"dense, mask of 1:8", "dense, mask of 1:32", "SDGF stepwise"}


def test_noise_of_dense_training_stands_beside_recipes_by_the_mask_of_their_pattern(run, runs, tmp_path):
    line = {"update": 20, "tensor": "mean", "pattern": None, "decay": 0.0, "sad": 0}
    lines = [line | {"sparsity": pattern, "grad_noise": value} for pattern, value in (("1:8", 8.0), ("1:32", 32.0))]
    measure = {"every": 20, "window": 50}
    run("dense", "1:8", 0, 0.8, noise=lines, config={"measure": measure | {"patterns": ["1:8", "1:32"]}}, updates=20)
    for pattern in ("1:8", "1:32"):
        run("sdgf", pattern, 0, 0.8, noise=[line | {"pattern": pattern}], config={"measure": measure}, updates=20)
    write_report([runs], tmp_path / "out")
    for pattern, value in (("8", 8.0), ("32", 32.0)):
        data = pd.read_csv(tmp_path / "out" / "figures" / f"vit-on-glyphs-ff-sparse-noise-1of{pattern}.csv")
        assert data.set_index("recipe")["grad_noise"].dropna().to_dict() == {"dense": value}
        assert len(data) == 2
    report = (tmp_path / "out" / "report.md").read_text()
    assert "use the mask of" not in report
    assert "without noise" not in report
    assert "lacking" not in report
    frame = pd.read_csv(tmp_path / "out" / "frames" / "noise.csv")
    assert sorted(frame["sparsity"]) == ["1:32", "1:32", "1:8", "1:8"]


def test_flops_and_scores_by_older_rules_share_no_table_with_later_ones(run, runs):
    """An image run counted the gradient of its images before, and GLUE scored answers that are no label otherwise."""
    from nmtrain.report.compare.sections import build_sections
    from nmtrain.report.read.folders import read_runs
    from nmtrain.report.read.frame import build_frames

    later = {"fixes": ["penalty-once", "needed-gradients", "junk-answers"]}
    run("sdgf", "1:4", 0, 0.7)
    run("sdgf", "1:4", 1, 0.8, environment=later)
    titles = [section.title for section in build_sections(build_frames(read_runs([runs])))]
    assert len(titles) == 2
    assert sum("older FLOPs=true" in title for title in titles) == 1
