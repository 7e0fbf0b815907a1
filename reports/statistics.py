"""Differences between rows of tables: intervals over trainings and test identities, tests, and decisions on statements.

docs/statistics.md states the formulas and their assumptions. `python -m reports.statistics` prints its power table.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes seconds to import

from ablations.studies.figure5b import GENOTYPES
from reports.markdown import markdown_table

#: Error rate of a family of tests: a difference or a decision needs an adjusted p value below this.
LEVEL = 0.05
#: Bootstrap samples of test identities.
RESAMPLES = 2000
#: Least training accuracy of a converged training, mean of the last 5 % of its epochs.
ACCURACY = 0.9
#: Largest rise of the training accuracy of a converged training over the last quarter of its epochs.
RISE = 0.02

#: Rows share a variance unless Hartley's test of equal variances has a p value below this. It is not `LEVEL`, because
#: few repetitions seldom show a difference, and a missed one costs more than a variance of its own.
POOLING = 0.2
#: Fewest repetitions of a row in that test, and of a row with its own variance.
OWN_VARIANCE = 3

#: Smallest p value of a test, times two; smaller ones have this value.
SMALLEST = 1e-100

#: Source of rows whose results follow from the data alone, such as oracles: their repetitions would be equal.
FIXED = "none"

Status = Literal["holds", "fails", "undecided", "not testable", "not run"]
Floats = NDArray[np.float64]
TestSet = tuple[NDArray[np.generic], Floats]
"""clusters and their weights, (C,) each"""


def p_value(p: float) -> str:
    """A p value as text for tables and the ledger."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


# --- Scores --------------------------------------------------------------------------------------


def query_values(queries: pd.DataFrame, metric: str) -> Floats:
    """(Q,) values of a metric in per cent; NaN for queries without a match.

    Args:
        queries: rows of queries.csv as written, shares in [0, 1].
        metric: mAP, mINP, R1, R5, ...
    """
    column = {"mAP": "ap", "mINP": "inp"}.get(metric)
    shares = queries[column] if column else queries["first_rank"] <= int(metric.removeprefix("R"))
    return np.where(queries["positives"] > 0, 100 * shares.to_numpy(float), np.nan)


@lru_cache(maxsize=24)  # enough for the levels of all factors on two test sets
def resampled_counts(clusters: int) -> Floats:
    """(RESAMPLES, clusters) how often each bootstrap sample contains each cluster.

    Test sets with the same number of clusters share the samples, so all differences on a test set are paired.
    """
    samples = np.random.default_rng(clusters).integers(clusters, size=(RESAMPLES, clusters))
    flat = (samples + clusters * np.arange(RESAMPLES)[:, None]).ravel()
    return np.bincount(flat, minlength=RESAMPLES * clusters).reshape(RESAMPLES, clusters).astype(float)


@dataclass(frozen=True, eq=False)
class Scores:
    """One metric of the repetitions of a table cell, by cluster of test images, in per cent.

    A cluster is what the test set was drawn from at random: a family of similar identities in a rendered set, else an
    identity. A repetition is a seed, or a random architecture with the mean over its seeds.
    """

    clusters: NDArray[np.generic]
    """(C,) families or identities in ascending order"""
    weights: Floats
    """(C,) share of each cluster's queries in the metric; the sum is 1"""
    sums: Floats
    """(repetitions, C) share of each cluster in the metric of a repetition; the sum over C is the metric"""

    @classmethod
    def from_queries(cls, runs: Sequence[pd.DataFrame], metric: str, genotypes: Sequence[str] = ()) -> "Scores":
        """Scores of runs.

        Args:
            runs: queries.csv of each, as written. Draws count equally, as in the record.
            metric: mAP, mINP, R1, R5, ...
            genotypes: genotype of each run, for a row of random architectures.

        Raises:
            ValueError: no run, fewer than two clusters, or runs on different test sets.
        """
        found = [_by_cluster(queries, metric) for queries in runs]
        if not found:
            raise ValueError("no run to compare")
        clusters, weights, _ = found[0]
        if len(clusters) < 2:
            raise ValueError("variance over test identities needs at least two of them, of two families")
        for one in found:
            _check_same_test_set((clusters, weights), one[:2])
        sums = np.stack([one for _, _, one in found])
        if genotypes:
            names = np.asarray(genotypes)
            sums = np.stack([sums[names == name].mean(0) for name in dict.fromkeys(genotypes)])
        return cls(clusters, weights, sums)

    @property
    def test_set(self) -> TestSet:
        """Clusters and weights, which are equal for runs on the same queries."""
        return self.clusters, self.weights

    @property
    def count(self) -> int:
        """Number of repetitions."""
        return len(self.sums)

    @cached_property
    def values(self) -> Floats:
        """(repetitions,) the metric of each, in per cent; equal to the record's."""
        return np.asarray(self.sums.sum(1))

    @property
    def mean(self) -> float:
        """The metric, mean over repetitions."""
        return float(self.values.mean())

    @cached_property
    def replicates(self) -> Floats:
        """(RESAMPLES, repetitions) the metric on bootstrap samples of the clusters."""
        counts = resampled_counts(len(self.clusters))
        return np.asarray(counts @ self.sums.T / (counts @ self.weights)[:, None])


def _by_cluster(queries: pd.DataFrame, metric: str) -> tuple[NDArray[np.generic], Floats, Floats]:
    """Clusters, their weights, and their weighted sums of a run."""
    values = query_values(queries, metric)
    valid = ~np.isnan(values)
    name = "family" if "family" in queries else "identity"
    clusters, index = np.unique(queries[name].to_numpy()[valid], return_inverse=True)
    draws, draw = np.unique(queries["draw"].to_numpy()[valid], return_inverse=True)
    weights = 1 / (len(draws) * np.bincount(draw)[draw])
    shares, sums = (np.bincount(index, one).astype(float) for one in (weights, weights * values[valid]))
    return clusters, shares, sums


def _check_same_test_set(one: TestSet, other: TestSet) -> None:
    if not (np.array_equal(one[0], other[0]) and np.allclose(one[1], other[1])):
        raise ValueError("runs on different test sets cannot be compared: their queries differ")


# --- Rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variance:
    """Estimate of a variance."""

    value: float
    df: float
    """degrees of freedom of the estimate"""


@dataclass(frozen=True, eq=False)
class Row:
    """A table cell to compare: its scores, and information about its runs."""

    scores: Scores
    source: str = "training"
    """what differs between repetitions (`reports.comparisons.source_of`); rows with the same source share a variance.
    `FIXED`: nothing, so one repetition is enough"""
    obstacle: str = ""
    """reason that the row cannot be compared, such as that of `convergence_obstacle`; empty: it can be"""
    origins: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """devices and versions of the runs, from `origins_of`"""
    between: Variance = Variance(math.nan, 0)
    """between repetitions, set by `pooled`"""
    pool: tuple[str, int] = ("", 0)
    """rows with the same pool have the same estimate `between`; set by `pooled`"""

    @property
    def has_own_variance(self) -> bool:
        """True if the variances of the rows with its source differ, so that they are not pooled."""
        return self.pool[1] > 0


def pooled(rows: Iterable[Row]) -> list[Row]:
    """The rows with their variance between repetitions: pooled over all rows with the same source.

    If the variances of these rows seem to differ (`variances_differ`), each row with enough repetitions has its own.
    Rows with an obstacle enter the pool only if no other row has several repetitions.

    Args:
        rows: rows of a study, with the same test set and metric.
    """
    rows = list(rows)
    found = list(rows)
    for source in dict.fromkeys(row.source for row in rows):
        members = [place for place, row in enumerate(rows) if row.source == source]
        usable = [i for i in members if not rows[i].obstacle and rows[i].scores.count > 1]
        together = variance_between(rows[i].scores.values for i in usable or members)
        between = Variance(0.0, math.inf) if source == FIXED else together
        apart = source != FIXED and variances_differ([rows[i].scores.values for i in usable])
        for i in members:
            own = apart and i in usable and rows[i].scores.count >= OWN_VARIANCE
            one = variance_between([rows[i].scores.values]) if own else between
            found[i] = replace(rows[i], between=one, pool=(source, 1 + i if own else 0))
    return found


def variance_between(rows: Iterable[Floats]) -> Variance:
    """Variance between the repetitions of a row, pooled over rows; NaN if each has a single one."""
    values = list(rows)
    df = sum(len(one) - 1 for one in values)
    squares = sum(float(np.square(one - one.mean()).sum()) for one in values)
    return Variance(squares / df if df else math.nan, df)


def equal_by_chance(rows: Sequence[Floats]) -> float:
    """p value of Hartley's test: rows of equal variance have a ratio of largest to smallest as large as these rows.

    Args:
        rows: repetitions of each row, at least two.
    """
    variances = np.array([one.var(ddof=1) for one in rows])
    largest, smallest = _drawn_variances(tuple(len(one) - 1 for one in rows))
    return float((largest * variances.min() >= variances.max() * smallest).mean())


@lru_cache(maxsize=64)
def _drawn_variances(df: tuple[int, ...]) -> tuple[Floats, Floats]:
    """The largest and the smallest of estimates of one variance with these degrees of freedom, drawn 20,000 times."""
    drawn = np.random.default_rng(0).chisquare(df, (20_000, len(df))) / df
    return drawn.max(1), drawn.min(1)


def variances_differ(rows: Sequence[Floats]) -> bool:
    """True if rows have no common variance between repetitions, by Hartley's test of those with enough repetitions."""
    several = [one for one in rows if len(one) >= OWN_VARIANCE]
    return len(several) > 1 and equal_by_chance(several) < POOLING


def convergence_obstacle(histories: Sequence[pd.DataFrame]) -> str:
    """The reason that trainings do not count as converged; empty if all do.

    Methods without labels are not judged: their pseudo-labels change in each epoch.

    Args:
        histories: history.csv of each training, as written, with accuracy in [0, 1].
    """
    judged = [one for one in histories if "accuracy" in one and "clusters" not in one]
    found = [reason for history in judged if (reason := _unconverged(history["accuracy"].dropna()))]
    return f"{len(found)} of {len(histories)} trainings have not converged ({found[0]})" if found else ""


def _unconverged(accuracy: "pd.Series[float]") -> str:
    """The reason that a training with these accuracies by epoch has not converged; empty: it has."""
    values = accuracy.to_numpy(float)
    epochs = len(values)
    if epochs < 2:
        return "fewer than two epochs"
    final = float(values[-math.ceil(0.05 * epochs) :].mean())
    if final < ACCURACY:
        return f"training accuracy {final:.2f}, below {ACCURACY:g}"
    quarter = values[-max(2, math.ceil(epochs / 4)) :]
    first, second = np.triu_indices(len(quarter), 1)
    slopes = (quarter[second] - quarter[first]) / (second - first)  # Theil and Sen
    rise = float(np.median(slopes)) * (len(quarter) - 1)
    return f"training accuracy still rises, by {rise:.2f} in the last quarter" if rise > RISE else ""


def origins_of(records: pd.DataFrame) -> dict[str, frozenset[str]]:
    """Devices and versions of finished runs, from their records."""
    devices = np.where(records["device"] == "cpu", records["cpu"], records["device"])
    return {
        "devices": frozenset(map(str, devices)),
        "code versions": frozenset(map(str, records["code"])),
        "torch versions": frozenset(map(str, records["torch"])),
    }


# --- Effects -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """Estimated difference of two rows in percentage points, with its variance by source."""

    mean: float
    trainings: tuple[Variance, ...]
    """between repetitions, one per pool; empty if a row has a single repetition"""
    identities: Variance
    """over test identities"""
    overlap: float
    """part of both: comes from identities on which repetitions differ"""
    obstacle: str = ""
    """reason that the effect is not tested; empty: it is tested"""
    remarks: tuple[str, ...] = ()
    """different devices or versions"""

    @property
    def scope(self) -> str:
        """The population that the interval generalizes to."""
        return "new trainings and test identities" if self.trainings else "this training only"

    @property
    def variance(self) -> float:
        """Variance of the mean: trainings + identities - overlap, but not less than either of the first two."""
        trainings = sum(one.value for one in self.trainings)
        return max(trainings + self.identities.value - self.overlap, trainings, self.identities.value)

    @property
    def has_interval(self) -> bool:
        """False if a row is excluded from the pool, so that the variance between its trainings is not known."""
        return not (self.trainings and self.obstacle)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval; meaningful only if `has_interval`."""
        half = self._half_width(LEVEL)
        return self.mean - half, self.mean + half

    def above(self, bound: float = 0.0) -> float:
        """One-sided p value: small if the difference is larger than the bound. NaN if there is an obstacle."""
        return self._one_sided(self.mean - bound)

    def below(self, bound: float = 0.0) -> float:
        """One-sided p value: small if the difference is smaller than the bound. NaN if there is an obstacle."""
        return self._one_sided(bound - self.mean)

    @property
    def p(self) -> float:
        """Two-sided p value of no difference; below 0.05 where the interval excludes 0. NaN if there is an obstacle."""
        return min(1.0, 2 * min(self.above(), self.below())) if not self.obstacle else math.nan

    def place_of(self, value: float) -> Literal["below", "inside", "above"]:
        """Where a value, such as the paper's difference, is relative to the interval."""
        low, high = self.interval
        return "below" if value < low else "above" if value > high else "inside"

    def _half_width(self, level: float) -> float:
        """Half the width of the interval at confidence 1 - level (Banerjee, Sankhya 22, 1960).

        Every variance has the quantile of its own degrees of freedom, so a small variance that few seeds estimate
        counts with their wide quantile.
        """
        trainings = sum(_squared_half_width(one, level) for one in self.trainings)
        identities = _squared_half_width(self.identities, level)
        rest = replace(self.identities, value=max(self.identities.value - self.overlap, 0.0))
        return math.sqrt(max(trainings + _squared_half_width(rest, level), identities))

    def _one_sided(self, distance: float) -> float:
        """p value of a distance on the right side of a bound: half the level whose interval ends at the bound."""
        if self.obstacle:
            return math.nan
        if distance == 0:
            return 0.5
        low, high = math.log(SMALLEST), 0.0  # of the level
        for _ in range(40):
            middle = (low + high) / 2
            if self._half_width(math.exp(middle)) > abs(distance):
                low = middle
            else:
                high = middle
        p = math.exp(high) / 2
        return p if distance > 0 else 1 - p


def _squared_half_width(one: Variance, level: float) -> float:
    """Student's two-sided quantile, squared, times the variance."""
    return float(special.stdtrit(one.df, level / 2)) ** 2 * one.value if one.value else 0.0


def compare(a: Row, b: Row) -> Effect:
    """The difference a minus b. Both rows come from one call of `pooled`.

    Raises:
        ValueError: the rows have different test sets.
    """
    return contrast([(1.0, a), (-1.0, b)])


def contrast(terms: Sequence[tuple[float, Row]]) -> Effect:
    """A weighted sum of rows, such as a difference of two differences. The weights add up to 0.

    Raises:
        ValueError: the rows have different test sets.
    """
    all_scores = [(weight, row.scores) for weight, row in terms]
    first = all_scores[0][1]
    for _, scores in all_scores:
        _check_same_test_set(first.test_set, scores.test_set)
    number, weights = len(first.clusters), first.weights
    bessel = number / (number - 1)
    df = float(np.square(weights).sum() ** 2 / np.power(weights, 4).sum()) - 1
    replicates = np.sum([weight * scores.replicates.mean(1) for weight, scores in all_scores], axis=0)
    trainings: tuple[Variance, ...] = ()
    overlap = 0.0
    varying = [(weight, row.scores) for weight, row in terms if row.source != FIXED]
    if all(scores.count > 1 for _, scores in varying):
        trainings = _training_variances(terms)
        overlap = bessel * sum(weight**2 * _deviation_variance(scores) for weight, scores in varying)
    return Effect(
        sum(weight * scores.mean for weight, scores in all_scores),
        trainings,
        Variance(bessel * float(replicates.var(ddof=1)), df),
        overlap,
        "; ".join(
            dict.fromkeys(
                filter(None, (row.obstacle or few_repetitions(row.source, row.scores.count) for _, row in terms))
            )
        ),
        tuple(mixed([row.origins for _, row in terms])),
    )


def reproduction(here: Floats, there: Floats, between: Variance, remarks: tuple[str, ...] = ()) -> Effect:
    """The difference of two sets of trainings of one experiment, ranked on the same test images: here minus there.

    Both use the same test images, so only trainings make the difference uncertain. One training here is enough if the
    pool has several.

    Args:
        here: (n,) the metric of each repetition, in per cent.
        there: (m,) the same elsewhere, as in the reference results.
        between: variance between repetitions, from `variance_between` over rows of both.
        remarks: different devices or versions.
    """
    nothing = Variance(0.0, math.inf)
    mean = float(here.mean() - there.mean())
    if not between.df:
        return Effect(mean, (), nothing, 0.0, "no variance between trainings: single seeds", remarks)
    trainings = Variance(between.value * (1 / len(here) + 1 / len(there)), between.df)
    return Effect(mean, (trainings,), nothing, 0.0, "", remarks)


def _training_variances(terms: Sequence[tuple[float, Row]]) -> tuple[Variance, ...]:
    """Variance of a weighted sum between repetitions, one for each pool."""
    found: dict[tuple[str, int], Variance] = {}
    for weight, row in terms:
        value = weight**2 * row.between.value / row.scores.count
        before = found.get(row.pool)
        found[row.pool] = Variance(value + (before.value if before else 0.0), row.between.df)
    return tuple(found.values())


def average(rows: Sequence[Row]) -> Row:
    """The mean of rows that have the same seeds. A repetition is the mean over the rows with one seed.

    Rows of one seed may share initial weights and batches. The mean therefore has its own variance between repetitions,
    which contains the covariance.

    Args:
        rows: rows of the same test set, with their repetitions in the same order.

    Raises:
        ValueError: the rows have different numbers of repetitions or different test sets.
    """
    scores = [row.scores for row in rows]
    for one in scores:
        _check_same_test_set(scores[0].test_set, one.test_set)
    if len({one.count for one in scores}) > 1:
        raise ValueError("rows with different numbers of repetitions have no mean by repetition")
    sums = np.mean([one.sums for one in scores], axis=0)
    origins = {kind: frozenset().union(*(row.origins.get(kind, ()) for row in rows)) for kind in rows[0].origins}
    mean = Row(
        Scores(scores[0].clusters, scores[0].weights, sums),
        f"mean of {len(rows)} rows",
        "; ".join(dict.fromkeys(filter(None, (row.obstacle for row in rows)))),
        origins,
    )
    return pooled([mean])[0]


def _deviation_variance(scores: Scores) -> float:
    """Variance of the mean over repetitions that comes from clusters on which they differ."""
    replicates = scores.replicates - scores.replicates.mean(1, keepdims=True)
    return float(replicates.var(0, ddof=1).sum()) / (scores.count * (scores.count - 1))


def few_repetitions(source: str, count: int) -> str:
    """The reason that a row with this many repetitions cannot be compared; empty: it can be."""
    if source == FIXED:
        return ""
    if source == "genotype" and count < GENOTYPES:
        return f"{count} random architectures, at least {GENOTYPES} are needed"
    if source == "search" and count == 1:
        return "single search"
    return "single seed" if count == 1 else ""


def mixed(origins: Sequence[Mapping[str, frozenset[str]]]) -> Iterable[str]:
    """Devices and versions in which runs differ, from the origins of several rows."""
    for kind in origins[0]:
        names = frozenset[str]().union(*(one.get(kind, frozenset()) for one in origins))
        if len(names) > 1:
            yield f"different {kind}: {', '.join(sorted(names))}"


# --- Decisions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of a statement: the difference lies between two bounds, in percentage points.

    By default it is larger than 0. `low=-0.5` alone: it costs at most 0.5. `low=-inf, high=1`: it gains less than 1.
    `low=-1, high=1`: both rows are equivalent within 1.
    """

    effect: Effect | None
    """None: a row was not run"""
    low: float = 0.0
    high: float = math.inf

    @property
    def support(self) -> list[float]:
        """p value of each bound, small if the difference is on its inner side."""
        return [p for p, _ in self._tests()]

    @property
    def refutation(self) -> list[float]:
        """p value of each bound, small if the difference is on its outer side."""
        return [p for _, p in self._tests()]

    def _tests(self) -> list[tuple[float, float]]:
        if self.effect is None or self.effect.obstacle:
            return []
        lower = (self.effect.above(self.low), self.effect.below(self.low))
        upper = (self.effect.below(self.high), self.effect.above(self.high))
        return [lower] * math.isfinite(self.low) + [upper] * math.isfinite(self.high)


@dataclass(frozen=True)
class Decision:
    """Decision on a statement."""

    status: Status
    holds: float
    """p value that it holds, adjusted over the ledger; NaN if a part is not tested"""
    fails: float
    """p value that it fails, adjusted over the ledger; NaN if no part is tested"""
    reason: str = ""
    """reason that it is not testable"""


def decide(ledger: Sequence[Sequence[Part]], statements: int | None = None) -> list[Decision]:
    """Decisions on statements, each of which is a conjunction of parts.

    The p value that a statement holds is that of its least supported part (intersection-union). The p value that it
    fails is that of its most refuted part, with Bonferroni's correction for its tests. Holm's method runs over both p
    values of all statements.

    Args:
        ledger: the parts of each statement.
        statements: number of statements to correct for, with those that have no test yet; None: those with tests.
    """
    holds, fails = [], []
    for parts in ledger:
        support = [p for part in parts for p in part.support]
        refutation = [p for part in parts for p in part.refutation]
        complete = all(part.support for part in parts) and parts
        holds.append(max(support) if complete else math.nan)
        fails.append(min(1.0, len(refutation) * min(refutation)) if refutation else math.nan)
    adjusted = holm([*holds, *fails], None if statements is None else 2 * statements)
    pairs = zip(adjusted[: len(holds)], adjusted[len(holds) :], strict=True)
    return [_decision(parts, *pair) for parts, pair in zip(ledger, pairs, strict=True)]


def _decision(parts: Sequence[Part], holds: float, fails: float) -> Decision:
    """The decision from adjusted p values. Else "not run" has priority over "not testable"."""
    effects = [part.effect for part in parts]
    reason = "; ".join(dict.fromkeys(effect.obstacle for effect in effects if effect and effect.obstacle))
    status: Status = "undecided"
    if fails < LEVEL:
        status = "fails"
    elif holds < LEVEL:
        status = "holds"
    elif None in effects or not effects:
        status = "not run"
    elif reason:
        status = "not testable"
    return Decision(status, holds, fails, reason)


def holm(p: Sequence[float], tests: int | None = None) -> list[float]:
    """Holm's adjusted p values, in the given order; NaN stays NaN.

    Args:
        p: p values.
        tests: number of tests; None: as many as p values that are not NaN.
    """
    known = [i for i, value in enumerate(p) if not math.isnan(value)]
    tests = len(known) if tests is None else tests
    adjusted = list(p)
    highest = 0.0
    for place, i in enumerate(sorted(known, key=lambda i: p[i])):
        highest = max(highest, min(1.0, (tests - place) * p[i]))
        adjusted[i] = highest
    return adjusted


# --- Power ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Design:
    """A planned comparison; standard deviations in percentage points."""

    seed_deviation: float
    """standard deviation between seeds of one row on one test set"""
    identities: int
    """test identities"""
    identity_deviation: float = 15.0
    """standard deviation over identities of the difference of two rows"""
    rows: int = 4
    """rows whose seed variance is pooled"""
    statements: int = 1
    """statements in the ledger"""

    def power(self, points: float, seeds: int) -> float:
        """Power in [0, 1] to find a true difference of this size, if it is the first that Holm's method tests.

        The mean over 5,000 draws of the estimated seed variances; that of identities counts as known.
        """
        df, level = seeds - 1, LEVEL / self.statements
        mean = Variance(self.seed_deviation**2 / seeds, df)  # of one row
        identities = Variance(self.identity_deviation**2 / self.identities, self.identities - 1)
        estimates = np.random.default_rng(0).chisquare(df, (5000, self.rows)) / df  # relative to the true variance
        half = 2 * estimates.mean(1) * _squared_half_width(replace(mean, df=self.rows * df), level)
        if seeds >= OWN_VARIANCE:
            ratios = estimates.max(1) / estimates.min(1)
            apart = ratios > np.quantile(ratios, 1 - POOLING)
            half = np.where(apart, estimates[:, :2].sum(1) * _squared_half_width(mean, level), half)
        half = np.sqrt(half + _squared_half_width(identities, level))
        error = math.sqrt(2 * mean.value + identities.value)
        return float(special.ndtr((points - half) / error).mean())

    def seeds(self, points: float, power: float = 0.8, most: int = 50) -> int | None:
        """Smallest number of seeds that finds a difference with this power; None: more than `most`."""
        return next((n for n in range(2, most + 1) if self.power(points, n) >= power), None)


def power_table(statements: int = 40) -> str:
    """Seeds for 80 % power by test identities, difference and seed deviation, as Markdown: alone / in a ledger."""
    deviations = (1.0, 2.0, 4.0)
    rows = []
    for identities in (400, 500, 750, 3060):
        for points in (1, 2, 5, 9):
            cells = []
            for deviation in deviations:
                needed = [Design(deviation, identities, statements=n).seeds(points) for n in (1, statements)]
                cells.append(" / ".join("-" if n is None else str(n) for n in needed))
            rows.append([str(identities), str(points), *cells])
    return "\n".join(markdown_table(["identities", "points", *(f"SD {one:g}" for one in deviations)], rows)) + "\n"


if __name__ == "__main__":
    print(power_table(), end="")
