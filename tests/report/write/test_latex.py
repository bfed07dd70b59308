from __future__ import annotations

from nmtrain.report.compare.table import MARKS, Cell, Table
from nmtrain.report.write.latex import escape, latex


def test_booktabs_table_line_by_line():
    table = Table(
        "slug",
        "Accuracy",
        ["pattern", "SR-STE", "sdgf_custom"],
        [
            [Cell("1:4"), Cell("71.00 ± 0.50", "sd 0.20, n = 3", marks="≈"), Cell("72.00", "n = 1", best=True)],
            [Cell("1:8")] * 3,
        ],
        notes=["50 % of it."],
    )
    lines = latex(table).splitlines()
    assert lines[0] == "% Accuracy"
    assert lines[2:] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"pattern & SR-STE & sdgf\_custom \\",
        r"\midrule",
        r"1:4 & 71.00 $\pm$ 0.50\textsuperscript{$\approx$} & \textbf{72.00} \\",
        r" & {\scriptsize sd 0.20, n = 3} & {\scriptsize n = 1} \\",
        r"1:8 & 1:8 & 1:8 \\",
        r"\bottomrule",
        r"\multicolumn{3}{@{}p{\linewidth}@{}}{\scriptsize 50 \% of it.} \\",
        r"\multicolumn{3}{@{}p{\linewidth}@{}}{\scriptsize $\approx$ no difference to the best (bold) "
        r"shown by the test that the notes name.} \\",
        r"\end{tabular}",
    ]


def test_everything_latex_would_read_as_a_command_is_escaped():
    assert escape("a_b & 5 % {x} #1 $ ^ ~ \\") == (
        r"a\_b \& 5 \% \{x\} \#1 \$ \textasciicircum{} \textasciitilde{} \textbackslash{}"
    )


def test_every_mark_is_printed():
    assert escape("".join(MARKS)).isascii()


def test_files_of_a_report_are_balanced_and_ascii(report):
    files = sorted((report / "tables").glob("*.tex"))
    assert [file.stem.rsplit("sparse-", 1)[1] for file in files] == [
        *("accuracy", "claims", "cost", "difference-to-best", "difference", "equal-flops")
    ]
    for file in files:
        text = file.read_text()
        assert text.isascii()
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        columns = text.count("&", text.index(r"\toprule"), text.index(r"\midrule"))
        body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
        assert {line.count(" & ") for line in body} == {columns}


def test_columns_of_words_are_set_left_wherever_they_stand():
    words = Cell("interpolated", value="interpolated")
    table = Table("slug", "Costs", ["pattern", "FLOPs", "from"], [[Cell("1:4"), Cell("2", value=2.0), words]])
    assert r"\begin{tabular}{lrl}" in latex(table)
