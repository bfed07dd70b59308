"""How a recipe looks in every figure: colour (Okabe and Ito, for colour-blind readers), marker and line, for print."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

_BLACK, _GREY, _YELLOW = "#000000", "#999999", "#F0E442"
_ORANGE, _SKY, _GREEN, _BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
_VERMILLION, _PURPLE = "#D55E00", "#CC79A7"

_SOLID, _DASHED, _DOTTED, _DASH_DOT = (0, ()), (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5))
_LONG, _DASH_DOT_DOT = (0, (9, 2)), (0, (4, 1.5, 1, 1.5, 1, 1.5))

_LOOKS = {
    "dense": (_BLACK, "o", _SOLID),
    "static": (_GREY, "x", _DOTTED),
    "ste": (_SKY, "v", _DASHED),
    "sr_ste": (_ORANGE, "s", _DASH_DOT),
    "mdgf_exponential": (_GREEN, "^", _SOLID),
    "mdgf_linear": (_BLUE, "<", _LONG),
    "sdgf_stepwise": (_VERMILLION, "D", _SOLID),
    "sdgf_geometric": (_PURPLE, "P", _DASHED),
    "sdgf_densify": (_YELLOW, "p", _DASH_DOT_DOT),
    "sdgf_custom": (_GREY, "h", _DASH_DOT),
    "gmp": (_BLUE, ">", _SOLID),
    "asp": (_GREY, "+", _LONG),
    "step": (_SKY, "d", _SOLID),
    "s_ste": (_ORANGE, "8", _SOLID),
    "feather": (_PURPLE, "H", _SOLID),
    "rigl": (_VERMILLION, "*", _DASHED),
    "top_kast": (_GREEN, "X", _DASHED),
    "ac_dc": (_BLACK, "1", _DASHED),
    "maxq": (_BLUE, "2", _DOTTED),
}
_SPARE_COLOURS = (_SKY, _ORANGE, _GREEN, _BLUE, _VERMILLION, _PURPLE)
_SPARE_MARKERS = ("*", "X", "8", "d", "H", ">")
# Columns of one variant (another gradient rule, other options) share its colour and differ in how markers are filled.
_FILLS = ("full", "none", "left", "top", "right", "bottom")

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.hashsalt": "nmtrain",  # the same identifiers, and so the same bytes, each time
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's default, Type 3
}


def look(variant: str) -> tuple[str, str, Any]:
    """(colour, marker, line style) of a variant, the same in every report; unknown variants get theirs by name."""
    if variant in _LOOKS:
        return _LOOKS[variant]
    structure, _, decay = variant.rpartition("_")
    if structure in _LOOKS:  # SDGF that decays the mask too: its structure's colour, a marker of its own
        return _LOOKS[structure][0], "*" if decay == "exponential" else "X", _DOTTED
    code = zlib.crc32(variant.encode())
    return _SPARE_COLOURS[code % 6], _SPARE_MARKERS[code // 6 % 6], _DASH_DOT_DOT


def line_style(column: tuple[str, str], columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Keyword arguments of ``Axes.plot`` for one of the figure's ``columns``, (variant, label)."""
    variant, label = column
    colour, marker, line = look(variant)
    siblings = [other for name, other in columns if name == variant]
    return {
        "color": colour,
        "marker": marker,
        "linestyle": line,
        "fillstyle": _FILLS[siblings.index(label) % len(_FILLS)],
        "markeredgecolor": "#333333" if colour == _YELLOW else colour,
        "label": label,
    }
