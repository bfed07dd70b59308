"""GLUE's own summary: the mean of its tasks' scores, by recipe and pattern."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from nmtrain.report.frame import slug
from nmtrain.report.headline import headline_of
from nmtrain.report.quality import best_of, gradient_note, pattern_cell, quality_text, standing
from nmtrain.report.sections import DENSE, Group, Section, columns_of, patterns_of
from nmtrain.report.statistics import Estimate, estimate
from nmtrain.report.table import NOTHING, Cell, Table

_PREFIX = "glue-"
_TASKS = 9
_SCORE = headline_of("score")

ByTask = dict[str, Group]


def glue_tables(sections: Sequence[Section]) -> list[Table]:
    """A table for each model and role set that was trained on two tasks of GLUE or more.

    A row averages over the tasks that all its recipes have, and over the seeds that all those tasks have. A task with
    several settings (two lengths, say) has no one score, and is left out and named.
    """
    found: dict[tuple[str, str], dict[str, list[Group]]] = {}
    for group in (group for section in sections for group in section.groups):
        first = group.runs.iloc[-1]  # dense runs, which have no roles, stand first
        if str(first["data"]).startswith(_PREFIX):
            tasks = found.setdefault((first["model"], first["roles"]), {})
            tasks.setdefault(first["data"].removeprefix(_PREFIX), []).append(group)
    tables = []
    for (model, roles), tasks in found.items():
        single = {task: groups[0] for task, groups in sorted(tasks.items()) if len(groups) == 1}
        several = sorted(set(tasks) - set(single))
        if len(single) > 1:
            tables.append(_table(model, roles, single, several))
    return tables


def _table(model: str, roles: str, tasks: ByTask, several: list[str]) -> Table:
    columns = list(dict.fromkeys(column for group in tasks.values() for column in columns_of(group.runs)))
    patterns = list(dict.fromkeys(pattern for group in tasks.values() for pattern in patterns_of(group.runs)))
    rows = [_row(tasks, pattern, columns) for pattern in patterns or [DENSE]]
    notes = [
        "Mean over tasks of each task's headline metric (correlations count as they are), in %: mean over seeds ± "
        "half of its 95 % t-interval. Each row averages over the tasks named in it.",
        *([f"Left out, trained with several settings: {', '.join(several)}."] if several else []),
        *dict.fromkeys(gradient_note(group) for group in tasks.values()),
    ]
    head = ["pattern", "tasks", *(label for _, label in columns)]
    title = f"GLUE average: {model}, {roles} sparse" if roles else f"GLUE average: {model}"
    return Table(slug(f"{model}-glue-average-{roles}"), title, head, rows, stub=2, notes=notes)


def _row(tasks: ByTask, pattern: str, columns: list[tuple[str, str]]) -> list[Cell]:
    by_column = {label: _by_task(tasks, pattern, variant, label) for variant, label in columns}
    trained = [set(scores) for scores in by_column.values() if scores]
    common = sorted(set.intersection(*trained)) if trained else []
    averages = {label: _average(scores, common) for label, scores in by_column.items()}
    best = best_of((averages[label] for variant, label in columns if variant != DENSE), _SCORE)
    row = [pattern_cell(pattern), Cell(", ".join(common), f"{len(common)} of {_TASKS}")]
    for variant, label in columns:
        average = averages[label]
        if not average.n:
            row.append(NOTHING)
            continue
        text, detail = quality_text(average, _SCORE)
        is_best, mark = (False, "") if variant == DENSE else standing(average, best)
        row.append(Cell(text, detail, average.mean, is_best, mark))
    return row


def _by_task(tasks: ByTask, pattern: str, variant: str, label: str) -> dict[str, dict[int, float]]:
    """Scores by seed of one column, for the tasks that it was trained on."""
    results = {task: group.result(pattern, variant, label) for task, group in tasks.items()}
    return {task: result.by_seed for task, result in results.items() if result is not None}


def _average(scores: dict[str, dict[int, float]], common: list[str]) -> Estimate:
    if not scores or not common:
        return estimate([])
    seeds = sorted(set.intersection(*(set(scores[task]) for task in common)))
    return estimate([fmean(scores[task][seed] for task in common) for seed in seeds])
