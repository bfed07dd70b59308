"""How a report is divided: a section per family of runs, in it a group per main table, in it a result per cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from nmtrain.report.compare.scores import DIVERGED, Scores, scores_of
from nmtrain.report.compare.statistics import Estimate
from nmtrain.report.read.flat import Flat, below, describe, differing, without
from nmtrain.report.read.frame import Frames, slug
from nmtrain.report.read.grouping import BUDGET, LENGTH, SPARSE_ONLY, column_order, pattern_order, unusual
from nmtrain.report.read.headline import Headline, headline_of
from nmtrain.report.read.split import WORDS

DENSE = "dense"


@dataclass(frozen=True)
class Result:
    """The runs of one cell, (pattern, column), that differ in their seed only; those that were lost among them."""

    pattern: str
    label: str
    variant: str
    anchor: str
    runs: pd.DataFrame

    @cached_property
    def scores(self) -> Scores:
        return scores_of(self.runs)

    @property
    def quality(self) -> Estimate:
        """The final value of the headline metric, as it was recorded."""
        return self.scores.quality

    @cached_property
    def finished(self) -> pd.DataFrame:
        return finished(self.runs)

    def mean(self, column: str) -> float:
        """The mean of a numeric column of `runs` over the finished runs."""
        return mean_of(self.finished, column)


@dataclass(frozen=True)
class Group:
    """Runs of one config, but for seed, recipe and pattern: one main table. Dense runs stand beside the others.

    ``runs`` are finished or lost; ``setting`` is what their configs have in common.
    """

    slug: str
    title: str
    runs: pd.DataFrame
    setting: Flat

    @property
    def headline(self) -> Headline:
        return headline_on_split(self.runs)

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

    @property
    def has_results(self) -> bool:
        return bool(self.runs["counted"].any())

    def result(self, pattern: str, variant: str, label: str) -> Result | None:
        """The result in the row ``pattern``; a dense column has the same in every row."""
        return self.results.get((DENSE if variant == DENSE else pattern, label))


@dataclass(frozen=True)
class Section:
    """Runs of one family, on one split: comparable but for their length (``runs``), as one `Group` per length.

    Attributes:
        name: what tells it from the other sections of a report; stands over each of its tables and figures.
        title: the name, with all settings that are not as shipped.
    """

    slug: str
    name: str
    title: str
    runs: pd.DataFrame
    groups: list[Group]

    @property
    def headline(self) -> Headline:
        return headline_on_split(self.runs)

    @property
    def has_results(self) -> bool:
        return bool(self.runs["counted"].any())


def headline_on_split(runs: pd.DataFrame) -> Headline:
    """The metric of runs that are compared, which all have the same on the same split."""
    return headline_of(runs["headline"].iloc[0], WORDS[runs["split"].iloc[0]])


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """Those that have results."""
    return runs[runs["counted"].astype(bool)]


def evaluated_in_training(runs: pd.DataFrame) -> pd.DataFrame:
    """Those that recorded curves and noise for these results; the others were evaluated afterwards."""
    return runs[~runs["afterwards"].astype(bool)]


def mean_of(runs: pd.DataFrame, column: str) -> float:
    return float(runs[column].astype(float).mean())


def median_of(runs: pd.DataFrame, column: str) -> float:
    """For what was measured: a run that had to share its machine, or was held up, does not move it far."""
    return float(runs[column].astype(float).median())


def columns_of(runs: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = runs[["variant", "label"]].drop_duplicates()
    return sorted(zip(pairs["variant"], pairs["label"], strict=True), key=column_order)


def patterns_of(runs: pd.DataFrame) -> list[str]:
    return sorted(runs["sparsity"].dropna().unique(), key=pattern_order)


def patterns_with_noise(group: Group, noise: pd.DataFrame) -> list[str]:
    """The group's patterns that have noise records, sparsest first; of dense runs alone, their masks'."""
    recorded = evaluated_in_training(finished(group.runs))
    if not group.patterns:
        own = noise[noise["folder"].isin(recorded["folder"])]
        return sorted(own["sparsity"].unique(), key=pattern_order, reverse=True)
    recorded = recorded[recorded["folder"].isin(noise["folder"].unique())]
    return [pattern for pattern in reversed(group.patterns) if (recorded["sparsity"] == pattern).any()]


def noise_at(group: Group, pattern: str, noise: pd.DataFrame) -> pd.DataFrame:
    """The lines of ``noise`` that a figure shows: of the runs at ``pattern``, and of the dense ones.

    A dense run was measured by the mask of ``pattern``, or, beside sparse runs, by that of another pattern.
    """
    runs = evaluated_in_training(finished(group.runs))
    shown = noise[noise["folder"].isin(runs[(runs["sparsity"] == pattern) | (runs["recipe"] == DENSE)]["folder"])]
    by_its_mask = shown[shown["sparsity"] == pattern]
    if not group.patterns:
        return by_its_mask
    others = shown[~shown["folder"].isin(by_its_mask["folder"])]
    first = others.groupby("folder")["sparsity"].transform("first")
    return pd.concat([by_its_mask, others[others["sparsity"] == first]])


def build_sections(frames: Frames) -> list[Section]:
    """The sections of all runs that are finished or lost, by model, data and roles; validation before test.

    A family in which runs only failed, and none for a reason of training, has nothing to show.
    """
    runs = frames.runs[frames.runs["counted"] | frames.runs["lost"].notna()]
    dense, sparse = runs[runs["recipe"] == DENSE], runs[runs["recipe"] != DENSE]
    families = [found for _, found in sparse.groupby("family") if _has_something_to_show(found)]
    beside = {found["dense_family"].iloc[0] for found in families}
    alone = [found for family, found in dense.groupby("family") if family not in beside]
    families += filter(_has_something_to_show, alone)
    names = [(name_of(found, frames.settings), found["split"].iloc[0]) for found in families]
    sections = []
    for (name, split), family in zip(names, families, strict=True):
        like = [other for other, named in zip(families, names, strict=True) if named == (name, split)]
        first = family.iloc[0]
        is_dense = first["recipe"] == DENSE
        setting = frames.settings[first["group"]]
        settings = [frames.settings[other["group"].iloc[0]] for other in like]
        unread = SPARSE_ONLY if is_dense else ()
        apart = set(differing([without(one, unread) for one in settings])).difference(LENGTH)
        told = apart.union(unusual(setting, is_dense))
        short, title = (_with_settings(f"{name}, {WORDS[split]} split", setting, keys) for keys in (apart, told))
        mark = "" if split == "val" else f"-{split}"
        mark += f"-{family['family'].iloc[0]}" if len(like) > 1 else ""
        partners = dense[dense["dense_family"].isin(family["dense_family"]) & ~dense["folder"].isin(family["folder"])]
        everything = pd.concat([partners, family])
        groups = _groups(slug(name) + mark, everything, frames)
        section = Section(slug(name) + mark, short, title, everything, groups)
        sections.append(((_with_settings(name, setting, told), list(WORDS).index(split), section.slug), section))
    return [section for _, section in sorted(sections, key=lambda keyed: keyed[0])]


def _with_settings(name: str, setting: Flat, keys: set[str]) -> str:
    described = describe(setting, sorted(keys))
    return f"{name} ({described})" if described else name


def _has_something_to_show(family: pd.DataFrame) -> bool:
    return bool(family["counted"].any() or (family["lost"] == DIVERGED).any())


def name_of(family: pd.DataFrame, settings: dict[str, Flat]) -> str:
    """``t5 on g2p, ff sparse`` for runs of one family."""
    first = family.iloc[0]
    if first["recipe"] == DENSE:
        return f"{first['model']} on {first['data']}, dense only"
    own = below(settings[first["group"]], "mask.patterns.")
    patterns = "".join(f", {role} at {pattern}" for role, pattern in sorted(own.items()))
    return f"{first['model']} on {first['data']}, {first['roles']} sparse{patterns}"


def _groups(section: str, runs: pd.DataFrame, frames: Frames) -> list[Group]:
    dense, sparse = runs[runs["recipe"] == DENSE], runs[runs["recipe"] != DENSE]
    beside = set(sparse["dense_group"])
    keys = [*sparse["group"].unique(), *(key for key in dense["group"].unique() if key not in beside)]
    lengths = {
        key: {name: value for name in LENGTH if (value := frames.settings[key].get(name)) is not None} for key in keys
    }
    varying = differing(list(lengths.values()))
    groups = []
    for key in keys:
        own = runs[runs["group"] == key]
        partners = dense[dense["dense_group"].isin(own["dense_group"]) & (dense["group"] != key)]
        # Runs of one budget differ in updates, which their title has to say.
        title = describe(lengths[key], sorted({*varying, *(name for name in lengths[key] if name == BUDGET)}))
        mark = f"-{slug(title)}" if title else ""
        groups.append((lengths[key], Group(section + mark, title, pd.concat([partners, own]), frames.settings[key])))
    groups.sort(key=lambda pair: [float(pair[0].get(name, -1.0)) for name in LENGTH])
    return [group for _, group in groups]
