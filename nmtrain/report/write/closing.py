"""The main tables as plain text: what a sweep prints when it ends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nmtrain.report.compare.notices import notices
from nmtrain.report.compare.quality import quality_table
from nmtrain.report.compare.sections import Section, build_sections
from nmtrain.report.compare.table import Table, plain_text
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames
from nmtrain.report.read.planned import planned_notices


def closing_table(folders: Iterable[Path]) -> str:
    """The tables of the headline metric of all runs under ``folders``, and what is not in them, as plain text.

    Raises:
        ReportError: as `write_report`.
    """
    runs = read_runs(folders)
    frames = build_frames(runs)
    said = [*notices(frames.runs), *planned_notices(run.path for run in runs)]
    return summary_text(build_sections(frames), said)


def summary_text(sections: list[Section], said: list[str], claims: Iterable[Table] = ()) -> str:
    """Tables of the headline metric, those of claims, and notices, for a terminal."""
    tables = [plain_text(quality_table(group, section.title)) for section in sections for group in section.groups]
    tables += [plain_text(table, notes=False) for table in claims]
    return "\n\n".join([*tables, "\n".join(said)])
