"""What report.html and report.md have in common."""

from __future__ import annotations

import re

import pytest

from nmtrain.report.compare.run_list import RunList
from nmtrain.report.compare.table import Cell, Table
from nmtrain.report.write.chapters import Chapter, Part
from nmtrain.report.write.pages import html_page, markdown_page

NO_RUNS = RunList(Table("runs", "Runs", ("run folder",), [], stub=1), [])


def table(cell: str, note: str) -> Table:
    return Table(cell, "", ("recipe",), [[Cell(cell)]], stub=1, notes=(note,))


@pytest.mark.parametrize("page", [html_page, markdown_page])
def test_notes_that_the_next_table_has_too_stand_below_that_one_only(page):
    tables = [table("cell1", "note1"), table("cell2", "note1"), table("cell3", "note2"), table("cell4", "note1")]
    text = page([Chapter("claims", "Claims", [Part("Tested", tables=tables)])], [], NO_RUNS)
    found = re.findall(r"(?<=[>| \n])(?:cell|note)\d\b", text)
    assert found == ["cell1", "cell2", "note1", "cell3", "note2", "cell4", "note1"]
