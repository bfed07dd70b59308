"""What a report shows, in reading order: a chapter per section, a part per group, advice before tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nmtrain.report.compare.advice import Advice, advice
from nmtrain.report.compare.cost import cost_table
from nmtrain.report.compare.equal_flops import equal_flops_table
from nmtrain.report.compare.glue_average import glue_tables, why_no_average
from nmtrain.report.compare.quality import best_difference_table, difference_table, quality_table, top5_table
from nmtrain.report.compare.sections import (
    Group,
    Section,
    evaluated_in_training,
    noise_at,
    patterns_with_noise,
)
from nmtrain.report.compare.table import Table
from nmtrain.report.compare.tuning import tuning_tables
from nmtrain.report.compare.verdict import Verdict
from nmtrain.report.compare.verdict_table import verdict_tables, why_fewer
from nmtrain.report.draw.drawing import Drawing
from nmtrain.report.draw.orders import draw_cost, draw_noise, draw_quality, draw_training
from nmtrain.report.draw.processes import submit
from nmtrain.report.read.frame import Frames

# A figure takes two seconds of a core: a report draws the sparsest pattern of each group, and where there is one group
# the next one too, and says which it leaves to the data.
FEWEST_NOISE_FIGURES = 2


@dataclass
class Part:
    """Tables and figures under one heading; figures are drawn meanwhile by other processes."""

    title: str
    advice: list[Advice] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pending: list[Future[Drawing]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def drawings(self) -> list[Drawing]:
        """The figures; waits until they are drawn, and raises what stopped one."""
        return [drawing.result() for drawing in self.pending]


@dataclass(frozen=True)
class Chapter:
    """One section as it is laid out."""

    slug: str
    title: str
    parts: list[Part]

    @property
    def tables(self) -> list[Table]:
        return [table for part in self.parts for table in part.tables]

    @property
    def drawings(self) -> list[Drawing]:
        return [drawing for part in self.parts for drawing in part.drawings]


def build_chapters(
    sections: Sequence[Section], verdict: Verdict, frames: Frames, folder: Path, pool: Executor
) -> list[Chapter]:
    """Compute the tables, and have ``pool`` draw the figures into ``folder``: those that take longest first."""
    noise = _noise_to_draw(sections, frames)
    chapters = []
    if verdict.findings:
        part = Part("Claims, tested", tables=verdict_tables(verdict), notes=why_fewer(verdict))
        chapters.append(Chapter("verdict", "Verdict", [part]))
    for section in sections:
        training = [_training_part(section, frames, folder, pool)] if section.has_results else []
        parts = []
        for group in section.groups:
            part = Part(group.title or f"Final {group.headline.label} and cost")
            if group.has_results:
                _add_noise(part, group, section.name, frames.noise, noise, folder, pool)
                short = [draw_quality, draw_cost] if group.patterns else [draw_cost]
                part.pending[:0] = [submit(pool, draw, group, section.name, folder) for draw in short]
            _add_tables(part, group, section.name, frames)
            parts.append(part)
        chapters.append(Chapter(section.slug, section.title, [*parts, *training]))
    averages, reason = glue_tables(sections), why_no_average(sections)
    if averages or reason:
        part = Part("Mean over tasks", tables=averages, notes=[reason] if reason else [])
        chapters.append(Chapter("glue-average", "GLUE average", [part]))
    if tables := tuning_tables(frames):
        chapters.append(Chapter("tuning", "Tuning", [Part("What was tried, and chosen", tables=tables)]))
    return chapters


def _add_tables(part: Part, group: Group, section: str, frames: Frames) -> None:
    differences = difference_table(group, section)
    cost = cost_table(group, section) if group.has_results else None
    quality = [quality_table(group, section), top5_table(group, section, frames.metrics)]
    tables = (*quality, best_difference_table(group, section), differences, cost)
    part.advice += advice(group)
    part.tables += [table for table in tables if table is not None]
    if differences is None:
        part.notes.insert(
            0, "There is no table of differences to SR-STE: it needs finished runs of SR-STE and of another."
        )


def _add_noise(
    part: Part,
    group: Group,
    section: str,
    noise: pd.DataFrame,
    chosen: set[tuple[str, str]],
    folder: Path,
    pool: Executor,
) -> None:
    left_out = []
    for pattern in patterns_with_noise(group, noise):
        if (group.slug, pattern) not in chosen:
            left_out.append(pattern)
            continue
        drawn = noise_at(group, pattern, noise)
        part.pending.append(submit(pool, draw_noise, group, section, pattern, drawn, folder))
    if left_out:
        part.notes.append(
            f"Noise was also recorded at {', '.join(left_out)}: see frames/noise.csv. A report draws the sparsest "
            "patterns; to see others, report on their runs alone."
        )


def _training_part(section: Section, frames: Frames, folder: Path, pool: Executor) -> Part:
    part = Part("At equal training FLOPs")
    curves = frames.curves[frames.curves["folder"].isin(evaluated_in_training(section.runs)["folder"])]
    if len(curves):
        part.pending.append(submit(pool, draw_training, section, curves, folder))
    else:
        part.notes.append("There are no curves on this split: what stands here was evaluated after training.")
    table = equal_flops_table(section, curves)
    if table is not None:
        part.tables.append(table)
    else:
        part.notes.append("There is no table at equal training FLOPs: it needs finished runs of two recipes.")
    return part


def _noise_to_draw(sections: Sequence[Section], frames: Frames) -> set[tuple[str, str]]:
    """(group, pattern) of the noise figures: the sparsest of each group, then the next, as far as they are few."""
    ranked = [
        (rank, group.slug, pattern)
        for section in sections
        for group in section.groups
        for rank, pattern in enumerate(patterns_with_noise(group, frames.noise))
    ]
    ranked.sort(key=lambda found: found[0])
    sparsest = sum(rank == 0 for rank, _, _ in ranked)
    return {(slug, pattern) for _, slug, pattern in ranked[: max(sparsest, FEWEST_NOISE_FIGURES)]}
