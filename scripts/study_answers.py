"""The study's questions (a) to (i), answered from its records: answers.md and answers.csv.

    python scripts/study_answers.py results/study

A comparison is a t-test paired by seed as in `nmtrain report`, corrected by Holm's method over the comparisons of its
question on its bed. Differences are in points: words or images right of a hundred, on test.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr

from nmtrain.report.compare.statistics import Difference, Estimate, corrected, difference, estimate
from nmtrain.report.read.folders import read_runs
from nmtrain.report.read.frame import Frames, build_frames

BEDS = {"g2p": 3234, "glyphs": 6250}  # and the updates of a run of full length
PATTERNS = ("1:8", "1:16", "1:32", "1:64")
FF, ALL = "ff", "ff+q+k+v+o"
DENSE, STATIC, SR_STE, MDGF, LINEAR = "dense", "static", "SR-STE", "MDGF exponential", "MDGF linear"
STRAIGHT = "MDGF exponential, straight-through gradient"
SDGF = ("SDGF stepwise", "SDGF geometric")
OTHERS = ("Feather", "RigL", "AC/DC")
BRIEF = "MDGF exponential (finetune_fraction=0.7)"  # ours: D has fallen after 0.3 of training

Scores = Mapping[int, float]  # points by seed
Pair = tuple[Scores, Scores]
RECIPES, RUNS, METHODS = "tuned recipes, means over seeds", "their runs", "methods at one learning rate, one seed"
SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "not supported"


@dataclass(frozen=True)
class Answer:
    """One comparison of one question; ``verdict`` is on "the first is above the second"."""

    question: str
    bed: str
    what: str
    found: Difference

    @property
    def verdict(self) -> str:
        if not self.found.shown:
            return OPEN
        return SUPPORTED if self.found.mean > 0 else CONTRADICTED


@dataclass(frozen=True)
class Correlation:
    """Spearman's, of accuracy with the logarithm of noise; the interval by Fisher's z.

    Attributes:
        over: what the points are; runs of one recipe are alike, so that over them there is no interval.
    """

    bed: str
    metric: str
    over: str
    n: int
    rho: float

    @property
    def interval(self) -> tuple[float, float]:
        reach = ndtri(0.975) * 1.03 / math.sqrt(self.n - 3)  # Fieller, Hartley and Pearson, 1957
        return math.tanh(math.atanh(self.rho) - reach), math.tanh(math.atanh(self.rho) + reach)

    @property
    def p(self) -> float:
        t = abs(self.rho) * math.sqrt((self.n - 2) / (1 - self.rho**2))
        return float(2 * stdtr(self.n - 2, -t))

    @property
    def cells(self) -> str:
        if self.over == RUNS or self.n < 5 or abs(self.rho) == 1:
            return f"{self.n} | {self.rho:+.2f} | "
        low, high = self.interval
        return f"{self.n} | {self.rho:+.2f} ({low:+.2f} to {high:+.2f}) | {p_text(self.p)}"


class Records:
    """The finished runs of the study, and their scores on test by seed.

    Attributes:
        parts: ``tuned``: under wsd; ``cosine``; ``protocol``: one learning rate and cosine; ``brief``: MDGF whose D
            falls in the first 0.3 of training; ``methods``: one rate, one seed.
    """

    def __init__(self, root: Path) -> None:
        folders = {part: [root / part / bed for bed in BEDS] for part in ("cosine", "protocol", "brief")}
        folders |= {"tuned": [root / bed for bed in BEDS], "methods": [root / "methods"]}
        self.root = root
        self.parts = {part: build_frames(read_runs(own)) for part, own in folders.items()}

    def __call__(self, bed: str, label: str, pattern: str = "1:32", roles: str = ALL, part: str = "tuned") -> Scores:
        """Of the runs of full length; empty where there are none."""
        runs = self.runs(part, bed, label, pattern, roles)
        return _by_seed(runs[runs["updates"] == BEDS[bed]])

    def at_flops_of(self, bed: str, other: str, label: str) -> Scores:
        """Of the tuned runs of another length that spent the training FLOPs of ``other``, within 5 %; at 1:32."""
        full = self.runs("tuned", bed, other, "1:32", ALL)
        budget = full[full["updates"] == BEDS[bed]]["training_flops"].median()
        runs = self.runs("tuned", bed, label, "1:32", ALL)
        near = (runs["training_flops"] / budget - 1).abs() < 0.05
        return _by_seed(runs[near & (runs["updates"] != BEDS[bed])])

    def runs(self, part: str, bed: str, label: str | None, pattern: str, roles: str) -> pd.DataFrame:
        """The rows of the runs of one recipe, or of every sparse one."""
        runs = on_test(self.parts[part])
        own = runs[runs["data"] == bed]
        own = own[own["label"] == label] if label else own
        return own if label == DENSE else own[(own["sparsity"] == pattern) & (own["roles"] == roles)]


def on_test(frames: Frames) -> pd.DataFrame:
    runs = frames.runs[frames.runs["counted"] & (frames.runs["split"] == "test")]
    return runs.assign(points=100 * runs["quality"])


def _by_seed(runs: pd.DataFrame, column: str = "points") -> Scores:
    return {int(seed): float(value) for seed, value in zip(runs["seed"], runs[column], strict=True)}


def gain(one: Scores, other: Scores) -> Scores:
    return {seed: one[seed] - other[seed] for seed in one.keys() & other.keys()}


def unpaired(scores: Scores) -> Scores:
    """The same scores by other seeds, so that they are not compared with those of the same seed elsewhere."""
    return {-1 - seed: score for seed, score in scores.items()}


def over_sr_ste(get: Records, bed: str, pattern: str = "1:32", part: str = "tuned") -> Scores:
    """MDGF's gain, every role sparse."""
    return gain(get(bed, MDGF, pattern, part=part), get(bed, SR_STE, pattern, part=part))


def by_pattern(get: Records, bed: str) -> Iterator[tuple[str, Pair]]:
    for roles, name in ((ALL, "every role"), (FF, "FF")):
        for pattern in PATTERNS:
            sides = get(bed, MDGF, pattern, roles), get(bed, SR_STE, pattern, roles)
            yield f"MDGF over SR-STE, {name} at {pattern}, tuned", sides
    growth = over_sr_ste(get, bed), over_sr_ste(get, bed, "1:8")
    yield "that gain at 1:32 over that at 1:8, every role", growth
    for label in (LINEAR, *SDGF):
        yield f"{label} over SR-STE, every role at 1:32, tuned", (get(bed, label), get(bed, SR_STE))
    for label in (MDGF, LINEAR, *SDGF):
        sides = get(bed, label, part="protocol"), get(bed, SR_STE, part="protocol")
        yield f"{label} over SR-STE, every role at 1:32, the paper's protocol", sides


def by_flops(get: Records, bed: str) -> Iterator[tuple[str, Pair]]:
    sr_ste, mdgf, static = get(bed, SR_STE), get(bed, MDGF), get(bed, STATIC)
    short, long = get.at_flops_of(bed, SR_STE, MDGF), get.at_flops_of(bed, SR_STE, STATIC)
    yield "MDGF over SR-STE at SR-STE's FLOPs", (short, sr_ste)
    yield "MDGF at SR-STE's FLOPs over static at full length", (short, static)
    yield "MDGF over SR-STE at MDGF's FLOPs", (mdgf, get.at_flops_of(bed, MDGF, SR_STE))
    yield "static at SR-STE's FLOPs over SR-STE", (long, sr_ste)
    yield "static at SR-STE's FLOPs over MDGF at full length", (long, mdgf)
    yield "MDGF linear, tuned in its end, over MDGF exponential, equal updates", (get(bed, LINEAR), mdgf)


def of_ours(get: Records, bed: str) -> Iterator[tuple[str, Pair]]:
    brief = get(bed, BRIEF, part="brief")
    yield "brief MDGF over MDGF, equal updates", (brief, get(bed, MDGF))
    yield "brief MDGF over MDGF at SR-STE's FLOPs", (brief, get.at_flops_of(bed, SR_STE, MDGF))
    yield "brief MDGF over SR-STE, equal updates and no more FLOPs", (brief, get(bed, SR_STE))
    yield "brief MDGF over static, equal updates", (brief, get(bed, STATIC))
    yield "brief MDGF over static at SR-STE's FLOPs", (brief, get.at_flops_of(bed, SR_STE, STATIC))


def by_schedule(get: Records, bed: str) -> Iterator[tuple[str, Pair]]:
    yield "MDGF over SR-STE under cosine", (get(bed, MDGF, part="cosine"), get(bed, SR_STE, part="cosine"))
    yield "the gain under cosine over that under wsd", (over_sr_ste(get, bed, part="cosine"), over_sr_ste(get, bed))
    for label in (MDGF, SR_STE):
        yield f"{label} under wsd over cosine", (get(bed, label), get(bed, label, part="cosine"))


def by_gradient(get: Records, bed: str) -> Iterator[tuple[str, Pair]]:
    for roles, name in ((ALL, "every role"), (FF, "FF")):
        for one, other in ((MDGF, STATIC), (STATIC, SR_STE), (MDGF, STRAIGHT), (STRAIGHT, SR_STE)):
            yield f"{one} over {other} at 1:32, {name}", (get(bed, one, roles=roles), get(bed, other, roles=roles))


def of_others(get: Records, bed: str) -> Iterator[tuple[str, Pair]]:
    for label in OTHERS:
        for other in (MDGF, STATIC):
            yield f"{label} over {other}, equal updates", (get(bed, label), get(bed, other))


def at_milder(get: Records, bed: str) -> Iterator[tuple[str, Pair]]:
    for pattern in ("1:8", "1:16"):
        mdgf, static, sr_ste = (get(bed, label, pattern) for label in (MDGF, STATIC, SR_STE))
        yield f"MDGF over static at {pattern}", (mdgf, static)
        yield f"static over SR-STE at {pattern}", (static, sr_ste)
    high, mild = (gain(get(bed, MDGF, pattern), get(bed, STATIC, pattern)) for pattern in ("1:32", "1:8"))
    yield "the gain of MDGF over static at 1:32 over that at 1:8", (high, mild)
    for label in (LINEAR, *SDGF):
        yield f"{label} over SR-STE at 1:8", (get(bed, label, "1:8"), get(bed, SR_STE, "1:8"))


ASKED = {
    "b": by_pattern,
    "c": by_flops,
    "e": of_ours,
    "f": by_schedule,
    "g": by_gradient,
    "h": of_others,
    "i": at_milder,
}


def comparisons(get: Records) -> Iterator[tuple[str, str, str, Pair]]:
    """(question, bed, what, both sides), whether there are runs of it or not."""
    for bed in BEDS:
        for question, asked in ASKED.items():
            yield from ((question, bed, what, sides) for what, sides in asked(get, bed))
    language, vision = (over_sr_ste(get, bed) for bed in BEDS)
    yield "d", "both", "gain of MDGF over SR-STE at 1:32 in language over that in vision", (language, unpaired(vision))


def answers(get: Records) -> list[Answer]:
    """The comparisons that have two seeds or more, each corrected for the others of its question on its bed."""
    found: dict[tuple[str, str], dict[str, Difference]] = {}
    for question, bed, what, sides in comparisons(get):
        test = difference(*sides)
        if test is not None and test.tested:
            found.setdefault((question, bed), {})[what] = test
    return [
        Answer(question, bed, what, test)
        for (question, bed), tests in sorted(found.items())
        for what, test in corrected(tests).items()
    ]


def run_noise(frames: Frames, metric: str) -> pd.DataFrame:
    """Counted sparse runs on test with a column ``noise``: the mean logarithm of ``metric`` over measurements."""
    noise = frames.noise[frames.noise[metric] > 0]
    mean = np.log(noise.set_index(["folder", "sparsity"])[metric]).groupby(level=[0, 1]).mean()
    runs = on_test(frames)
    return runs[runs["roles"] == ALL].join(mean.rename("noise"), on=["folder", "sparsity"], how="inner")


def correlations(get: Records) -> list[Correlation]:
    """Of accuracy with noise over training, at 1:32 with every role sparse."""
    found = []
    for bed, updates in BEDS.items():
        for metric in ("second_moment_mean", "grad_noise", "grad_noise/pruned"):
            tuned = pd.concat(run_noise(get.parts[part], metric) for part in ("tuned", "brief"))
            tuned = tuned[(tuned["data"] == bed) & (tuned["sparsity"] == "1:32") & (tuned["updates"] == updates)]
            recipes = tuned.groupby("label")[["quality", "noise"]].mean()
            methods = run_noise(get.parts["methods"], metric)
            methods = methods[methods["data"] == bed]
            for over, points in ((RECIPES, recipes), (RUNS, tuned), (METHODS, methods)):
                rho = points["quality"].corr(points["noise"], method="spearman")
                found.append(Correlation(bed, metric, over, len(points), float(rho)))
    return found


def changes(get: Records) -> Iterator[tuple[str, str, Estimate, Difference | None]]:
    """(bed, recipe, change, change less SR-STE's) of the noise of pruned entries in decades, at 1:32, tuned.

    The change of a run is its mean over the last fifth of the measurements less that over the first.
    """
    noise = get.parts["tuned"].noise
    noise = noise[noise["grad_noise/pruned"] > 0]
    log = noise.assign(log=np.log10(noise["grad_noise/pruned"]))
    for bed, updates in BEDS.items():
        early = log[log["update"] <= updates / 5].groupby(["folder", "sparsity"])["log"].mean()
        late = log[log["update"] > updates * 4 / 5].groupby(["folder", "sparsity"])["log"].mean()
        runs = get.runs("tuned", bed, None, "1:32", ALL)
        runs = runs[runs["updates"] == updates].join((late - early).rename("change"), on=["folder", "sparsity"])
        change = {label: _by_seed(own, "change") for label, own in runs.groupby("label")}
        for label in (SR_STE, STATIC, STRAIGHT, MDGF, LINEAR, *SDGF, "GMP"):
            if label in change:
                less = None if label == SR_STE else difference(change[label], change[SR_STE])
                yield bed, label, estimate(list(change[label].values())), less


QUESTIONS = {
    "a": "Noise of pruned entries falls with decay, and lower noise goes with higher accuracy",
    "b": "MDGF or SDGF over SR-STE above 80 % sparsity, the more so the sparser",
    "c": "MDGF exponential over SR-STE at equal training FLOPs",
    "d": "Language gains more than vision",
    "e": "A recipe of ours, brief MDGF, over MDGF exponential at 1:32",
    "f": "How much of the gain is the schedule's",
    "g": "How much is the masked gradient's and how much the decay's",
    "h": "Methods of others, tuned, over MDGF exponential and static at 1:32",
    "i": "The same at 1:8 and 1:16, every role sparse: gradient, decay, and the paper's other recipes",
}


def means(get: Records) -> Iterator[str]:
    """A table of what each tuned recipe reached: every role sparse, then FF alone; each pattern cheapest first."""
    head = ("sparse", "pattern", "bed", "recipe", "right on test / %", "to dense", "n", "training FLOPs")
    yield from (f"| {' | '.join(head)} |", "|---|---|---|---|--:|--:|--:|--:|")
    for roles, name in ((ALL, "every role"), (FF, "FF")):
        for pattern in PATTERNS:
            for bed in BEDS:
                yield from (f"| {name} | {pattern} | {bed} | {row} |" for row in mean_rows(get, bed, pattern, roles))


def mean_rows(get: Records, bed: str, pattern: str, roles: str) -> list[str]:
    sparse = [get.runs(part, bed, None, pattern, roles) for part in ("tuned", "brief")]
    dense = get.runs("tuned", bed, DENSE, "", "")
    rows = []
    for (label, _), own in pd.concat([dense, *sparse]).groupby(["label", "group"]):
        mean = estimate(list(own["points"]))
        missing = difference(_by_seed(dense), _by_seed(own))
        length = own["updates"].mean() / BEDS[bed]
        share = own["training_flops"].mean() / dense["training_flops"].mean()
        name = label if length == 1 else f"{label}, {length:.2f} of the updates"
        beside = "" if label == DENSE or missing is None else f"{missing.mean:.1f} ± {missing.half_width:.1f}"
        scores = f"{mean.mean:.1f} ± {mean.half_width:.1f}"
        rows.append((share, f"{name} | {scores} | {beside} | {mean.n} | {share:.2f}"))
    return [row for _, row in sorted(rows)] if len(rows) > 1 else []


def lines(get: Records, found: list[Answer], correlated: list[Correlation]) -> Iterator[str]:
    """answers.md."""
    yield "# Answers of the study"
    yield ""
    yield "Made by `python scripts/study_answers.py results/study`; what the columns mean stands at its end."
    yield from (
        "",
        "Tuned, cheapest first; training FLOPs as a part of dense training:",
        "",
    )
    yield from means(get)
    for letter, asked in QUESTIONS.items():
        yield from ("", f"## ({letter}) {asked}", "")
        yield from noise_lines(get, correlated) if letter == "a" else comparison_lines(letter, found)
    yield from (
        "",
        "Difference: in points on test, the first less the second, with half of its 95 % t-interval; n: seeds that "
        "both have (else of either, Welch's test). Holm: p corrected for all comparisons of the question on that bed; "
        "the verdict goes by it. Could show: the smallest true difference that a single test of this n and spread "
        "shows in 80 % of cases. Supported: the first is above the second; contradicted: below; not supported: neither "
        "is shown. Noise: the mean of its logarithm over the measurements of a run; rho: Spearman's with accuracy on "
        "test; runs of one recipe are alike, so that over runs no interval is given. Change of pruned noise: of "
        "`grad_noise/pruned` from the first fifth of training to the last, in powers of ten, mean over runs with half "
        "of its 95 % t-interval.",
    )


def noise_lines(get: Records, correlated: list[Correlation]) -> Iterator[str]:
    yield from ("| bed | recipe | change of pruned noise | n | less SR-STE's |", "|---|---|--:|--:|--:|")
    for bed, label, change, less in changes(get):
        beside = "" if less is None else f"{less.mean:+.2f} ± {less.half_width:.2f}"
        yield f"| {bed} | {label} | {change.mean:+.2f} ± {change.half_width:.2f} | {change.n} | {beside} |"
    yield from ("", "| bed | noise | over | n | rho (95 %) | p |", "|---|---|---|--:|--:|--:|")
    yield from (f"| {one.bed} | `{one.metric}` | {one.over} | {one.cells} |" for one in correlated)


def comparison_lines(letter: str, found: list[Answer]) -> Iterator[str]:
    yield "| bed | comparison | difference | n | p | Holm | could show | verdict |"
    yield "|---|---|--:|--:|--:|--:|--:|---|"
    for one in (one for one in found if one.question == letter):
        test = one.found
        holm = "" if test.holm is None else p_text(test.holm)
        n = f"{test.pairs}" if test.pairs else f"{test.n[0]}, {test.n[1]}"
        yield (
            f"| {one.bed} | {one.what} | {test.mean:+.1f} ± {test.half_width:.1f} | {n} | {p_text(test.p)} "
            f"| {holm} | {test.smallest:.1f} | {one.verdict} |"
        )


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def main() -> None:
    root = Path(sys.argv[1])
    get = Records(root)
    found, correlated = answers(get), correlations(get)
    (root / "answers.md").write_text("\n".join(lines(get, found, correlated)) + "\n")
    with open(root / "answers.csv", "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(
            ("question", "bed", "comparison", "difference", "half_width", "pairs", "p", "holm", "smallest", "verdict")
        )
        for one in found:
            test = one.found
            numbers = (test.mean, test.half_width, test.pairs, test.p, test.holm, test.smallest)
            rounded = ["" if number is None else f"{number:.4g}" for number in numbers]
            out.writerow((one.question, one.bed, one.what, *rounded, one.verdict))


if __name__ == "__main__":
    main()
