"""Writing a report: frames, LaTeX tables, figures, report.md and report.html, all from the same frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nmtrain.errors import ReportError
from nmtrain.report.compare.notices import notices
from nmtrain.report.compare.run_list import run_list
from nmtrain.report.compare.sections import build_sections
from nmtrain.report.compare.verdict import judge
from nmtrain.report.compare.verdict_table import verdict_frame, verdict_tables
from nmtrain.report.draw.processes import drawing_processes
from nmtrain.report.read.claims import read_claims
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import build_frames
from nmtrain.report.read.planned import planned_notices
from nmtrain.report.write.chapters import Chapter, build_chapters
from nmtrain.report.write.closing import summary_text
from nmtrain.report.write.latex import latex
from nmtrain.report.write.pages import html_page, markdown_page

FILES = "files.txt"  # in a report's folder: what it wrote, by which the next one there knows what is stale


@dataclass(frozen=True)
class ReportResult:
    """What `write_report` did.

    Attributes:
        paths: the files written, report.html first.
        runs: run folders found.
        counted: how many of them are finished and stand in tables.
        table: the main tables and notices as plain text, for a terminal.
    """

    paths: list[Path]
    runs: int
    counted: int
    table: str


def write_report(folders: Iterable[Path], out: Path) -> ReportResult:
    """Report on every run folder under ``folders``; the same folders give the same bytes in every file.

    Writes ``report.html`` and ``report.md``, ``frames/{runs,curves,noise}.{csv,parquet}``, ``tables/*.tex``, with
    ``tables/verdict.csv``, and ``figures/*.{png,svg,pdf,csv}`` below ``out``, and their names in ``files.txt``. What an
    earlier report wrote there and this one does not is removed; other files stay. Claims are those that we ship, and
    those of ``claims.yaml`` and ``claims/*.yaml`` in ``folders``.

    Raises:
        ReportError: if a folder does not exist, none holds a run, a run was written by another schema, a claim cannot
            be understood or names what no run has, or ``out`` cannot be written.
    """
    try:
        return _write_report(folders, out)
    except OSError as error:
        reason = error.strerror or error
        raise ReportError(
            f"{error.filename or out}: cannot be written ({reason}); --out names another folder"
        ) from error


def _write_report(folders: Iterable[Path], out: Path) -> ReportResult:
    with drawing_processes() as pool:  # drawing takes longer than all the rest
        folders = list(folders)
        claims = read_claims(folders)
        runs = read_runs(folders, pool)
        frames = build_frames(runs)
        sections = build_sections(frames)
        verdict = judge(claims, sections, frames)
        out.mkdir(parents=True, exist_ok=True)
        chapters = build_chapters(sections, verdict, frames, out / "figures", pool)
        frame_paths = frames.write(out / "frames")
        said = [*notices(frames.runs), *planned_notices(run.path for run in runs)]
        listed = run_list(frames.runs)
        table = summary_text(sections, said, verdict_tables(verdict))
    paths = [out / "report.html", out / "report.md"]
    paths[0].write_text(html_page(chapters, said, listed), encoding="utf-8")
    paths[1].write_text(markdown_page(chapters, said, listed), encoding="utf-8")
    paths += frame_paths
    paths += _write_tables(chapters, out / "tables")
    if verdict.findings:
        paths.append(out / "tables" / "verdict.csv")
        verdict_frame(verdict).to_csv(paths[-1], index=False)
    paths += [path for chapter in chapters for drawing in chapter.drawings for path in drawing.paths]
    _remove_stale(out, paths)
    counted = int(frames.trained["counted"].sum())
    return ReportResult([*paths, out / FILES], len(frames.trained), counted, table)


def _remove_stale(out: Path, paths: list[Path]) -> None:
    """Remove what the report before wrote and this one did not, and leave the list for the next."""
    manifest = out / FILES
    before = manifest.read_text(encoding="utf-8").splitlines() if manifest.is_file() else []
    written = sorted(path.relative_to(out).as_posix() for path in paths)
    for name in set(before) - set(written):
        if name and not Path(name).is_absolute() and ".." not in Path(name).parts:  # a list that others wrote
            (out / name).unlink(missing_ok=True)
    manifest.write_text("".join(f"{name}\n" for name in written), encoding="utf-8")


def _write_tables(chapters: list[Chapter], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in (table for chapter in chapters for table in chapter.tables):
        paths.append(folder / f"{table.slug}.tex")
        paths[-1].write_text(latex(table), encoding="utf-8")
    return paths
