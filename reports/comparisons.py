"""Effects between rows of a table, from the files of their runs. The statistics are those of `reports.statistics`."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Protocol

import pandas as pd

from msinet.errors import UserError
from reports import statistics
from reports.genotypes import agreement
from reports.statistics import (
    FIXED,
    Effect,
    Part,
    Scores,
    average,
    compare,
    convergence_obstacle,
    decide,
    few_repetitions,
    origins_of,
    pooled,
)
from reports.tables import Column, Row


class RunFiles(Protocol):
    """Reads the files of finished runs."""

    def read(self, run_id: str, name: str) -> pd.DataFrame:
        """A CSV file of a run as written."""


class Comparisons:
    """Effects between the rows of a table. The rows of a column share one variance between trainings.

    Args:
        files: files of the runs.
        rows: rows of the table.
    """

    def __init__(self, files: RunFiles, rows: Sequence[Row]) -> None:
        self._files, self._rows = files, rows
        self._pools: dict[tuple[Column, str], dict[object, statistics.Row]] = {}
        self._effects: dict[tuple[object, ...], Effect] = {}
        self._obstacles: dict[tuple[str, ...], str] = {}
        self._families: dict[Column, bool] = {}

    def effect(self, a: Row, b: Row, column: Column, metric: str) -> Effect:
        """The difference a minus b in a column, in percentage points. Both rows are of the table and have runs."""
        key = (a.group, a.factors, b.group, b.factors, column, metric)
        if key not in self._effects:  # orders, marks and differences need the same ones
            self._effects[key] = compare(self.row(a, column, metric), self.row(b, column, metric))
        return self._effects[key]

    def higher(self, rows: Sequence[Row], column: Column, metric: str) -> set[tuple[int, int]]:
        """Pairs (i, j) of places in `rows` where row i is significantly higher than row j.

        Holm's method corrects for all pairs of the rows.
        """
        pairs = list(combinations(range(len(rows)), 2))
        decisions = decide([[Part(self.effect(rows[i], rows[j], column, metric))] for i, j in pairs])
        found = {(i, j) for (i, j), one in zip(pairs, decisions, strict=True) if one.status == "holds"}
        return found | {(j, i) for (i, j), one in zip(pairs, decisions, strict=True) if one.status == "fails"}

    def row(self, row: Row, column: Column, metric: str) -> statistics.Row:
        """A row in a column as the statistics see it."""
        if (column, metric) not in self._pools:
            cells = {(one.group, one.factors): one.cells[column] for one in self._rows if column in one.cells}
            known = {key: cell for key, cell in cells.items() if cell.done and metric in cell.runs}
            distinct = {cell.run_ids: cell.runs for cell in known.values()}  # rows of a sweep can have the same runs
            rows = pooled([self._row(runs, column, metric) for runs in distinct.values()])
            by_runs = dict(zip(distinct, rows, strict=True))
            self._pools[column, metric] = {key: by_runs[cell.run_ids] for key, cell in known.items()}
        return self._pools[column, metric][row.group, row.factors]

    def mean_row(self, rows: Sequence[Row], column: Column, metric: str) -> statistics.Row:
        """The mean of several rows by seed, over the seeds that all of them have (at least one)."""
        cells = [row.cells[column] for row in rows]
        shared = shared_seeds(rows, column)
        return average([self._row(cell.runs[cell.runs["seed"].isin(shared)], column, metric) for cell in cells])

    def obstacle(self, row: Row, column: Column) -> str:
        """The reason that a row cannot be compared in a column; empty: it can be. Reads no scores."""
        runs = row.cells[column].runs
        return self._obstacle(runs) or few_repetitions(source_of(runs), len(set(repetitions_of(runs))))

    def _obstacle(self, runs: pd.DataFrame) -> str:
        return "; ".join(filter(None, [self.convergence(runs), search_obstacle(runs)]))

    def convergence(self, runs: pd.DataFrame) -> str:
        """The reason that trainings have not converged; empty: they have, or nothing was trained."""
        trained = tuple(run_id for run_id, steps in zip(runs["run_id"], runs["steps"], strict=True) if steps > 0)
        if trained not in self._obstacles:
            histories = [self._files.read(run_id, "history.csv") for run_id in trained]
            self._obstacles[trained] = convergence_obstacle(histories)
        return self._obstacles[trained]

    def _row(self, runs: pd.DataFrame, column: Column, metric: str) -> statistics.Row:
        runs = runs.sort_values(["seed", "draw"])
        queries = [self._queries(run_id) for run_id in runs["run_id"]]
        if not self._has_families(column):
            queries = [one.drop(columns="family", errors="ignore") for one in queries]
        try:
            scores = Scores.from_queries(queries, metric, repetitions_of(runs))
        except ValueError as error:
            raise UserError(f"runs {', '.join(runs['run_id'])} cannot be compared: {error}") from error
        return statistics.Row(scores, source_of(runs), self._obstacle(runs), origins_of(runs))

    def _queries(self, run_id: str) -> pd.DataFrame:
        return self._files.read(run_id, "queries.csv")

    def _has_families(self, column: Column) -> bool:
        """True if all runs of a column know the families of their queries; runs of earlier versions do not."""
        if column not in self._families:
            cells = [row.cells[column] for row in self._rows if column in row.cells]
            runs = [run_id for cell in cells if cell.done for run_id in cell.runs["run_id"]]
            self._families[column] = all("family" in self._queries(run_id) for run_id in runs)
        return self._families[column]


def shared_seeds(rows: Iterable[Row], column: Column) -> set[int]:
    """Seeds that all of the rows have in a column."""
    return set.intersection(*(set(row.cells[column].runs["seed"]) for row in rows))


def search_obstacle(runs: pd.DataFrame) -> str:
    """The reason that searched genotypes cannot be compared; empty: their searches agree, or there is only one.

    Args:
        runs: the runs of a row.
    """
    searches = runs.drop_duplicates("search_id")
    if source_of(runs) != "search" or len(searches) < 2:
        return ""
    found = agreement(list(searches["option.genotype"]))
    return "" if found.above_chance else f"the searches do not agree more than by chance: {found}"


def source_of(runs: pd.DataFrame) -> str:
    """The difference between the repetitions of a row: search, genotype, training, initial weights, or none (`FIXED`).

    Initial weights that are ranked without training vary otherwise than trainings, and not at all if downloaded.
    """
    if "parameters" in runs and (runs["parameters"] == 0).all():
        return FIXED
    if (runs["steps"] == 0).all():
        return "initial weights"
    if (runs["search_id"] != "").any():
        return "search"
    several = "option.genotype" in runs and runs["option.genotype"].nunique() > 1
    return "genotype" if several else "training"


def repetitions_of(runs: pd.DataFrame) -> list[str]:
    """The repetition that each run belongs to: its genotype in a row of random architectures, else itself."""
    return list(runs["option.genotype" if source_of(runs) == "genotype" else "run_id"].astype(str))
