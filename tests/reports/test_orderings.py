"""Which of the paper's orders hold: cases small enough to count by hand."""

from itertools import permutations

import pandas as pd
import pytest

from reports.notes import orders
from reports.tables import Column, Row, Table, TableCell

MSMT, VID, VID800 = (Column(name, name) for name in ("msmt17", "vehicleid", "vehicleid_800"))


def cell(ours: float | None, theirs: float | None, std: float = 0.0, seeds: int = 1) -> TableCell:
    """A cell with this mAP here and in the paper, over seeds with this deviation; its R1 says the contrary."""
    half = std * ((seeds - 1) / seeds) ** 0.5  # half above, half below the mean: their sample deviation is `std`
    values = (
        [] if ours is None else [ours + half * (1 if i % 2 else -1) for i in range(seeds)] if std else [ours] * seeds
    )
    runs = pd.DataFrame([{"run_id": str(i), "mAP": v, "R1": 100 - v} for i, v in enumerate(values)])
    return TableCell(runs, seeds, {} if theirs is None else {"R1": 100 - theirs, "mAP": theirs})


def lines(tools, **cells: TableCell) -> list[str]:
    return orders(tools.hand_table({label: {MSMT: one} for label, one in cells.items()}))


def test_all_pairs_hold(tools) -> None:
    (line,) = lines(tools, A=cell(30, 60), B=cell(20, 50), C=cell(10, 40))
    assert line == (
        "Order by mAP, from scratch, MS: A > B > C (the paper's order; 3 of 3 pairs as in the paper; "
        "single seed, no variance estimate)."
    )


def test_no_pair_holds(tools) -> None:
    (line,) = lines(tools, A=cell(10, 60), B=cell(20, 50), C=cell(30, 40))
    assert ": C > B > A (in the paper A > B > C; 0 of 3 pairs as in the paper" in line


def test_pairs_are_counted_whatever_the_order_of_the_rows(tools) -> None:
    # Here A > C > B > D, there A > B > C > D: of six pairs only B and C have changed places.
    rows = {"A": cell(40, 40), "B": cell(20, 30), "C": cell(30, 20), "D": cell(10, 10)}
    for order in permutations(rows):
        (line,) = lines(tools, **{label: rows[label] for label in order})
        assert ": A > C > B > D (in the paper A > B > C > D; 5 of 6 pairs" in line


@pytest.mark.parametrize(("b", "c", "order"), [(20, 10, "A > B > C"), (10, 20, "A > C > B")])
def test_ties_of_the_paper_may_have_any_order(tools, b: float, c: float, order: str) -> None:
    (line,) = lines(tools, A=cell(30, 60), B=cell(b, 50), C=cell(c, 50))
    assert f": {order} (the paper's order; 2 of 2 pairs as in the paper" in line


@pytest.mark.parametrize(("gap", "undecided"), [(3.9, 1), (4.1, 0)])
def test_a_difference_within_two_standard_errors_is_undecided(tools, gap: float, undecided: int) -> None:
    # Two seeds of standard deviation 2 each: the error of the difference is (4/2 + 4/2)^½ = 2.
    (line,) = lines(tools, A=cell(20 + gap, 60, 2, 2), B=cell(20, 50, 2, 2))
    counted = f"{1 - undecided} of 1 pairs as in the paper, {undecided} within two standard errors"
    assert line.endswith(f"(the paper's order; {counted}).")


def test_a_clear_reversal_is_neither_held_nor_undecided(tools) -> None:
    (line,) = lines(tools, A=cell(10, 60, 0.1, 2), B=cell(20, 50, 0.1, 2))
    assert line.endswith("(in the paper A > B; 0 of 1 pairs as in the paper, 0 within two standard errors).")


def test_one_seed_among_several_says_so(tools) -> None:
    (line,) = lines(tools, A=cell(30, 60, 1, 2), B=cell(20, 50))
    assert "single seed, no variance estimate" in line
    assert "standard errors" not in line


@pytest.mark.parametrize(
    "cells",
    [
        {},
        {"A": cell(30, 60)},
        {"A": cell(30, 60), "B": cell(None, 50)},  # not run
        {"A": cell(30, 60), "B": cell(20, None)},  # the paper has nothing
    ],
)
def test_fewer_than_two_networks_have_no_order(tools, cells: dict[str, TableCell]) -> None:
    assert lines(tools, **cells) == []


def test_every_group_and_column_has_its_line(tools) -> None:
    def wide(label: str, group: str, values: tuple[float, float], theirs: tuple[float, float]) -> Row:
        cells = {}
        for column, ours, paper in zip((VID, VID800), values, theirs, strict=True):
            runs = pd.DataFrame([{"run_id": label, "R1": ours, "R5": 0.0}])
            cells[column] = TableCell(runs, 1, {"R1": paper, "R5": 0.0})  # without mAP the first metric counts
        return Row(group, (("row", label),), cells)

    rows = [
        wide("A", "scratch", (2, 1), (2, 2)),
        wide("B", "scratch", (1, 2), (1, 1)),
        wide("A", "pretrained", (1, 2), (2, 2)),
        wide("B", "pretrained", (2, 1), (1, 1)),
    ]
    table = Table("T", (VID, VID800), rows, tools.hand_table({}).study)
    assert [line.split(" (")[0] for line in orders(table)] == [
        "Order by R1, from scratch, VID: A > B",
        "Order by R1, from scratch, VID800: B > A",
        "Order by R1, pre-trained, VID: B > A",
        "Order by R1, pre-trained, VID800: A > B",
    ]
