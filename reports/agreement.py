"""Agreement of the results measured here with the reference results of the same table cells (docs/statistics.md)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ablations.engine.study import group_label
from reports.comparisons import Comparisons, repetitions_of, source_of
from reports.notes import obstacles, orders, remarks_of, spread
from reports.results import Found
from reports.statistics import (
    OWN_VARIANCE,
    Effect,
    Floats,
    decide,
    mixed,
    origins_of,
    reproduction,
    variance_between,
    variances_differ,
)
from reports.statistics import Part as Bounds
from reports.tables import Column, Row, Table, TableCell

Key = tuple[str, object, Column]
"""group, factors and column of a table cell"""
Pool = tuple[str, bool]
"""what differs between repetitions, and whether the trainings have converged"""


@dataclass(frozen=True)
class Pair:
    """A table cell that was measured here and in the reference."""

    row: Row
    column: Column
    here: TableCell
    there: TableCell

    @property
    def same_data(self) -> bool:
        """True if both were trained and ranked on the same images."""
        runs = pd.concat([self.here.runs, self.there.runs])
        return len(runs[["source_fingerprint", "target_fingerprint"]].drop_duplicates()) == 1

    @property
    def trained(self) -> bool:
        """True if its networks were trained; others have no variance."""
        return bool((self.here.runs["steps"] > 0).all())


def with_reference(table: Table, compared: Comparisons, theirs: Table, theirs_compared: Comparisons) -> Table:
    """The table with the reference results in its cells, the agreement of both, and notes about them.

    Args:
        table: table of the results measured here.
        compared: its comparisons.
        theirs: the table of the reference results.
        theirs_compared: its comparisons.
    """
    found = {(row.group, row.factors): row.cells for row in theirs.rows}
    rows, pairs = [], []
    for row in table.rows:
        cells = {}
        for column, cell in row.cells.items():
            other = found.get((row.group, row.factors), {}).get(column)
            cells[column] = replace(cell, reference=other) if other is not None and other.done else cell
            if other is not None and other.done and cell.done and (pair := Pair(row, column, cell, other)).trained:
                pairs.append(pair)
        rows.append(replace(row, cells=cells))
    if not any(cell.reference for row in rows for cell in row.cells.values()):
        return table
    effects = agreements(pairs, compared, theirs_compared)
    decisions = decide([[Bounds(effect)] for effect in effects])
    words: dict[Key, str] = {}
    for pair, effect, decision in zip(pairs, effects, decisions, strict=True):
        if not effect.obstacle:
            differs = decision.status in ("holds", "fails")
            words[pair.row.group, pair.row.factors, pair.column] = "differs" if differs else "agrees"
    rows = [_with_words(row, words) for row in rows]
    name = table.study.name if table.study else ""
    lines = [*theirs.source_notes, f"python -m reports table {name} --reference shows them alone."]
    lines += [f"Reference: {line}" for line in _about(theirs, theirs_compared)]
    lines += agreement_lines(table, pairs, effects, words)
    return replace(table, rows=rows, notes=[*table.notes, *lines], usual=theirs.usual)


def _about(theirs: Table, compared: Comparisons) -> list[str]:
    return [*obstacles(theirs, compared), *orders(theirs, compared)]


def _with_words(row: Row, words: dict[Key, str]) -> Row:
    cells = {c: replace(cell, agreement=words.get((row.group, row.factors, c), "")) for c, cell in row.cells.items()}
    return replace(row, cells=cells)


def agreements(pairs: Sequence[Pair], here: Comparisons, there: Comparisons) -> list[Effect]:
    """The difference of each pair by the metric that decides its column, here minus there, in percentage points.

    Cells of a column share a variance if the same thing differs between their repetitions, and if all have converged
    or none has. If the variances of these cells seem to differ (`variances_differ`), a pair has its own.
    """
    pools: dict[tuple[Column, Pool], dict[tuple[str, ...], Floats]] = {}
    for pair in pairs:
        for cell, compared in ((pair.there, there), (_own(pair), here)):
            if cell.done:
                values = pools.setdefault((pair.column, _pool(cell, compared)), {})
                values[cell.run_ids] = _values(cell, pair.column.headline)  # rows of a sweep can have the same runs
    effects = []
    for pair in pairs:
        metric, ours = pair.column.headline, _own(pair)
        pool = pools.get((pair.column, _pool(pair.there, there)), {}).values()
        ours = ours if ours.done else pair.here
        remarks = tuple(mixed([origins_of(ours.runs), origins_of(pair.there.runs)]))
        both = _values(ours, metric), _values(pair.there, metric)
        apart = len(both[1]) >= OWN_VARIANCE and variances_differ(list(pool))
        effect = reproduction(*both, variance_between(both if apart else pool), remarks)
        effects.append(replace(effect, obstacle=_obstacle(pair) or effect.obstacle))
    return effects


def _obstacle(pair: Pair) -> str:
    """The reason that a pair is not judged, other than a lack of seeds; empty: it is judged."""
    if not pair.same_data:
        return "different versions of the data"
    return "" if _own(pair).done else "the runs here are those of the reference"


def _own(pair: Pair) -> TableCell:
    """The cell without runs that the reference has too: the same ids, finished at the same time."""
    theirs = {(str(run["run_id"]).rpartition("/")[2], run["finished"]) for _, run in pair.there.runs.iterrows()}
    new = [(run["run_id"], run["finished"]) not in theirs for _, run in pair.here.runs.iterrows()]
    return replace(pair.here, runs=pair.here.runs[new])


def _pool(cell: TableCell, compared: Comparisons) -> Pool:
    return source_of(cell.runs), not compared.convergence(cell.runs)


def _values(cell: TableCell, metric: str) -> Floats:
    """(n,) the metric of each repetition, in per cent."""
    by_repetition = cell.runs.groupby(repetitions_of(cell.runs), sort=False)[metric].mean()
    return np.asarray(by_repetition, dtype=float)


def agreement_lines(
    table: Table, pairs: Sequence[Pair], effects: Sequence[Effect], words: dict[Key, str]
) -> Iterator[str]:
    """The differences to the reference in words: one line for each group and column, then what was not judged."""
    judged = [(pair, effect) for pair, effect in zip(pairs, effects, strict=True) if not effect.obstacle]
    if judged:
        agree = sum(word == "agrees" for word in words.values())
        yield (
            f"Agreement with the reference: {agree} of {len(judged)} table cells agree, {len(judged) - agree} differ. "
            "Brackets: 95 % interval of the difference, here minus reference, over trainings; "
            "verdicts by Holm's method over the table (docs/statistics.md)"
            f"{remarks_of([effect for _, effect in judged])}."
        )
    groups: dict[tuple[str, Column], list[str]] = {}
    for pair, effect in judged:
        word = words[pair.row.group, pair.row.factors, pair.column]
        text = f"{table.label(pair.row.factors)} {spread(effect)} {word}"
        groups.setdefault((pair.row.group, pair.column), []).append(text)
    for (group, column), texts in groups.items():
        yield f"{group_label(group)}, {column.label} {column.headline} minus reference: {'; '.join(texts)}."
    reasons: dict[str, int] = {}
    for effect in effects:
        if effect.obstacle:
            reasons[effect.obstacle] = reasons.get(effect.obstacle, 0) + 1
    if reasons:
        counts = "; ".join(f"{n} table cells, {why}" for why, n in reasons.items())
        yield f"Not judged against the reference: {counts}."


def source_lines(found: Found, about: str) -> list[str]:
    """The machines that have reference results.

    Args:
        found: the results.
        about: machine, person and date in words.
    """
    others = f" Also measured on {', '.join(found.others)}; choose with --machine NAME." if found.others else ""
    return [f"Reference results of {about}; {found.resolution.repetitions}.{others}"]
