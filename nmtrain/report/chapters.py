"""What a report shows, in reading order: a chapter per section, a part per group, advice before tables and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nmtrain.report.accuracy import accuracy_table, difference_table
from nmtrain.report.advice import advice
from nmtrain.report.cost import cost_table, equal_flops_table
from nmtrain.report.figures import Drawing, draw_cost, draw_training
from nmtrain.report.frame import Frames
from nmtrain.report.noise_figures import MOST_FIGURES, draw_noise, patterns_with_noise
from nmtrain.report.sections import Group, Section
from nmtrain.report.table import Table


@dataclass
class Part:
    """Tables and figures under one heading."""

    title: str
    advice: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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


def build_chapters(sections: list[Section], frames: Frames, folder: Path) -> list[Chapter]:
    """Compute the tables, and draw the figures into ``folder``."""
    noise = _noise_to_draw(sections, frames)
    chapters = []
    for section in sections:
        parts = [_group_part(group, section, frames, noise, folder) for group in section.groups]
        chapters.append(Chapter(section.slug, section.title, [*parts, _training_part(section, frames, folder)]))
    return chapters


def _group_part(group: Group, section: Section, frames: Frames, noise: set[tuple[str, str]], folder: Path) -> Part:
    part = Part(group.title or "Final accuracy and cost", advice(group))
    tables = [accuracy_table(group, section.title), difference_table(group, section.title)]
    part.tables = [table for table in (*tables, cost_table(group, section.title)) if table is not None]
    part.drawings.append(draw_cost(group, section.title, folder))
    left_out = []
    for pattern in patterns_with_noise(group, frames.noise):
        if (group.slug, pattern) in noise:
            part.drawings.append(draw_noise(group, section.title, pattern, frames.noise, folder))
        else:
            left_out.append(pattern)
    if left_out:
        part.notes.append(
            f"Noise was also recorded at {', '.join(left_out)}: see frames/noise.csv. A report draws it for "
            f"{MOST_FIGURES} patterns, the sparsest first; to see others, report on their runs alone."
        )
    return part


def _training_part(section: Section, frames: Frames, folder: Path) -> Part:
    part = Part("At equal training FLOPs")
    table = equal_flops_table(section, frames.curves)
    part.tables = [table] if table is not None else []
    if table is None:
        part.notes.append("No training budget is reached by two recipes, so there is no table at equal training FLOPs.")
    part.drawings.append(draw_training(section, frames.curves, folder))
    return part


def _noise_to_draw(sections: list[Section], frames: Frames) -> set[tuple[str, str]]:
    """(group, pattern) of the noise figures: the sparsest of each group, then the next sparsest, up to the limit."""
    ranked = [
        (rank, group.slug, pattern)
        for section in sections
        for group in section.groups
        for rank, pattern in enumerate(patterns_with_noise(group, frames.noise))
    ]
    ranked.sort(key=lambda found: found[0])
    return {(slug, pattern) for _, slug, pattern in ranked[:MOST_FIGURES]}
