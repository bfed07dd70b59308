from __future__ import annotations

import itertools
import re
import warnings

import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from nmtrain.report import write_report
from nmtrain.report.compare.sections import build_sections
from nmtrain.report.draw.figures import draw_training, log_ticks
from nmtrain.report.draw.style import line_style, look
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames
from nmtrain.report.read.grouping import VARIANTS
from tests.report.conftest import write_run


def test_every_recipe_differs_in_colour_or_line_and_in_marker():
    looks = {variant: look(variant) for variant in VARIANTS}
    for one, other in itertools.combinations(looks, 2):
        assert looks[one][1] != looks[other][1], f"{one} and {other} share a marker"
        assert looks[one][0] != looks[other][0] or looks[one][2] != looks[other][2], f"{one} and {other}"


def test_what_shares_a_shade_of_grey_differs_in_line():
    """In a greyscale print, luminance is all that is left of a colour."""

    def luminance(variant):
        red, green, blue = to_rgb(look(variant)[0])
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for one, other in itertools.combinations(VARIANTS, 2):
        if abs(luminance(one) - luminance(other)) < 0.05:
            assert look(one)[1:] != look(other)[1:], f"{one} and {other}"


def test_unknown_recipes_keep_their_look():
    assert look("novel_thing") == look("novel_thing")
    assert look("novel_thing")[0] != "#000000"


def test_columns_of_one_variant_share_the_colour_and_differ_in_fill():
    columns = [("mdgf_linear", "MDGF linear"), ("mdgf_linear", "MDGF linear, straight-through gradient")]
    one, other = (line_style(column, columns) for column in columns)
    assert one["color"] == other["color"]
    assert one["fillstyle"] != other["fillstyle"]


def test_training_curve_data(report):
    data = pd.read_csv(report / "figures" / "vit-on-glyphs-ff-sparse-training.csv")
    sr_ste = data[(data["pattern"] == "1:4") & (data["recipe"] == "SR-STE")]
    assert list(sr_ste["update"]) == [100, 200, 300]
    assert list(sr_ste["training_flops"]) == pytest.approx([5e9 / 3, 1e10 / 3, 5e9])
    assert list(sr_ste["accuracy"]) == pytest.approx([0.883 / 3, 0.883 * 2 / 3, 0.883])  # seeds 0.880, 0.883, 0.886
    assert list(sr_ste["n"]) == [3, 3, 3]
    assert sr_ste["half_width"].notna().tolist() == [False, False, True]


def test_seeds_that_a_budget_ends_at_different_updates_have_one_last_point(tmp_path):
    for seed, updates in enumerate((300, 304)):
        curve = [(150, 0.5), (updates, 0.8)]
        write_run(tmp_path / "runs", seed=seed, accuracy=0.8, updates=updates, curve=curve, config={"train.flops": 6e9})
    frames = build_frames(read_runs([tmp_path / "runs"]))
    (section,) = build_sections(frames)
    draw_training(section, frames.curves, tmp_path)
    data = pd.read_csv(next(tmp_path.glob("*-training.csv")))
    assert data[["update", "n"]].to_numpy().tolist() == [[150, 2], [304, 2]]
    assert data["training_flops"].iloc[-1] == pytest.approx(6e9)
    assert data["half_width"].notna().tolist() == [False, True]


def test_noise_data_has_schedule_and_dense(report):
    data = pd.read_csv(report / "figures" / "vit-on-glyphs-ff-sparse-noise-1of8.csv")
    assert set(data["recipe"]) == {"dense", "SR-STE", "MDGF exponential", "SDGF stepwise"}
    sdgf = data[data["recipe"] == "SDGF stepwise"].set_index("update")
    assert sdgf["pattern"].to_dict() == {u: "4:8" if u < 150 else "1:8" for u in range(0, 300, 30)}
    assert sdgf["pattern_density"].loc[[120, 150]].tolist() == [0.5, 0.125]
    assert data[data["recipe"] == "MDGF exponential"]["decay"].tolist() == pytest.approx(
        [1 - u / 300 for u in range(0, 300, 30)]
    )
    assert sdgf["grad_noise/pruned"].loc[30] == pytest.approx(1e-6 / 31)
    assert data["n"].eq(3).all()


def test_accuracy_by_pattern_has_dense_at_every_pattern(report):
    data = pd.read_csv(report / "figures" / "vit-on-glyphs-ff-sparse-patterns.csv")
    dense = data[data["recipe"] == "dense"]
    assert len(dense) == data["pattern"].nunique() > 1
    assert dense["accuracy"].nunique() == 1
    sr_ste = data[(data["pattern"] == "1:4") & (data["recipe"] == "SR-STE")]
    assert sr_ste["accuracy"].tolist() == pytest.approx([0.883])  # seeds 0.880, 0.883, 0.886
    assert sr_ste["half_width"].tolist() == pytest.approx([4.302653 * 0.003 / 3**0.5])  # t for 2 degrees of freedom


def test_inference_data_marks_the_front(report):
    data = pd.read_csv(report / "figures" / "vit-on-glyphs-ff-sparse-inference.csv")
    front = data[data["inference_flops_front"]]
    assert list(zip(front["pattern"], front["recipe"], strict=True)) == [("dense", "dense"), ("1:8", "SR-STE")]


def test_a_front_of_one_point_is_seen(run, runs, tmp_path):
    run("sdgf", "1:8", accuracy=0.9)
    run("dense", accuracy=0.8, inference_flops=4e6)
    write_report([runs], tmp_path / "out")
    (figure,) = (tmp_path / "out" / "figures").glob("*-inference.svg")
    assert len(re.findall("<use [^>]*fill: #bbbbbb", figure.read_text())) == 2  # a disc in each panel


def test_every_figure_comes_in_every_format(report):
    names = {path.stem for path in (report / "figures").iterdir()}
    assert len(names) == 5
    for name in names:
        assert {path.suffix for path in (report / "figures").glob(f"{name}.*")} == {".png", ".svg", ".pdf", ".csv"}


@pytest.mark.parametrize("headline", ["accuracy", "perplexity", "loss"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_equal_scores_are_drawn_without_a_warning(headline, value, run, sections, runs, tmp_path):
    of_all = {"headline": headline, "metrics": {f"val/{headline}": value}}
    for recipe in ("sr_ste", "mdgf"):
        for seed in (0, 1):
            run(recipe, "1:8", seed, value, curve=[(100, value)], headline=headline, summary=of_all)
    (section,) = sections()
    curves = build_frames(read_runs([runs])).curves
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing = draw_training(section, curves, tmp_path / "figures")
    assert drawing.data[headline].tolist() == [value] * 4


@pytest.mark.parametrize(
    ("values", "ticks"),
    [((371, 757), [370, 470, 600, 760]), ((1, 1000), [1, 10, 100, 1000]), ((1.5, 1.504), [1.5]), ((2.0, 2.0), [2.0])],
)
def test_ticks_of_a_cost_are_as_far_apart_as_each_other(values, ticks):
    """matplotlib's own fell back to every 50 between 371 and 757, whose labels met."""
    assert log_ticks(pd.Series(values)) == ticks
