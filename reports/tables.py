"""Tables as data: rows by group and factors, columns by training and test set, and the numbers in their cells.

`reports.layout` makes them from a study's results; `reports.formats` prints them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ablations.engine.study import Study, column_label
from msinet.data.layouts import card_of
from msinet.models.registry import CARDS
from reports.results import WITHIN_FAMILY, Factors

#: Marks of a value within its column and group in plain text.
BEST, SECOND, NOISE = "*", "+", "≈"
#: Factors that the paper's rows leave out, and their values in the paper.
FULL_SIZE: Factors = (("width", 1.0), ("patch", 0))


@dataclass(frozen=True, order=True)
class Column:
    """A training set and a test set."""

    train: str
    test: str

    @property
    def label(self) -> str:
        """The paper's abbreviation: M, or MS>M across data sets."""
        return column_label(self.train, self.test)

    @property
    def metrics(self) -> tuple[str, str]:
        """The two metrics that the test set is judged by."""
        return card_of(self.test).metrics

    @property
    def headline(self) -> str:
        """The metric that decides comparisons: mAP, or R1 where the paper gives no mAP."""
        return "mAP" if "mAP" in self.metrics else self.metrics[0]


@dataclass(frozen=True)
class TableCell:
    """Measured and published values at a row and a column, in per cent."""

    runs: pd.DataFrame
    """rows of the tidy frame, one per finished run"""
    planned: int
    """runs that the request asks for"""
    paper: Mapping[str, float] = field(default_factory=dict)
    """the paper's values by metric"""
    origin: str = ""
    """origin of the paper's values: ran or cited"""
    marks: Mapping[str, str] = field(default_factory=dict)
    """marks of the measured values by metric: some of BEST, SECOND and NOISE"""
    paper_marks: Mapping[str, str] = field(default_factory=dict)
    """marks of the paper's values: BEST or SECOND"""
    reference: "TableCell | None" = None
    """the reference results of the cell, with runs"""
    agreement: str = ""
    """agrees or differs: the measured values compared with the reference; empty: not judged"""

    @property
    def done(self) -> int:
        """Finished runs."""
        return len(self.runs)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs behind the measured values."""
        return tuple(self.runs["run_id"]) if self.done else ()

    @property
    def ranked_in_family(self) -> bool:
        """True if the runs also ranked every query among the images of its own family, as on rendered sets."""
        return self.done > 0 and all(name in self.runs and self.runs[name].notna().all() for name in WITHIN_FAMILY)

    def mean(self, metric: str) -> float:
        """Mean over the runs."""
        return float(self.runs[metric].mean())

    def std(self, metric: str) -> float:
        """Sample standard deviation over the runs; NaN for a single run."""
        return float(self.runs[metric].std())


@dataclass(frozen=True)
class Row:
    """One set of factors in one group."""

    group: str
    factors: Factors
    cells: Mapping[Column, TableCell]

    def first(self, name: str) -> Any:
        """A recorded value of the leftmost finished run, else of the reference; None without runs."""
        references = [cell.reference for cell in self.cells.values() if cell.reference is not None]
        cells = [cell for cell in (*self.cells.values(), *references) if cell.done and name in cell.runs]
        return cells[0].runs[name].iloc[0] if cells else None

    @property
    def done(self) -> bool:
        """True if any run is finished."""
        return any(cell.done for cell in self.cells.values())


@dataclass(frozen=True)
class Table:
    """A study's results."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Row]
    study: Study | None = None
    """None: a table of the paper that the suite does not run"""
    notes: Sequence[str] = ()
    source_notes: Sequence[str] = ()
    """source of the reference results; empty: the values were measured here"""
    usual: int = 0
    """most common number of seeds of a table cell of the reference results, which is not printed; 0: no reference"""

    @property
    def is_reference(self) -> bool:
        """True if the values are reference results."""
        return bool(self.source_notes)

    def label(self, factors: Factors) -> str:
        """The printed name of a row; for a method of the paper, its name."""
        values = dict(FULL_SIZE) | dict(factors)
        if self.study is None or dict(factors).keys() == {"method"}:  # a row of the paper alone
            return str(values["method"])
        return self.study.label(values)

    def baseline_of(self, factors: Factors, candidates: Iterable[Factors]) -> Factors | None:
        """The candidate that a row is compared with; None if the study has no baseline or no candidate is one."""
        base = self.study.baseline_row(dict(factors), map(dict, candidates)) if self.study else None
        return None if base is None else tuple(base.items())

    @property
    def done(self) -> int:
        """Finished runs."""
        return sum(cell.done for row in self.rows for cell in row.cells.values())

    @property
    def columns_with_families(self) -> tuple[Column, ...]:
        """Columns with runs that ranked every query among the images of its own family."""
        return tuple(c for c in self.columns if any(row.cells[c].ranked_in_family for row in self.rows))

    @property
    def planned(self) -> int:
        """Runs that the request asks for."""
        return sum(cell.planned for row in self.rows for cell in row.cells.values())


def random_weights(row: Row) -> bool:
    """True for a network that could be trained but was not."""
    return row.group == "untrained" and CARDS[str(dict(row.factors)["network"])].learns


def network_of(row: Row) -> str:
    """The card name of a row that is a trained network without alignment, or needs no training; else empty."""
    factors = dict(row.factors)
    name = str(factors.get("network", ""))
    plain = name and factors.get("alignment", "none") == "none"
    return name if plain and (row.group != "untrained" or not CARDS[name].learns) else ""


def timed_as(row: Row) -> str:
    """A row's network as `python -m bench` names it: with its width, and the module of its alignment."""
    return f"{row.first('model')} pam=True" if row.first("option.pam") == 1 else str(row.first("model"))
