"""GLUE's own summary: the mean of its tasks' scores, by recipe and pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nmtrain.report.compare.quality import gradient_note, pattern_cell, run_marks
from nmtrain.report.compare.scores import WITH_THE_BEST, Scores, compare
from nmtrain.report.compare.sections import DENSE, Group, Result, Section, columns_of, patterns_of
from nmtrain.report.compare.table import NOTHING, Cell, Table
from nmtrain.report.read.flat import Flat, describe, differing, without
from nmtrain.report.read.frame import slug
from nmtrain.report.read.grouping import SPARSE_ONLY, keys_of, unusual
from nmtrain.report.read.headline import headline_of
from nmtrain.report.read.split import WORDS

_PREFIX = "glue-"
_TASKS = 9
_SCORE = headline_of("score")
# What is a task's own: its data, and the metric that it is scored by.
_OF_THE_TASK = ("data", "headline", "signature")
_IN_TITLE = ("model.name", "model.kind", "mask.roles")


@dataclass(frozen=True)
class Alike:
    """Tasks that were trained alike and evaluated on one split: all of ``setting`` is the same, but for the data."""

    model: str
    roles: str | None
    split: str
    setting: Flat
    tasks: dict[str, list[Group]]

    @property
    def name(self) -> tuple[str, str | None, str]:
        return self.model, self.roles, self.split

    @property
    def single(self) -> dict[str, Group]:
        """The tasks with one setting of their data; several have no one score."""
        return {task: groups[0] for task, groups in sorted(self.tasks.items()) if len(groups) == 1}

    def title(self, others: Sequence[Alike]) -> str:
        varying = differing([self.setting, *(other.setting for other in others)])
        keys = {*varying, *unusual(self.setting, self.roles is None)}
        described = describe(self.setting, sorted(keys.difference(_IN_TITLE)))
        sparse = f", {self.roles} sparse" if self.roles else ""
        what = f"GLUE average: {self.model}{sparse}, {WORDS[self.split]} split"
        return what + (f" ({described})" if described else "")


def glue_tables(sections: Sequence[Section]) -> list[Table]:
    """A table for each setting that two tasks of GLUE or more were trained with.

    A row averages over the tasks that all its recipes have, and over the seeds that all those tasks have. A task with
    several settings of its data is left out and named, and so is one that was trained with another setting.
    """
    found = _trained_alike(sections)
    tables = []
    for alike in found:
        others = [other for other in found if other is not alike]
        others = [other for other in others if other.name == alike.name]
        if len(alike.single) > 1:
            tables.append(_table(alike, others))
    return tables


def why_no_average(sections: Sequence[Section]) -> str | None:
    """A sentence where there are several tasks of GLUE, and no two that were trained alike."""
    found = _trained_alike(sections)
    if len({task for alike in found for task in alike.tasks}) < 2 or any(len(alike.single) > 1 for alike in found):
        return None
    settings = [{"model.name": alike.model, "data.evaluate": alike.split} | alike.setting for alike in found]
    said = ", ".join(differing(settings)) or "settings of their data"
    return f"There is no average over tasks of GLUE: no two were trained alike. They differ in {said}."


def _trained_alike(sections: Sequence[Section]) -> list[Alike]:
    found: list[Alike] = []
    for group in (group for section in sections for group in section.groups):
        first = group.runs.iloc[-1]  # dense runs, which have no roles, stand first
        if not str(first["data"]).startswith(_PREFIX):
            continue
        setting = without(group.setting, _OF_THE_TASK + (SPARSE_ONLY if first["recipe"] == DENSE else ()))
        split = first["split"]
        alike = next((alike for alike in found if (alike.setting, alike.split) == (setting, split)), None)
        if alike is None:
            found.append(alike := Alike(first["model"], first["roles"], split, setting, {}))
        alike.tasks.setdefault(first["data"].removeprefix(_PREFIX), []).append(group)
    return found


def _table(alike: Alike, others: Sequence[Alike]) -> Table:
    tasks = alike.single
    columns = list(dict.fromkeys(column for group in tasks.values() for column in columns_of(group.runs)))
    patterns = list(dict.fromkeys(pattern for group in tasks.values() for pattern in patterns_of(group.runs)))
    rows = [_row(tasks, pattern, columns) for pattern in patterns or [DENSE]]
    several = sorted(set(alike.tasks) - set(tasks))
    otherwise = [
        f"{task} ({describe(other.setting, differing([alike.setting, other.setting]))})"
        for other in others
        for task in sorted(set(other.tasks) - set(alike.tasks))
    ]
    notes = [
        "Mean over tasks of each task's headline metric (correlations count as they are), in %: mean over seeds ± "
        f"half of its 95 % t-interval, on the {WORDS[alike.split]} split. Each row averages over the tasks named in "
        "it, all trained alike but for data.",
        WITH_THE_BEST,
        *([f"Left out, trained with several settings: {', '.join(several)}."] if several else []),
        *([f"Left out, trained with another setting: {', '.join(otherwise)}."] if otherwise else []),
        *dict.fromkeys(gradient_note(group) for group in tasks.values()),
    ]
    head = ["pattern", "tasks", *(label for _, label in columns)]
    mark = "" if alike.split == "val" else f"-{alike.split}"
    mark += f"-{keys_of(alike.setting, False).group}" if others else ""
    name = slug(f"{alike.model}-glue-average-{alike.roles or ''}") + mark
    return Table(name, alike.title(others), head, rows, stub=2, notes=notes)


def _row(tasks: Mapping[str, Group], pattern: str, columns: list[tuple[str, str]]) -> list[Cell]:
    by_column = {label: _by_task(tasks, pattern, variant, label) for variant, label in columns}
    trained = [set(results) for results in by_column.values() if results]
    common = sorted(set.intersection(*trained)) if trained else []
    averages = {label: _average(results, common) for label, results in by_column.items()}
    tests = compare({label: averages[label] for variant, label in columns if variant != DENSE}, _SCORE)
    row = [pattern_cell(pattern), Cell(", ".join(common), f"{len(common)} of {_TASKS}")]
    for variant, label in columns:
        average = averages[label]
        if not average.by_seed:
            row.append(NOTHING)
            continue
        text, detail = average.text(_SCORE)
        marks = "" if variant == DENSE else tests.mark(label)
        marks += run_marks(average, *(by_column[label][task].runs for task in common))
        row.append(Cell(text, detail, average.quality.mean if average.quality.n else None, label == tests.best, marks))
    return row


def _by_task(tasks: Mapping[str, Group], pattern: str, variant: str, label: str) -> dict[str, Result]:
    """The results of one column, for the tasks that it was trained on."""
    results = {task: group.result(pattern, variant, label) for task, group in tasks.items()}
    return {task: result for task, result in results.items() if result is not None}


def _average(results: Mapping[str, Result], common: Sequence[str]) -> Scores:
    """Over tasks, by seed; a seed that one of them lost is lost."""
    if not results or not common:
        return Scores({}, {})
    scores = [results[task].scores for task in common]
    seeds = sorted(set.intersection(*(set(one.by_seed) for one in scores)))
    lost = {seed: how for one in scores for seed, how in one.lost.items() if seed in seeds}
    return Scores({seed: fmean(one.by_seed[seed] for one in scores) for seed in seeds}, lost)
