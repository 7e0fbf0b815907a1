"""Which of the paper's orderings hold: cases small enough to count by hand."""

from itertools import permutations

import pytest

from reports.tables import Place, Row, orderings

COLUMNS = {"MS": ("R1", "mAP")}
NAN = float("nan")


def row(
    label: str, ours: float | None, theirs: float | None, std: float = NAN, seeds: int = 1, group: str = "g"
) -> Row:
    """A network with this mAP here and in the paper; its R1 says the contrary, and must not be looked at."""
    values = {} if ours is None else {"R1": (100 - ours, 0.0), "mAP": (ours, std)}
    paper = {} if theirs is None else {"R1": theirs, "mAP": theirs}
    return Row(group, label, {"MS": Place(values, seeds if values else 0, seeds, paper, "ran")}, None, None)


def test_all_pairs_hold() -> None:
    (line,) = orderings([row("A", 30, 60), row("B", 20, 50), row("C", 10, 40)], COLUMNS)
    assert line == (
        "Order by mAP, g, MS: A > B > C (the paper's order; 3 of 3 pairs as in the paper; "
        "one seed, so no spread is known)."
    )


def test_no_pair_holds() -> None:
    (line,) = orderings([row("A", 10, 60), row("B", 20, 50), row("C", 30, 40)], COLUMNS)
    assert line.startswith("Order by mAP, g, MS: C > B > A (in the paper A > B > C; 0 of 3 pairs as in the paper")


def test_pairs_are_counted_whatever_the_order_of_the_rows() -> None:
    # Here A > C > B > D, there A > B > C > D: of six pairs only B and C have changed places.
    rows = [row("A", 40, 40), row("B", 20, 30), row("C", 30, 20), row("D", 10, 10)]
    for order in permutations(rows):
        (line,) = orderings(order, COLUMNS)
        assert line.startswith("Order by mAP, g, MS: A > C > B > D (in the paper A > B > C > D; 5 of 6 pairs")


@pytest.mark.parametrize(("b", "c", "order"), [(20, 10, "A > B > C"), (10, 20, "A > C > B")])
def test_equals_in_the_paper_may_stand_in_any_order(b: float, c: float, order: str) -> None:
    (line,) = orderings([row("A", 30, 60), row("B", b, 50), row("C", c, 50)], COLUMNS)
    assert line.startswith(f"Order by mAP, g, MS: {order} (the paper's order; 2 of 2 pairs as in the paper")


@pytest.mark.parametrize(("gap", "undecided"), [(3.9, 1), (4.1, 0)])
def test_a_difference_within_two_standard_errors_is_undecided(gap: float, undecided: int) -> None:
    # Two seeds of standard deviation 2 each: the error of the difference is (4/2 + 4/2)^½ = 2.
    (line,) = orderings([row("A", 20 + gap, 60, std=2, seeds=2), row("B", 20, 50, std=2, seeds=2)], COLUMNS)
    assert line.endswith(
        f"(the paper's order; {1 - undecided} of 1 pairs as in the paper, {undecided} within two standard errors)."
    )


def test_a_clear_reversal_is_neither_held_nor_undecided() -> None:
    (line,) = orderings([row("A", 10, 60, std=0.1, seeds=3), row("B", 20, 50, std=0.1, seeds=3)], COLUMNS)
    assert line.endswith("(in the paper A > B; 0 of 1 pairs as in the paper, 0 within two standard errors).")


def test_one_seed_among_several_says_so() -> None:
    (line,) = orderings([row("A", 30, 60, std=1, seeds=2), row("B", 20, 50)], COLUMNS)
    assert "one seed, so no spread is known" in line
    assert "standard errors" not in line


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("A", 30, 60)],
        [row("A", 30, 60), row("B", None, 50)],  # not run
        [row("A", 30, 60), row("B", 20, None)],  # the paper has nothing
        [row("A", 30, 60), row("B", 20, 50, group="h")],  # of another group
    ],
)
def test_fewer_than_two_networks_have_no_order(rows: list[Row]) -> None:
    assert orderings(rows, COLUMNS) == []


def test_every_group_and_column_has_its_line() -> None:
    def wide(label: str, group: str, values: tuple[float, float], theirs: tuple[float, float]) -> Row:
        places = {
            column: Place({first: (ours, NAN), second: (0.0, NAN)}, 1, 1, {first: paper, second: 0.0}, "ran")
            for (column, (first, second)), ours, paper in zip(columns.items(), values, theirs, strict=True)
        }
        return Row(group, label, places, None, None)

    columns = {"VID": ("R1", "R5"), "VID800": ("R1", "R5")}  # without mAP the first metric counts
    lines = orderings(
        [
            wide("A", "g", (2, 1), (2, 2)),
            wide("B", "g", (1, 2), (1, 1)),
            wide("A", "h", (1, 2), (2, 2)),
            wide("B", "h", (2, 1), (1, 1)),
        ],
        columns,
    )
    assert [line.split(" (")[0] for line in lines] == [
        "Order by R1, g, VID: A > B",
        "Order by R1, g, VID800: B > A",
        "Order by R1, h, VID: B > A",
        "Order by R1, h, VID800: A > B",
    ]
