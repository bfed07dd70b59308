"""How a report is divided: a section per family of runs, in it a group per main table, in it a result per cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from nmtrain.report.frame import Frames, slug
from nmtrain.report.grouping import LENGTH, Flat, column_order, describe, differing, pattern_order
from nmtrain.report.headline import Headline, headline_of
from nmtrain.report.statistics import Estimate, estimate

DENSE = "dense"


@dataclass(frozen=True)
class Result:
    """The runs of one cell, (pattern, column), that differ in their seed only."""

    pattern: str
    label: str
    variant: str
    anchor: str
    runs: pd.DataFrame

    @cached_property
    def by_seed(self) -> dict[int, float]:
        return quality_by_seed(self.runs)

    @cached_property
    def quality(self) -> Estimate:
        """The final value of the headline metric, as it was recorded."""
        return estimate(list(self.by_seed.values()))

    def mean(self, column: str) -> float:
        """The mean of a numeric column of `runs` over the runs."""
        return float(self.runs[column].astype(float).mean())


@dataclass(frozen=True)
class Group:
    """Runs of one config, but for seed, recipe and pattern: one main table. Dense runs stand beside the others."""

    slug: str
    title: str
    runs: pd.DataFrame

    @property
    def headline(self) -> Headline:
        return headline_of(self.runs["headline"].iloc[0])

    @cached_property
    def columns(self) -> list[tuple[str, str]]:
        """(variant, label) of each column, in the order of `grouping.VARIANTS`."""
        return columns_of(self.runs)

    @cached_property
    def patterns(self) -> list[str]:
        """The patterns that were trained, densest first."""
        return patterns_of(self.runs)

    @cached_property
    def results(self) -> dict[tuple[str, str], Result]:
        """By (pattern, label); dense results have the pattern ``"dense"``."""
        found = {}
        for (anchor, label, variant), runs in self.runs.groupby(["cell", "label", "variant"], sort=False):
            pattern = runs["sparsity"].iloc[0]
            pattern = DENSE if pd.isna(pattern) else pattern
            found[pattern, label] = Result(pattern, label, variant, anchor, runs)
        return found

    def result(self, pattern: str, variant: str, label: str) -> Result | None:
        """The result in the row ``pattern``; a dense column has the same in every row."""
        return self.results.get((DENSE if variant == DENSE else pattern, label))


@dataclass(frozen=True)
class Section:
    """Runs of one family: comparable but for their length (``runs``), as one `Group` per length."""

    slug: str
    title: str
    runs: pd.DataFrame
    groups: list[Group]

    @property
    def headline(self) -> Headline:
        return headline_of(self.runs["headline"].iloc[0])


def quality_by_seed(runs: pd.DataFrame) -> dict[int, float]:
    """Final value of each seed: the mean, where a seed was run more than once, so that it counts once."""
    found: dict[int, list[float]] = {}
    for seed, quality in zip(runs["seed"], runs["quality"].astype(float), strict=True):
        found.setdefault(int(seed), []).append(quality)
    return {seed: sum(values) / len(values) for seed, values in found.items()}


def columns_of(runs: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = runs[["variant", "label"]].drop_duplicates()
    return sorted(zip(pairs["variant"], pairs["label"], strict=True), key=column_order)


def patterns_of(runs: pd.DataFrame) -> list[str]:
    return sorted(runs["sparsity"].dropna().unique(), key=pattern_order)


def patterns_with_noise(group: Group, noise: pd.DataFrame) -> list[str]:
    """The group's patterns that have noise records, sparsest first; of dense runs alone, their masks'."""
    recorded = group.runs[group.runs["folder"].isin(noise["folder"].unique())]
    if not group.patterns:
        return sorted(recorded["noise_pattern"].unique(), key=pattern_order, reverse=True)
    return [pattern for pattern in reversed(group.patterns) if (recorded["sparsity"] == pattern).any()]


def runs_with_noise(group: Group, pattern: str, noise: pd.DataFrame) -> pd.DataFrame:
    """The runs that a noise figure shows: those at ``pattern``, and the dense ones."""
    runs = group.runs[(group.runs["sparsity"] == pattern) | (group.runs["recipe"] == DENSE)]
    if not group.patterns:
        runs = runs[runs["noise_pattern"] == pattern]
    return runs[runs["folder"].isin(noise["folder"].unique())]


def build_sections(frames: Frames) -> list[Section]:
    """The sections of all counted runs, by model, data and roles."""
    runs = frames.runs[frames.runs["counted"]]
    dense, sparse = runs[runs["recipe"] == DENSE], runs[runs["recipe"] != DENSE]
    families = [found for _, found in sparse.groupby("family")]
    beside = set(sparse["dense_family"])
    families += [found for family, found in dense.groupby("family") if family not in beside]
    names = [_name(found, frames.settings) for found in families]
    sections = []
    for name, family in zip(names, families, strict=True):
        like = [other for other, named in zip(families, names, strict=True) if named == name]
        settings = [frames.settings[other["group"].iloc[0]] for other in like]
        setting = frames.settings[family["group"].iloc[0]]
        keys = [key for key in differing(settings) if key not in LENGTH]
        described = describe(setting, keys)
        title = f"{name} ({described})" if described else name
        mark = f"-{family['family'].iloc[0]}" if len(like) > 1 else ""
        partners = dense[dense["dense_family"].isin(family["dense_family"]) & ~dense["folder"].isin(family["folder"])]
        everything = pd.concat([partners, family])
        sections.append(Section(slug(name) + mark, title, everything, _groups(slug(name) + mark, everything, frames)))
    return sorted(sections, key=lambda section: (section.title, section.slug))


def _name(family: pd.DataFrame, settings: dict[str, Flat]) -> str:
    first = family.iloc[0]
    if first["recipe"] == DENSE:
        return f"{first['model']} on {first['data']}, dense only"
    own = without_prefix(settings[first["group"]], "mask.patterns.")
    patterns = "".join(f", {role} at {pattern}" for role, pattern in sorted(own.items()))
    return f"{first['model']} on {first['data']}, {first['roles']} sparse{patterns}"


def without_prefix(setting: Flat, prefix: str) -> Flat:
    """The part of ``setting`` below ``prefix``, under its shorter names."""
    return {key.removeprefix(prefix): value for key, value in setting.items() if key.startswith(prefix)}


def _groups(section: str, runs: pd.DataFrame, frames: Frames) -> list[Group]:
    dense, sparse = runs[runs["recipe"] == DENSE], runs[runs["recipe"] != DENSE]
    beside = set(sparse["dense_group"])
    keys = [*sparse["group"].unique(), *(key for key in dense["group"].unique() if key not in beside)]
    lengths = {key: {name: frames.settings[key].get(name) for name in LENGTH} for key in keys}
    varying = differing(list(lengths.values()))
    groups = []
    for key in keys:
        own = runs[runs["group"] == key]
        partners = dense[dense["dense_group"].isin(own["dense_group"]) & (dense["group"] != key)]
        title = describe(lengths[key], varying)
        mark = f"-{slug(title)}" if title else ""
        groups.append((lengths[key], Group(section + mark, title, pd.concat([partners, own]))))
    groups.sort(key=lambda pair: [-1.0 if value is None else float(value) for value in pair[0].values()])
    return [group for _, group in groups]
