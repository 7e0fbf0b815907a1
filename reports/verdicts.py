"""Verdicts on the paper's statements.

A comparison is decided over seeds by the 95 % confidence interval of the paired differences. A single seed decides
nothing, and there is no correction for the number of claims. Each verdict says whether the paper's own numbers agree.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from ablations.engine.request import Request
from ablations.studies import find_study
from msinet.errors import UserError
from reports.claims import CLAIMS, Claim, Comparison, Measurement
from reports.layout import build_table
from reports.paper import GROUPS, of_cell, of_group, of_row, paper_numbers
from reports.results import Factors, Results, has
from reports.sizes import full_size_cost
from reports.statistics import Difference, paired
from reports.tables import Column, Table, TableCell

Status = Literal["holds", "fails", "undecided", "not run"]


@dataclass(frozen=True)
class Outcome:
    """Result of a comparison or a measurement."""

    status: Status
    text: str
    """the effect in words and numbers, or what is missing"""
    agrees: bool | None = None
    """true if the mean difference agrees with the statement, significant or not; None: there is no difference"""


@dataclass(frozen=True)
class Verdict:
    """A claim and its outcomes."""

    claim: Claim
    status: Status
    outcomes: tuple[Outcome, ...]
    by_paper: str
    """agreement of the paper's own numbers with the statement: yes, no, or - without numbers"""

    @property
    def leans(self) -> bool | None:
        """True if all mean differences of an undecided claim agree with it; None: decided, or there are none."""
        means = [outcome.agrees for outcome in self.outcomes if outcome.agrees is not None]
        return all(means) if self.status == "undecided" and means else None


def judge(results: Results, latencies: pd.DataFrame | None = None, claims: Sequence[Claim] = CLAIMS) -> list[Verdict]:
    """The verdict on every claim.

    Args:
        results: of a request; missing runs count as not run.
        latencies: table of `python -m bench latency`.
        claims: to judge.
    """
    tables: dict[str, Table | UserError] = {}
    for name in dict.fromkeys(comparison.study for claim in claims for comparison in claim.comparisons):
        try:
            tables[name] = build_table(results, name)
        except UserError as error:
            tables[name] = error
    verdicts = []
    for claim in claims:
        if claim.measurement is not None:
            outcome = measure(claim.measurement, pd.DataFrame() if latencies is None else latencies)
            verdicts.append(Verdict(claim, outcome.status, (outcome,), "-"))
            continue
        outcomes = tuple(compare(c, tables[c.study], results.request) for c in claim.comparisons)
        paper = [yes for c in claim.comparisons if (yes := supported_by_paper(c)) is not None]
        by_paper = "-" if not paper else "yes" if all(paper) else "no"
        verdicts.append(Verdict(claim, together([outcome.status for outcome in outcomes]), outcomes, by_paper))
    return verdicts


def together(statuses: Sequence[Status]) -> Status:
    """A statement fails with one of its comparisons, and holds only with all of them."""
    made = [status for status in statuses if status != "not run"]
    if not made:
        return "not run"
    if "fails" in made:
        return "fails"
    return "holds" if all(status == "holds" for status in statuses) else "undecided"


# --- Comparisons ---------------------------------------------------------------------------------


def compare(c: Comparison, table: Table | UserError, request: Request) -> Outcome:
    """Outcome of a comparison in a table, or in none because of an error."""
    missing = f"{label(c)}: {command_for(c, request)}"
    if isinstance(table, UserError):
        return Outcome("not run", f"{missing} ({table})")
    cells = [_cell(table, group, factors, Column(c.train, c.test)) for group, factors in c.rows]
    if not all(cell and cell.done for cell in cells):
        return Outcome("not run", missing)
    better, worse = (cell.by_seed(c.metric) for cell in cells if cell)
    differences = (better - worse).dropna()
    if differences.empty:
        return Outcome("not run", f"{label(c)}: no seed has both")
    d = paired(differences)
    agrees = bool(abs(d.mean) <= c.within if c.within is not None else d.mean > c.at_least)
    if d.count < 2:
        return Outcome("undecided", f"{label(c)}: {d.mean:+.1f}, single seed", agrees)
    text = f"{label(c)}: {d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}], {d.count} seeds"
    return Outcome(decide(c, d), text, agrees)


def decide(c: Comparison, d: Difference) -> Status:
    """Status of a comparison by the confidence interval of its difference."""
    if c.within is not None:
        if d.low >= -c.within and d.high <= c.within:
            return "holds"
        return "fails" if d.low > c.within or d.high < -c.within else "undecided"
    if d.low > c.at_least:
        return "holds"
    point = math.isclose(d.high, d.low)
    return "fails" if d.high < c.at_least or (point and d.high <= c.at_least) else "undecided"


def _cell(table: Table, group: str, factors: Factors, column: Column) -> TableCell | None:
    """The table cell of a comparison's row; searched networks count as trained from scratch."""
    groups = {"searched": "scratch", **GROUPS}
    found = (row for row in table.rows if groups.get(row.group, row.group) == group and has(row.factors, factors))
    return next((row.cells.get(column) for row in found), None)


def label(c: Comparison) -> str:
    """A comparison in words."""
    table = Table("", (), (), find_study(c.study))
    return f"{table.label(c.better)} - {table.label(c.worse)}, {Column(c.train, c.test).label} {c.metric}"


def command_for(c: Comparison, request: Request) -> str:
    """The command that runs both rows: pre-trained groups and VehicleID may need further options."""
    pretrained = "pretrained" in (c.group, c.worse_group)
    if (pretrained or (c.train, c.test) == ("vehicleid", "vehicleid")) and not request.complete:
        request = replace(request, whole=True)
    words = ["python", "-m", "ablations", "run", c.study, *request.as_args()]
    if pretrained and not request.rendered and request.pretrained is None:
        words += ["--pretrained", "DIR"]
    return shlex.join(words)


def supported_by_paper(c: Comparison) -> bool | None:
    """True if the paper's own numbers agree with a comparison; None: it gives none."""
    numbers = paper_numbers(c.study)
    values = [
        of_cell(of_row(of_group(numbers, group), factors), c.train, c.test)[0].get(c.metric)
        for group, factors in c.rows
    ]
    if values[0] is None or values[1] is None:
        return None
    difference = round(values[0] - values[1], 1)
    return abs(difference) <= c.within if c.within is not None else difference > 0 and difference >= c.at_least


# --- Measurements --------------------------------------------------------------------------------


def measure(m: Measurement, latencies: pd.DataFrame) -> Outcome:
    """Outcome of a measurement."""
    if m.kind == "time":
        return _faster(m.networks[0], m.networks[1], latencies)
    costs = [full_size_cost(text) for text in m.networks]
    if m.kind == "macs":
        same = len({cost.macs for cost in costs}) == 1
        return Outcome("holds" if same else "fails", f"{' and '.join(f'{c.macs:,}' for c in costs)} multiply-adds")
    found = [cost.parameters_without_classifier for cost in costs]
    right = all(round(n / 1e6, 1) == millions for n, millions in zip(found, m.millions, strict=True))
    text = ", ".join(f"{name}: {n:,}" for name, n in zip(m.networks, found, strict=True))
    return Outcome("holds" if right else "fails", text)


def _faster(network: str, other: str, latencies: pd.DataFrame) -> Outcome:
    """Medians of a latency file at every batch size that it has of both networks, as trained and in fp32."""
    if len(latencies):
        frame = latencies[(latencies["form"] == "eager") & (latencies["precision"] == "fp32")]
        times = frame.pivot_table(index="batch", columns="model", values="p50_ms")
        if {network, other} <= set(times) and len(ratios := (times[network] / times[other]).dropna()):
            text = ", ".join(f"{ratio:.2f} at batch {batch}" for batch, ratio in ratios.items())
            wins = (ratios < 1).sum()
            status: Status = "holds" if wins == len(ratios) else "undecided" if wins else "fails"
            return Outcome(status, f"time relative to {other}: {text}")
    return Outcome("not run", f"python -m bench latency --models {network!r} {other!r} --forms eager")


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
                "paper's own numbers": v.by_paper,
                "evidence": "; ".join(outcome.text for outcome in v.outcomes),
            }
            for v in verdicts
        ]
    )


def as_markdown(verdicts: Sequence[Verdict], title: str) -> str:
    """A table for people, with the evidence below each statement."""
    lines = [f"**{title}**", "", "| claim | source | verdict | paper's own numbers |", "|---|---|---|---|"]
    for v in verdicts:
        evidence = "<br>".join(outcome.text for outcome in v.outcomes).replace("|", "&#124;")
        lines.append(f"| {v.claim.statement}<br><sub>{evidence}</sub> | {v.claim.source} | {v.status} | {v.by_paper} |")
    return "\n".join(lines) + "\n"
