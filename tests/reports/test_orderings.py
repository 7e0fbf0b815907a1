"""Which of the paper's orders hold: cases small enough to count by hand."""

from itertools import permutations

import pandas as pd
import pytest

from reports.notes import obstacles, orders
from reports.tables import Column, Row, Table, TableCell

MSMT, VID, VID800 = (Column(name, name) for name in ("msmt17", "vehicleid", "vehicleid_800"))


@pytest.fixture
def cell(tools):
    """Makes a cell with this mAP here and in the paper, over seeds with this deviation; its R1 says the contrary."""

    def make(ours: float | None, theirs: float | None, std: float = 0.1, seeds: int = 2) -> TableCell:
        half = std * ((seeds - 1) / seeds) ** 0.5  # half above, half below the mean: their sample deviation is `std`
        values = (
            [] if ours is None else [ours + (half * (1 if i % 2 else -1) if seeds > 1 else 0) for i in range(seeds)]
        )
        runs = [tools.origin | {"run_id": f"{v}-{i}", "seed": i, "mAP": v, "R1": 100 - v} for i, v in enumerate(values)]
        return TableCell(pd.DataFrame(runs), seeds, {} if theirs is None else {"R1": 100 - theirs, "mAP": theirs})

    return make


def lines(tools, unconverged: tuple[str, ...] = (), **cells: TableCell) -> list[str]:
    table = tools.hand_table({label: {MSMT: one} for label, one in cells.items()})
    return orders(table, tools.hand_comparisons(table, unconverged))


def test_all_pairs_hold(tools, cell) -> None:
    (line,) = lines(tools, A=cell(30, 60), B=cell(20, 50), C=cell(10, 40))
    assert line == (
        "Order by mAP, from scratch, MS: A > B > C; in the paper A > B > C. "
        "Of 3 pairs, 3 as in the paper, 0 reversed, 0 undecided."
    )


def test_no_pair_holds(tools, cell) -> None:
    (line,) = lines(tools, A=cell(10, 60), B=cell(20, 50), C=cell(30, 40))
    assert ": C > B > A; in the paper A > B > C. Of 3 pairs, 0 as in the paper, 3 reversed, 0 undecided" in line


def test_pairs_are_counted_whatever_the_order_of_the_rows(tools, cell) -> None:
    # Here A > C > B > D, there A > B > C > D: of six pairs only B and C have changed places.
    rows = {"A": cell(40, 40), "B": cell(20, 30), "C": cell(30, 20), "D": cell(10, 10)}
    for order in permutations(rows):
        (line,) = lines(tools, **{label: rows[label] for label in order})
        assert ": A > C > B > D; in the paper A > B > C > D. Of 6 pairs, 5 as in the paper, 1 reversed" in line


@pytest.mark.parametrize(("b", "c", "order"), [(20, 10, "A > B > C"), (10, 20, "A > C > B")])
def test_ties_of_the_paper_may_have_any_order(tools, cell, b: float, c: float, order: str) -> None:
    (line,) = lines(tools, A=cell(30, 60), B=cell(b, 50), C=cell(c, 50))
    assert f": {order}; in the paper {order}. Of 2 pairs, 2 as in the paper" in line


@pytest.mark.parametrize(("gap", "decided"), [(8.5, 0), (8.7, 1)])
def test_a_difference_inside_its_interval_is_undecided(tools, cell, gap: float, decided: int) -> None:
    # Two seeds of standard deviation 2 each: error (4/2 + 4/2)^½ = 2 on 2 degrees of freedom, t = 4.303.
    (line,) = lines(tools, A=cell(20 + gap, 60, 2, 2), B=cell(20, 50, 2, 2))
    assert line.endswith(f"Of 1 pairs, {decided} as in the paper, 0 reversed, {1 - decided} undecided.")
    assert ("A > B; in" in line, "A ≈ B; in" in line) == (bool(decided), not decided)


def test_a_clear_reversal_is_neither_held_nor_undecided(tools, cell) -> None:
    (line,) = lines(tools, A=cell(10, 60), B=cell(20, 50))
    assert line.endswith("B > A; in the paper A > B. Of 1 pairs, 0 as in the paper, 1 reversed, 0 undecided.")


def test_single_seeds_and_unconverged_trainings_have_no_order_and_one_reason(tools, cell) -> None:
    one, other = cell(30, 60, seeds=1), cell(20, 50, seeds=1)
    assert lines(tools, A=one, B=other) == []
    assert lines(tools, A=cell(30, 60), B=other) == []
    table = tools.hand_table({"A": {MSMT: one, VID: one}, "B": {MSMT: other, VID: other}})
    assert obstacles(table, tools.hand_comparisons(table)) == [
        "Not compared: single seed. Such rows have no order, marks or decisions."
    ]
    a, b = cell(30, 60), cell(20, 50)
    slow = tuple(a.run_ids[:1])
    assert lines(tools, slow, A=a, B=b) == []
    table = tools.hand_table({"A": {MSMT: a, VID: a}, "B": {MSMT: b, VID: b}})
    assert obstacles(table, tools.hand_comparisons(table, slow)) == [
        "Not testable at this length: trainings of 2 of 4 table cells have not converged, "
        "for example A, MS: 1 of 2 trainings have not converged (training accuracy 0.50, below 0.9)."
    ]


def test_an_order_names_different_devices(tools, cell) -> None:
    other = cell(20, 50)
    (line,) = lines(tools, A=cell(30, 60), B=TableCell(other.runs.assign(device="H100"), 2, other.paper))
    assert line.endswith("0 undecided (different devices: Abacus 3000, H100).")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"A": (30, 60)},
        {"A": (30, 60), "B": (None, 50)},  # not run
        {"A": (30, 60), "B": (20, None)},  # the paper has nothing
    ],
)
def test_fewer_than_two_networks_have_no_order(tools, cell, values: dict[str, tuple[float | None, ...]]) -> None:
    assert lines(tools, **{label: cell(*one) for label, one in values.items()}) == []


def test_every_group_and_column_has_its_line(tools) -> None:
    def wide(label: str, group: str, values: tuple[float, float], theirs: tuple[float, float]) -> Row:
        cells = {}
        for column, ours, paper in zip((VID, VID800), values, theirs, strict=True):
            seeds = [
                tools.origin | {"run_id": f"{ours}-{seed}", "seed": seed, "R1": ours, "R5": 0.0} for seed in (0, 1)
            ]
            cells[column] = TableCell(pd.DataFrame(seeds), 2, {"R1": paper, "R5": 0.0})  # without mAP the first counts
        return Row(group, (("row", label),), cells)

    rows = [
        wide("A", "scratch", (95, 5), (2, 2)),
        wide("B", "scratch", (5, 95), (1, 1)),
        wide("A", "pretrained", (5, 95), (2, 2)),
        wide("B", "pretrained", (95, 5), (1, 1)),
    ]
    table = Table("T", (VID, VID800), rows, tools.hand_table({}).study)
    assert [line.split(";")[0] for line in orders(table, tools.hand_comparisons(table))] == [
        "Order by R1, from scratch, VID: A > B",
        "Order by R1, from scratch, VID800: B > A",
        "Order by R1, pre-trained, VID: B > A",
        "Order by R1, pre-trained, VID800: A > B",
    ]
