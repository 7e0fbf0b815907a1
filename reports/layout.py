"""Tables in the paper's layout, from a study's tidy frame and the paper's numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import pandas as pd

from ablations.engine.reference import about
from ablations.engine.study import column_order
from ablations.studies import find_study
from msinet.errors import DataError
from reports.agreement import source_lines, with_reference
from reports.comparisons import Comparisons
from reports.notes import notes
from reports.paper import of_cell, of_group, of_row, paper_numbers
from reports.results import Factors, ReferenceResults, Results, run_command
from reports.tables import BEST, NOISE, SECOND, Column, Row, Table, TableCell


@cache
def build_table(results: Results, name: str) -> Table:
    """A study's table next to the paper's numbers and the reference results; cached for the same results.

    Args:
        results: results of a request.
        name: name of the study.

    Raises:
        UserError: unknown study, no finished runs, or results on several versions of a data set.
    """
    table = plain_table(results, name)
    compared = comparisons_of(results, name)
    table = replace(table, rows=marked(table.rows, compared))
    table = replace(table, notes=notes(results, table, compared))
    reference = results.reference
    if reference is None or reference.found(name) is None:
        return table
    return with_reference(table, compared, build_table(reference, name), comparisons_of(reference, name))


def shown_table(results: Results, name: str) -> tuple[Results, Table]:
    """A study's table, and the results behind it: those of the store, or the reference if nothing was measured here.

    Raises:
        UserError: see `build_table`; or there are no reference results.
    """
    reference, why = results.reference, "no run is finished"
    try:
        table = build_table(results, name)
        if table.done or reference is None or reference.found(name) is None:
            return results, table
    except DataError as error:  # no data on this machine
        if reference is None or reference.found(name) is None:
            raise
        why = str(error)
    table = build_table(reference, name)
    note = f"Nothing is measured here: {why}. To measure: {run_command(name, results.request)}"
    return reference, replace(table, notes=[note, *table.notes])


@cache
def plain_table(results: Results, name: str) -> Table:
    """A study's table without marks and notes.

    Raises:
        UserError: as `build_table`.
    """
    study, frame = find_study(name), results.frame(name)
    numbers = paper_numbers(name)
    found = results.found(name) if isinstance(results, ReferenceResults) else None
    if found:  # keep the groups and columns that the reference has
        finished = results.finished(name)
        tasks = set(zip(finished["train"], finished["test"], strict=True))
        shown = [task in tasks for task in zip(frame["train"], frame["test"], strict=True)]
        frame = frame[frame["group"].isin(finished["group"]) & pd.Series(shown, frame.index)]
    columns = columns_of(frame)
    whole = not results.request.models
    rows = [row for group in frame["group"].unique() for row in _rows(frame, group, columns, numbers, whole)]
    finished = results.finished(name)
    rendered = len(finished) > 0 and finished["target_layout"].str.contains("rendered").any()
    title = study.title + (", trained by their authors' recipes" if results.request.recipe_of == "authors" else "")
    title += " (rendered world, not the paper's data)" if rendered else ""
    if found is None:
        return Table(title, columns, rows, study)
    source = source_lines(found, about(found.store.root))
    return Table(f"{title}, reference results", columns, rows, study, (), source, found.resolution.usual)


@cache
def comparisons_of(results: Results, name: str) -> Comparisons:
    """Effects between the rows of a study's table.

    Raises:
        UserError: as `build_table`.
    """
    return Comparisons(results, plain_table(results, name).rows)


def columns_of(frame: pd.DataFrame) -> tuple[Column, ...]:
    """Columns within a data set first, then those across data sets, both in the order of the data sets' cards."""
    tasks = set(zip(frame["train"], frame["test"], strict=True))
    return tuple(Column(*task) for task in sorted(tasks, key=lambda task: column_order(*task)))


def _rows(frame: pd.DataFrame, group: str, columns: Sequence[Column], numbers: pd.DataFrame, whole: bool) -> list[Row]:
    """Rows of a group: those of the study and, in a whole table, those that only the paper has.

    If the paper does not state initial weights, all rows follow its order, because most are its own; a row without
    numbers of the paper follows the row before it in the study.
    """
    part, stated = frame[frame["group"] == group], of_group(numbers, group)
    ours = list(dict.fromkeys(part["factors"]))
    published = list(dict.fromkeys(stated["factors"]))
    shown: dict[Factors, pd.DataFrame] = {factors: of_row(stated, factors) for factors in ours}
    known = {theirs for found in shown.values() for theirs in found["factors"]}
    if whole:
        shown |= {theirs: of_row(stated, theirs) for theirs in published if theirs not in known}
    if (numbers["group"] == "").any():
        place, last = {}, -1
        for factors, found in shown.items():
            last = published.index(found["factors"].iloc[0]) if len(found) else last
            place[factors] = last
        shown = {factors: shown[factors] for factors in sorted(shown, key=place.__getitem__)}
    return [Row(group, factors, _cells(part, factors, columns, found)) for factors, found in shown.items()]


def _cells(
    part: pd.DataFrame, factors: Factors, columns: Sequence[Column], numbers: pd.DataFrame
) -> dict[Column, TableCell]:
    """The table cells of a row."""
    mine = part[part["factors"].map(lambda own: own == factors).astype(bool)]
    cells = {}
    for column in columns:
        wanted = mine[(mine["train"] == column.train) & (mine["test"] == column.test)]
        runs = wanted[wanted["state"] == "done"]
        cells[column] = TableCell(runs, len(wanted), *of_cell(numbers, column.train, column.test))
    return cells


# --- Marks ---------------------------------------------------------------------------------------


def marked(rows: Sequence[Row], comparisons: Comparisons | None = None) -> list[Row]:
    """The rows with the best and second best of each group, column and metric marked, measured and published.

    Values that are equal to the digit shown share a mark. The best needs at least two rows, the second best at
    least three. Measured values are marked only if every row can be compared. NOISE marks values
    that cannot be distinguished from the best: p values adjusted by Holm's method over all pairs of the group.
    """
    result = list(rows)
    for group in dict.fromkeys(row.group for row in rows):
        members = [i for i, row in enumerate(rows) if row.group == group]
        for column in rows[members[0]].cells:
            cells = _mark_cells({i: rows[i] for i in members}, column, comparisons)
            for i, cell in cells.items():
                result[i] = replace(result[i], cells={**result[i].cells, column: cell})
    return result


def _mark_cells(rows: Mapping[int, Row], column: Column, comparisons: Comparisons | None) -> dict[int, TableCell]:
    """The table cells of one group and column, by place of the row, with their marks."""
    cells = {i: row.cells[column] for i, row in rows.items()}
    marks: dict[int, dict[str, str]] = {i: {} for i in cells}
    paper: dict[int, dict[str, str]] = {i: {} for i in cells}
    measured = {i: row for i, row in rows.items() if cells[i].done}
    if comparisons and any(comparisons.obstacle(row, column) for row in measured.values()):
        comparisons = None
    for metric in column.metrics:
        if comparisons and len(measured) > 1:
            found = _podium({i: cells[i].mean(metric) for i in measured})
            noise = _like_the_best(measured, column, metric, comparisons)
            for i in measured:
                marks[i][metric] = found.get(i, "") + (NOISE if i in noise else "")
        for i, mark in _podium({i: cell.paper[metric] for i, cell in cells.items() if metric in cell.paper}).items():
            paper[i][metric] = mark
    return {i: replace(cell, marks=marks[i], paper_marks=paper[i]) for i, cell in cells.items()}


def _podium(values: Mapping[int, float]) -> dict[int, str]:
    """BEST and SECOND by row."""
    shown = {i: round(value, 1) for i, value in values.items()}
    levels = sorted(set(shown.values()), reverse=True)
    if len(shown) < 2 or len(levels) < 2:
        return {}
    marks = {levels[0]: BEST} | ({levels[1]: SECOND} if len(shown) > 2 else {})
    return {i: marks[value] for i, value in shown.items() if value in marks}


def _like_the_best(rows: Mapping[int, Row], column: Column, metric: str, comparisons: Comparisons) -> list[int]:
    """Rows that cannot be distinguished from the best row."""
    places = sorted(rows, key=lambda i: -rows[i].cells[column].mean(metric))
    higher = comparisons.higher([rows[i] for i in places], column, metric)
    return [i for place, i in enumerate(places) if place and (0, place) not in higher]
