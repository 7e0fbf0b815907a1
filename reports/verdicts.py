"""Verdicts on the paper's statements.

The statistics are those of `reports.statistics`. Every statement is a conjunction of differences between bounds, and
one correction runs over the whole ledger. Each verdict says whether the paper's own numbers agree.
"""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import get_args

import numpy as np
import pandas as pd

from ablations.engine.request import Request
from ablations.studies import STUDIES
from msinet.errors import DataError
from msinet.models.genotype import OPERATIONS, SEARCHED
from msinet.models.registry import split_name
from msinet.training.recipes import resolve
from reports import statistics
from reports.claims import CLAIMS, Claim, Comparison, Group, Measurement, Selection
from reports.comparisons import shared_seeds
from reports.layout import comparisons_of, plain_table
from reports.markdown import markdown_table
from reports.notes import found_by_search, spread
from reports.paper import of_cell, of_group, of_row, paper_numbers
from reports.results import Factors, NoResults, Results, has
from reports.sizes import full_size_cost
from reports.statistics import Effect, Part, Status, Variance, contrast, decide, few_repetitions, p_value
from reports.tables import Column, Row, Table

#: Groups of table rows for each group of a statement; the first choice that has all rows is used.
CHOICES: dict[Group, tuple[tuple[str, ...], ...]] = {
    "scratch": (("scratch", "searched"),),
    "pretrained": (("pretrained",),),
    "either": (("pretrained",), ("pretext",), ("scratch",)),
    "any": (("scratch", "pretrained", "pretext"),),
}
#: Remarks on networks of the groups "either" and "any" that start from other weights than the paper's.
OTHER_START = {
    "pretext": "pre-trained on the rendered pretext set; the paper's networks are pre-trained on ImageNet",
    "scratch": "trained from scratch; the paper's networks are pre-trained",
}
#: Groups of initial weights in labels.
INITIAL: dict[Group, str] = {"scratch": "from scratch", "pretrained": "pre-trained"}
#: Ratio of times below which a network is faster, and above whose inverse it is slower; between two days ratios of
#: light networks changed by up to 15 % (docs/cost.md).
FASTER = 0.9
#: Largest number of obstacles in the evidence of a claim.
REASONS = 3
#: Patch sizes of the paper's transformers, in pixels; 0: no transformer.
PATCHES = (0, 16)


@dataclass(frozen=True)
class Measured:
    """A difference with an interval over trainings, in percentage points, for plots."""

    label: str
    """the rows, the column and the metric"""
    mean: float
    interval: tuple[float, float]
    """95 % over new trainings and test identities"""
    paper: float | None
    """the paper's difference"""


@dataclass(frozen=True)
class Outcome:
    """Result of a comparison, of searches or of a measurement."""

    text: str
    """the effect in words and numbers, or the command of a missing run"""
    agrees: bool | None = None
    """true if the mean difference agrees with the statement, significant or not; None: there is none"""
    measured: Measured | None = None
    """the difference, if it has an interval over trainings and may be tested"""


@dataclass(frozen=True)
class Verdict:
    """A claim and its outcomes."""

    claim: Claim
    status: Status
    outcomes: tuple[Outcome, ...]
    by_paper: str
    """agreement of the paper's own numbers with the statement: yes, no, or - without numbers"""
    p: float = math.nan
    """adjusted p value of the decision, or the smaller one if it is undecided; NaN if nothing is tested"""
    reasons: tuple[str, ...] = ()
    """obstacles to its comparisons"""

    @property
    def leans(self) -> bool | None:
        """True if all mean differences of an undecided claim agree with it; None: decided, or there are none."""
        means = [outcome.agrees for outcome in self.outcomes if outcome.agrees is not None]
        return all(means) if self.status == "undecided" and means else None


def judge(results: Results, latencies: pd.DataFrame | None = None, claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """The verdict on every claim.

    Args:
        results: results of a request; missing runs count as not run.
        latencies: table of `python -m bench latency`.
        claims: the claims to judge.
    """
    ledger = [_parts(claim, results) for claim in claims]
    decisions = decide(ledger, sum(claim.measurement is None for claim in claims))
    verdicts = []
    for claim, parts, decision in zip(claims, ledger, decisions, strict=True):
        paper = [yes for yes in _by_paper(claim) if yes is not None]
        by_paper = "-" if not paper else "yes" if all(paper) else "no"
        if claim.measurement is not None:
            status, text = measure(claim.measurement, pd.DataFrame() if latencies is None else latencies)
            verdicts.append(Verdict(claim, status, (Outcome(text),), by_paper))
            continue
        p = {"holds": decision.holds, "fails": decision.fails}.get(decision.status, _least(decision))
        outcomes = tuple(_outcomes(claim, parts, results.request))
        verdicts.append(Verdict(claim, decision.status, outcomes, by_paper, p, tuple(_obstacles(parts))))
    return verdicts


def _least(decision: statistics.Decision) -> float:
    return min((p for p in (decision.holds, decision.fails) if not math.isnan(p)), default=math.nan)


def _parts(claim: Claim, results: Results) -> list[Part]:
    """The differences that a claim states."""
    if claim.measurement is not None or claim.not_run:
        return []
    if claim.selection is not None:
        return [Part(selection_effect(claim.selection, results))]
    return [Part(effect_of(c, results), c.low, c.high) for c in claim.comparisons]


def _outcomes(claim: Claim, parts: Sequence[Part], request: Request) -> Iterator[Outcome]:
    if claim.not_run:
        yield Outcome(claim.not_run)
        for c in claim.comparisons:
            if (theirs := paper_difference(c)) is not None:
                yield Outcome(f"{label(c)}: the paper's {theirs:+.1f}")
    elif claim.selection is not None:
        yield _searched(claim.selection, parts[0].effect, request)
    else:
        for c, part in zip(claim.comparisons, parts, strict=True):
            yield compared(c, part.effect, request)
    if reasons := _obstacles(parts):
        more = f", and {len(reasons) - REASONS} more" if len(reasons) > REASONS else ""
        yield Outcome(f"not testable: {'; '.join(reasons[:REASONS])}{more}")
    yield from (
        Outcome(remark) for remark in dict.fromkeys(r for part in parts if part.effect for r in part.effect.remarks)
    )


def _obstacles(parts: Sequence[Part]) -> list[str]:
    """The obstacles to the effects of a claim, each once."""
    found = [part.effect.obstacle for part in parts if part.effect and part.effect.obstacle]
    return list(dict.fromkeys(reason for joined in found for reason in joined.split("; ")))


def _by_paper(claim: Claim) -> list[bool | None]:
    if claim.selection is not None:
        return [_deeper(SEARCHED, claim.selection.operation) > 0]
    return [supported_by_paper(c) for c in claim.comparisons]


# --- Comparisons ---------------------------------------------------------------------------------


def effect_of(c: Comparison, results: Results) -> Effect | None:
    """The effect of a comparison; None if a row was not run, or rows to average have no seed in common.

    A network that is narrower than the paper's, or has other patches, is an obstacle, and so is pre-training on the
    rendered pretext set where the statement is about ImageNet.
    """
    request = results.request
    if any(group == "pretrained" for group, _ in c.rows) and request.rendered and request.pretrained is None:
        return untestable("needs ImageNet weights (--pretrained DIR), which the rendered pretext set does not replace")
    try:
        table = plain_table(results, c.study)
    except (DataError, NoResults):
        return None
    column = Column(c.train, c.test)
    found = _find(table, c, column)
    effects = comparisons_of(results, c.study)
    terms = []
    for weight, rows in found:
        if not shared_seeds(rows, column):
            return None
        mean = effects.mean_row(rows, column, c.metric) if len(rows) > 1 else effects.row(rows[0], column, c.metric)
        terms.append((weight, mean))
    if not terms:
        return None
    effect = contrast(terms)
    every = [row for _, rows in found for row in rows]
    others = dict.fromkeys(why for row in every if (why := other_network(row, column)))
    remarks = effect.remarks
    if any(group in ("either", "any") for group, _ in c.rows) and (remark := OTHER_START.get(every[0].group)):
        remarks += (remark,)
    return replace(effect, obstacle="; ".join([*others, *filter(None, [effect.obstacle])]), remarks=remarks)


def untestable(reason: str) -> Effect:
    """An effect without a value, because of an obstacle."""
    return Effect(math.nan, (), Variance(math.nan, math.inf), 0.0, reason)


def _find(table: Table, c: Comparison, column: Column) -> list[tuple[float, list[Row]]]:
    """The weight and the finished rows of each term; empty unless one choice of initial weights has all rows."""
    for groups in _groups(c):
        terms = [(weight, [_row(table, groups[group], f, column) for f in rows]) for weight, group, rows in c.terms]
        complete = [(weight, [row for row in rows if row is not None]) for weight, rows in terms]
        if [len(rows) for _, rows in complete] == [len(rows) for _, rows in terms]:
            return complete
    return []


def _groups(c: Comparison) -> Iterator[dict[Group, tuple[str, ...]]]:
    """Choices of groups of the table for the groups of a comparison, the preferred one first."""
    names = list(dict.fromkeys(group for group, _ in c.rows))
    for choice in product(*(CHOICES[name] for name in names)):
        yield dict(zip(names, choice, strict=True))


def _row(table: Table, groups: Sequence[str], factors: Factors, column: Column) -> Row | None:
    """The finished row with these coordinates; of several, the one closest to the paper's width."""
    rows = [
        row
        for row in table.rows
        if row.group in groups and has(row.factors, factors) and column in row.cells and row.cells[column].done
    ]
    return min(rows, key=lambda row: abs(float(dict(row.factors).get("width", 1)) - 1), default=None)


def other_network(row: Row, column: Column) -> str:
    """How the networks of a row differ from the paper's: width, or patches of transformers; empty: they do not."""
    models = [model for model in row.cells[column].runs["model"].unique() if split_name(model)[1] != 1]
    patch = dict(row.factors).get("patch", 0)
    if models:
        return f"{', '.join(models)} is not of the paper's width"
    return "" if patch in PATCHES else f"patches of {patch} pixels, not the paper's 16"


def compared(c: Comparison, effect: Effect | None, request: Request) -> Outcome:
    """A comparison in words."""
    if effect is None:
        return Outcome(f"{label(c)}: {command_for(c, request)}")
    if math.isnan(effect.mean):
        return Outcome(label(c))
    words = [f"{label(c)}: {spread(effect)}"]
    if not effect.trainings:
        words.append(effect.scope)
    testable = bool(effect.trainings) and not effect.obstacle
    if (theirs := paper_difference(c)) is not None:
        place = f" is {effect.place_of(theirs)} the interval" if effect.has_interval else ""
        words.append(f"the paper's {theirs:+.1f}{place}")
    measured = Measured(label(c), effect.mean, effect.interval, theirs) if testable else None
    return Outcome(", ".join(words), c.low < effect.mean < c.high, measured)


def label(c: Comparison) -> str:
    """A comparison in words. Initial weights are named where the claims about a study differ in them."""
    table = Table("", (), (), STUDIES.get(c.study))
    names = [f"mean of {len(rows)} rows" if len(rows) > 1 else table.label(rows[0]) for _, _, rows in c.terms]
    column = f"{Column(c.train, c.test).label} {c.metric}"
    if c.subtracted:
        return f"gain by pre-training, {names[0]} - {names[2]}, {column}"
    groups = [INITIAL.get(group, "") if _several_groups(c.study) else "" for _, group, _ in c.terms]
    if len(set(groups)) == 1:
        return ", ".join(filter(None, [f"{names[0]} - {names[1]}", groups[0], column]))
    return f"{names[0]}, {groups[0]} - {names[1]}, {groups[1]}, {column}"


@cache
def _several_groups(study: str) -> bool:
    """True if the claims about a study are about several groups of initial weights."""
    return len({group for claim in CLAIMS for c in claim.comparisons if c.study == study for group, _ in c.rows}) > 1


def command_for(c: Comparison, request: Request) -> str:
    """The command that runs both rows. Rows that short tables leave out need further options."""
    pretrained = any(group in ("pretrained", "either") for group, _ in c.rows)
    if not request.complete and not _asked_for(c, request):
        request = replace(request, whole=True)
    words = ["python", "-m", "ablations", "run", c.study, *request.as_args()]
    if pretrained and not request.rendered and request.pretrained is None:
        words += ["--pretrained", "DIR"]
    return shlex.join(words)


def _asked_for(c: Comparison, request: Request) -> bool:
    """True if the cells of a request have both rows of a comparison."""
    cells = STUDIES[c.study].cells(request, request.default_datasets())
    there = [cell for cell in cells if (cell.train, cell.test) == (c.train, c.test)]
    return any(
        all(any(cell.group in groups[group] and has(cell.factors, row) for cell in there) for group, row in c.rows)
        for groups in _groups(c)
    )


def paper_difference(c: Comparison) -> float | None:
    """The paper's own difference in percentage points; None: it does not give the numbers."""
    numbers = paper_numbers(c.study)
    total = 0.0
    for weight, group, rows in c.terms:
        stated = of_group(numbers, "pretrained" if group == "either" else group)
        values = [of_cell(of_row(stated, factors), c.train, c.test)[0].get(c.metric) for factors in rows]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        total += weight * sum(known) / len(known)
    return round(total, 1)


def supported_by_paper(c: Comparison) -> bool | None:
    """True if the paper's own numbers agree with a comparison; None: it gives none."""
    difference = paper_difference(c)
    return None if difference is None else c.low < difference < c.high


# --- Searches ------------------------------------------------------------------------------------


def selection_effect(s: Selection, results: Results) -> Effect | None:
    """`effect_of_searches` of the finished searches of a row. None: there is none."""
    try:
        study = results.resolution(s.study).study
        searches = [one for one in found_by_search(results, study) if has(one.factors, s.row)]
    except (DataError, NoResults):
        return None
    if not searches:
        return None
    found = effect_of_searches([str(one.record["genotype"]) for one in searches], s.operation)
    narrow = sorted({str(one.record["model"]) for one in searches if split_name(str(one.record["model"]))[1] != 1})
    return replace(found, obstacle=f"{', '.join(narrow)} is not of the paper's width") if narrow else found


def effect_of_searches(genotypes: Sequence[str], operation: str) -> Effect:
    """How much more often genotypes have an operation in the last half of the cells, in percentage points.

    A repetition is a search; the interval is over new searches. The variance between searches is at least that of
    arbitrary genotypes, because a few searches can have equal values by chance.
    """
    values = np.array([_deeper(genotype, operation) for genotype in genotypes])
    count = len(values)
    variances: tuple[Variance, ...] = ()
    if count > 1:
        larger = max(_chance_variance(len(genotypes[0])), float(values.var(ddof=1)))
        variances = (Variance(larger / count, count - 1),)
    identities = Variance(0.0, math.inf)  # no image is ranked
    return Effect(float(values.mean()), variances, identities, 0.0, few_repetitions("search", count))


def _deeper(genotype: str, operation: str) -> float:
    """Share of an operation in the last half of a genotype minus that in the first half, in percentage points."""
    half = len(genotype) // 2  # interactions of the first half of the cells
    return 100 * (genotype[half:].count(operation) - genotype[:half].count(operation)) / half


def _chance_variance(interactions: int) -> float:
    """Variance of `_deeper` if all operations are equally likely in each interaction: two binomial counts."""
    half, p = interactions // 2, 1 / len(OPERATIONS)
    return 100**2 * 2 * half * p * (1 - p) / half**2


def _searched(s: Selection, effect: Effect | None, request: Request) -> Outcome:
    if effect is None:
        return Outcome(shlex.join(["python", "-m", "ablations", "run", s.study, *request.as_args()]))
    interval = spread(effect) if effect.trainings else f"{effect.mean:+.1f}"  # single: no interval over identities
    text = f"share of {s.operation} in the last half of the cells minus share in the first half: {interval}"
    return Outcome(text, effect.mean > 0)


# --- Measurements --------------------------------------------------------------------------------


def measure(m: Measurement, latencies: pd.DataFrame) -> tuple[Status, str]:
    """Status of a measurement and its values, or the command that measures."""
    if m.kind == "time":
        return _faster(m.networks[0], m.networks[1], latencies)
    costs = [full_size_cost(text) for text in m.networks]
    if m.kind == "fewer":
        return _fewer(m, [cost.parameters_at_inference / 1e6 for cost in costs])
    if m.kind == "training":
        recipes = [resolve("paper", "market1501", name, recipe_of="authors").recipe for name in m.networks]
        work = [(cost.macs, recipe.schedule.epochs) for cost, recipe in zip(costs, recipes, strict=True)]
        ours, theirs = (macs * epochs for macs, epochs in work)
        text = " against ".join(f"{macs:,} multiply-adds for {epochs} epochs" for macs, epochs in work)
        return "holds" if ours < theirs else "fails", text
    if m.kind == "macs":
        same = len({cost.macs for cost in costs}) == 1
        return "holds" if same else "fails", f"{' and '.join(f'{c.macs:,}' for c in costs)} multiply-adds"
    ways = {
        "without classifiers": [cost.parameters_without_classifier / 1e6 for cost in costs],
        "at inference": [cost.parameters_at_inference / 1e6 for cost in costs],
    }
    texts = [
        f"{way} {', '.join(f'{name} {millions:.2f}' for name, millions in zip(m.networks, found, strict=True))}"
        for way, found in ways.items()
    ]
    right = any([round(one, 1) for one in found] == list(m.millions) for found in ways.values())
    return "holds" if right else "fails", "; ".join(texts)


def _fewer(m: Measurement, millions: Sequence[float]) -> tuple[Status, str]:
    """Compares the parameters of the first network with those of the others and with the cited ones."""
    ours, *others = millions
    compared = dict(zip(m.networks[1:], others, strict=True)) | {f"{name} (cited)": size for name, size in m.cited}
    larger = sum(size > 2 * ours for size in compared.values())
    text = ", ".join(f"{name}: {size:.1f}" for name, size in {m.networks[0]: ours, **compared}.items())
    status: Status = "holds" if 2 * larger > len(compared) else "fails"
    return status, f"{larger} of {len(compared)} methods have more than twice as many; million parameters: {text}"


def _faster(network: str, other: str, latencies: pd.DataFrame) -> tuple[Status, str]:
    """Compares median latencies at every device and batch size with both networks, as trained and in fp32."""
    if len(latencies):
        frame = latencies[(latencies["form"] == "eager") & (latencies["precision"] == "fp32")]
        frame = frame if "device" in frame else frame.assign(device="")
        times = frame.pivot_table(index=["device", "batch"], columns="model", values="p50_ms", sort=False)
        if {network, other} <= set(times) and len(ratios := (times[network] / times[other]).dropna()):
            where = [f"batch {batch}" + (f" on {device}" if device else "") for device, batch in ratios.index]
            text = ", ".join(f"{ratio:.2f} at {place}" for ratio, place in zip(ratios, where, strict=True))
            slower = (ratios > 1 / FASTER).all()
            status: Status = "holds" if (ratios < FASTER).all() else "fails" if slower else "undecided"
            return status, f"time relative to {other}: {text}"
    return "not run", f"python -m bench latency --models {network!r} {other!r} --forms eager"


# --- Formats -------------------------------------------------------------------------------------


def as_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row per claim."""
    return pd.DataFrame(
        [
            {
                "key": v.claim.key,
                "claim": v.claim.statement,
                "source": v.claim.source,
                "verdict": v.status,
                "p": v.p,
                "paper's own numbers": v.by_paper,
                "evidence": "; ".join(outcome.text for outcome in v.outcomes),
            }
            for v in verdicts
        ]
    )


def verdict_counts(verdicts: Iterable[Verdict], *, costs: bool) -> dict[Status, int]:
    """Number of statements per status: those about costs, or those about accuracy and genotypes."""
    found = Counter(verdict.status for verdict in verdicts if verdict.claim.about_costs == costs)
    return {status: found[status] for status in get_args(Status)}


def status_text(v: Verdict) -> str:
    """The status with the p value of a decision."""
    return f"{v.status} ({p_value(v.p)})" if v.status in ("holds", "fails") and not math.isnan(v.p) else v.status


def as_markdown(verdicts: Sequence[Verdict], title: str) -> str:
    """A table for people, with the evidence below each statement."""
    rows = []
    for v in verdicts:
        evidence = "<br>".join(outcome.text for outcome in v.outcomes)
        rows.append([f"{v.claim.statement}<br><sub>{evidence}</sub>", v.claim.source, status_text(v), v.by_paper])
    table = markdown_table(["claim", "source", "verdict", "paper's own numbers"], rows)
    return "\n".join([f"**{title}**", "", *table]) + "\n"
