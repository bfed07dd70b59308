"""Tables as LaTeX for papers: booktabs, one file per table, notes below the rule."""

from __future__ import annotations

from collections.abc import Sequence

from nmtrain.report.compare.table import Cell, Table

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "⊣": r"$\dashv$",
    "◊": r"$\diamond$",
    "△": r"$\triangle$",
    "↓": r"$\downarrow$",
    "¶": r"\P{}",
    "§": r"\S{}",
    "–": "--",
}


def latex(table: Table) -> str:
    r"""A ``tabular`` for ``\input``; needs ``\usepackage{booktabs}``."""
    columns = len(table.head)
    lines = [
        f"% {table.title}".replace("\n", " "),
        r"% Needs \usepackage{booktabs}. Written by `nmtrain report`.",
        rf"\begin{{tabular}}{{{''.join('l' if table.is_text(i) else 'r' for i in range(columns))}}}",
        r"\toprule",
        _row([escape(name) for name in table.head]),
        r"\midrule",
    ]
    for row in table.rows:
        lines.append(_row([_cell(cell) for cell in row]))
        if any(cell.detail for cell in row):
            lines.append(_row([rf"{{\scriptsize {escape(cell.detail)}}}" if cell.detail else "" for cell in row]))
    lines.append(r"\bottomrule")
    lines += [
        rf"\multicolumn{{{columns}}}{{@{{}}p{{\linewidth}}@{{}}}}{{\scriptsize {escape(note)}}} \\"
        for note in table.legend
    ]
    return "\n".join([*lines, r"\end{tabular}", ""])


def escape(text: str) -> str:
    """``text`` with everything that LaTeX would take for a command, or not print, spelled out."""
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = rf"\textbf{{{escape(cell.text)}}}" if cell.best else escape(cell.text)
    return text + (rf"\textsuperscript{{{escape(cell.marks)}}}" if cell.marks else "")
