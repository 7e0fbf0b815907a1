"""Tables from records that were written by hand, so that every number on them is known."""

import csv
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ablations.engine.request import Request
from ablations.engine.study import group_label
from ablations.studies import find_study
from msinet.data import load_dataset
from msinet.errors import UserError
from msinet.io import file_hash
from msinet.models.genotype import GENOTYPE
from reports.__main__ import main
from reports.formats import NOT_RUN, as_frame, as_latex, as_markdown, as_text, brief, grid, write_table
from reports.layout import comparisons_of, marked, plain_table
from reports.notes import LEGEND, differences, remarks_of, settings, unequal_variances
from reports.paper import paper_numbers
from reports.results import Results, file_name
from reports.tables import Column, Table, TableCell
from reports.verdicts import untestable

MSMT, ACROSS = Column("msmt17", "msmt17"), Column("msmt17", "market1501")
PLAIN = (("alignment", "none"),)


def cell(table: Table, group: str, label: str, column: Column = MSMT) -> TableCell:
    (row,) = (row for row in table.rows if (row.group, table.label(row.factors)) == (group, label))
    return row.cells[column]


def line(table: Table, label: str, group: str = "scratch") -> str:
    """The line of a row in the text, its columns apart by two spaces or more."""
    part = as_text(table).split(f"-- {group_label(group)} ")[1].split("\n-- ")[0].split("\n\n")[0]
    (found,) = (one for one in part.splitlines()[1:] if one.startswith(f"{label}  "))
    return found


def experiments(tools, asked, group: str = "scratch", task: tuple[str, str] = ("msmt17", "msmt17")) -> list[Any]:
    """What Table 2 asks for in one group and column."""
    return [one.experiment for one in tools.cells_of("table2", asked, group, task)]


# The paper's numbers


def test_the_papers_numbers_are_complete() -> None:
    # Sums of the values by table and metric find any digit that was mistyped.
    rows = list(csv.DictReader(files("reports").joinpath("paper.csv").read_text(encoding="utf-8").splitlines()))
    first = [row for row in rows if row["metric"] == "R1"]
    assert Counter(row["study"] for row in first) == {
        "table2": 42,
        "table3": 24,
        "table4": 17,
        "table5": 16,
        "table6": 8,
    }
    sums: Counter[tuple[str, bool]] = Counter()
    for row in rows:
        sums[row["study"], row["metric"] == "R1"] += Decimal(row["value"])  # type: ignore[assignment]
    assert {key: str(value) for key, value in sums.items()} == {
        ("table2", True): "3337.1",
        ("table2", False): "2929.2",
        ("table3", True): "2080.1",
        ("table3", False): "1695.8",
        ("table4", True): "1243.9",
        ("table4", False): "863.1",
        ("table5", True): "1156.5",
        ("table5", False): "1146.8",
        ("table6", True): "705.7",
        ("table6", False): "548.9",
    }
    assert Counter(row["origin"] for row in first) == {"ran": 56, "cited": 50, "cited?": 1}
    assert Counter(row["origin"] for row in first if row["study"] == "table5") == {"ran": 16}
    places = [tuple(row[name] for name in ("study", "group", "factors", "train", "test", "metric")) for row in rows]
    assert len(set(places)) == len(places) == 2 * len(first)
    for row in rows:
        assert 0 < float(row["value"]) < 100
        assert row["metric"] in ("R1", "R5" if row["test"] == "vehicleid" else "mAP")


@pytest.mark.parametrize(
    ("study", "group", "factors", "task", "values", "origin"),
    [
        ("table2", "scratch", "network=msinet alignment=none", "msmt17 msmt17", (76.0, 52.5), "ran"),
        ("table2", "scratch", "network=resnet50 alignment=none", "vehicleid vehicleid", (70.6, 76.6), "ran"),
        ("table2", "scratch", "network=osnet alignment=none", "market1501 market1501", (93.6, 81.0), "cited"),
        ("table2", "pretrained", "network=osnet alignment=none", "msmt17 market1501", (66.6, 37.5), "cited?"),
        ("table2", "pretrained", "network=msinet alignment=pam-self", "veri776 vehicleid", (49.0, 66.8), "ran"),
        ("table3", "", "network=rga_sc alignment=none", "msmt17 msmt17", (80.3, 57.5), "cited"),
        ("table3", "", "method=SAN", "market1501 market1501", (96.1, 88.0), "cited"),
        ("table4", "", "method=IDM+MSINet", "market1501 msmt17", (66.0, 37.8), "ran"),
        ("table5", "pretrained", "network=osnet alignment=pam-self", "veri776 veri776", (95.9, 76.3), "ran"),
        ("table6", "pretrained", "network=deit_base", "msmt17 msmt17", (81.9, 61.4), "cited"),
    ],
)
def test_spots_of_the_papers_numbers(
    study: str, group: str, factors: str, task: str, values: tuple[float, float], origin: str
) -> None:
    pairs = tuple(tuple(pair.split("=")) for pair in factors.split())
    numbers = paper_numbers(study).set_index(["group", "train", "test"]).sort_index().loc[(group, *task.split())]
    found = numbers[numbers["factors"].map(lambda one: one == pairs)]
    assert tuple(found["value"]) == values
    assert set(found["origin"]) == {origin}


# What a table shows


def test_mean_and_spread_over_seeds(hand, tools) -> None:
    asked = hand.request(seeds=3)
    for experiment, first, second in zip(experiments(tools, asked), (0.5, 0.6, 0.85), (0.25,) * 3, strict=True):
        hand.publish(experiment, R1=first, mAP=second)
    table = tools.table_of("table2", asked)
    # (50 + 60 + 85) / 3 = 65; ((15² + 5² + 20²) / 2)^½ = 325^½ = 18.03
    shown = cell(table, "scratch", "MSINet")
    assert (shown.mean("R1"), shown.std("R1")) == pytest.approx((65.0, 325**0.5))
    assert (shown.mean("mAP"), shown.std("mAP")) == pytest.approx((25.0, 0.0))
    assert (shown.done, shown.planned) == (3, 3)
    assert "65.0±18.0 / 25.0±0.0" in line(table, "MSINet")
    assert "2.35 " in line(table, "MSINet")  # 2,345,678 parameters
    assert "1.129" in line(table, "MSINet")


def test_some_of_the_seeds_are_marked(hand, tools) -> None:
    asked = hand.request(seeds=3)
    for experiment, metric in zip(experiments(tools, asked), (0.4, 0.6), strict=False):
        hand.publish(experiment, R1=metric, mAP=metric)
    assert "50.0±14.1 / 50.0±14.1 (2 of 3 seeds)" in line(tools.table_of("table2", asked), "MSINet")
    hand.publish(experiments(tools, hand.request("osnet"))[0], R1=0.3, mAP=0.2)
    assert "30.0 / 20.0 (1 of 2 seeds)" in line(tools.table_of("table2", hand.request("osnet", seeds=2)), "OSNet")


def test_a_single_seed_has_no_variance(hand, tools) -> None:
    asked = hand.request()
    hand.publish(experiments(tools, asked)[0], R1=0.5)
    table = tools.table_of("table2", asked)
    assert "±" not in as_text(table)
    assert "1 seed, no variance estimate" in as_text(table)
    (row,) = (r for r in as_frame(table).to_dict("records") if r["metric"] == "R1" and r["mean"] == 50)
    assert pd.isna(row["std"])  # a 0 would claim that there is none


def test_the_papers_numbers_are_beside(hand, tools) -> None:
    asked = hand.request("msinet", "osnet", "resnet50_x0_25", datasets=("msmt17", "market1501"))
    hand.publish(experiments(tools, asked)[0], R1=0.5, mAP=0.25)
    table = tools.table_of("table2", replace(asked, models=()))
    # Table 2; (c): cited. The paper has no scratch results across data sets.
    ours = ["MSINet", "2.35", "2.3", "1.129", NOT_RUN, "94.6* / 87.0*", "50.0 / 25.0", "76.0* / 52.5*", NOT_RUN, "-"]
    theirs = ["OSNet", "-", "2.2", "-", NOT_RUN, "93.6 / 81.0 (c)", NOT_RUN, "71.0 / 43.3 (c)", NOT_RUN, "-"]
    assert re.split(r"  +", line(table, "MSINet")) == ours
    assert re.split(r"  +", line(table, "OSNet")) == theirs
    assert "66.6 / 37.5 (c)" in line(table, "OSNet", "pretext")
    # A network of another width has the paper's numbers of the full one.
    table = tools.table_of("table2", asked)
    assert "~24" in line(table, "ResNet50 x0.25")
    assert "48.0 / 25.7" in line(table, "ResNet50 x0.25")


def test_missing_runs_are_shown_as_not_run(hand, tools) -> None:
    asked = replace(hand.request(datasets=("msmt17", "veri776")), models=())
    (msinet,) = (one for one in experiments(tools, asked) if one.model == "msinet")
    hand.publish(msinet)
    table = tools.table_of("table2", asked)
    assert cell(table, "scratch", "MSINet").done
    for group, label, column in (
        ("scratch", "MSINet", Column("veri776", "veri776")),
        ("scratch", "CDNet", MSMT),
        ("pretext", "MSINet", MSMT),
        ("untrained", "colour histogram", MSMT),
    ):
        assert not cell(table, group, label, column).done
    assert line(table, "MSINet-SAM", "pretext").count(NOT_RUN) == 2
    for number in ("80.7+ / 59.5+", "96.7+ / 79.0*", "2.4"):
        assert number in line(table, "MSINet-SAM", "pretext")
    labels = [(row.group, table.label(row.factors)) for row in table.rows]
    assert ("scratch", "MSINet-SAM") not in labels
    assert len(set(labels)) == len(labels) == 3 + 4 + 4 + 5


def test_chosen_networks_narrow_the_table_to_their_rows(hand, tools) -> None:
    asked = hand.request("msinet", datasets=("msmt17", "veri776"))
    hand.publish(experiments(tools, asked)[0])
    table = tools.table_of("table2", asked)
    rows = {(row.group, table.label(row.factors)) for row in table.rows if row.group != "untrained"}
    assert rows == {("scratch", "MSINet"), ("pretext", "MSINet")}


def test_a_row_that_waits_for_its_search_does_not_show_the_papers_network(hand, tools) -> None:
    asked = hand.request()
    hand.publish(experiments(tools, asked)[0])  # the default genotype, trained from scratch
    assert not any(row.done for row in tools.table_of("discrepancies", asked).rows)
    waiting = tools.cells_of("discrepancies", asked)[1]
    assert waiting.experiment.genotype_from is not None
    found = {"genotype": "E" * 12, "agreement": 3, "skip_ratio": 0.0, "collapsed": False, "seconds_training": 1.0}
    run_id = hand.publish(waiting.experiment.genotype_from, **found)
    (hand.store.run_folder(run_id) / GENOTYPE).write_text('{"genotype": "EEEEEEEEEEEE"}')
    hand.publish(waiting.experiment.known("E" * 12), mAP=0.25)
    table = tools.table_of("discrepancies", asked)
    (row,) = (row for row in table.rows if row.done)
    assert row.factors == waiting.factors
    assert row.cells[MSMT].mean("mAP") == 25.0
    assert any("EE EE EE EE EE EE, 3 of 12 as in the paper" in note for note in table.notes)


def test_failures_and_unfinished_runs_are_no_results(hand, tools) -> None:
    asked = hand.request("msinet", "osnet", seeds=2)
    failing, unfinished, other, *_ = experiments(tools, asked)
    hand.publish(other)
    hand.store.fail(failing.run_id({"msmt17": "v1"}, None), failing, "the reason")
    hand.store.partial_folder(unfinished.run_id({"msmt17": "v1"}, None)).mkdir(parents=True)
    done = [
        one.done
        for row in tools.table_of("table2", asked).rows
        for one in row.cells.values()
        if one.done or one.run_ids
    ]
    assert done == [1]


def test_the_colour_histogram_fills_all_columns_of_its_test_set(hand, tools) -> None:
    asked = hand.request(datasets=("market1501", "msmt17"), seeds=2)
    across = experiments(tools, asked, "untrained", ("msmt17", "market1501"))
    (plain,) = {one for one in across if one.model == "colour_histogram"}
    hand.publish(plain, R1=0.125, mAP=0.5, parameters_without_classifier=0, macs=0)
    table = tools.table_of("table2", asked)
    for column in (Column("market1501", "market1501"), ACROSS):
        shown = cell(table, "untrained", "colour histogram", column)
        assert shown.mean("R1") == 12.5
        assert shown.planned == 1  # not one per seed
    assert not cell(table, "untrained", "colour histogram").done


@pytest.mark.parametrize(("without", "clusters"), [("", 5), ("osnet", 20), ("msinet", 20)])
def test_clusters_are_families_if_all_runs_know_them(hand, tools, without: str, clusters: int) -> None:
    asked = hand.request("osnet", "msinet", seeds=1)
    for one in experiments(tools, asked):
        queries = tools.hand_files({"R1": 0.5, "mAP": 0.5})["queries.csv"]
        if one.model != without:  # a run of an earlier version
            queries = [query | {"family": query["identity"] // 4} for query in queries]
        hand.publish(one, files={"queries.csv": queries}, R1=0.5, mAP=0.5)
    effects, table = comparisons_of(Results(asked), "table2"), tools.table_of("table2", asked)
    for row in table.rows:
        if row.group == "scratch":
            assert len(effects.row(row, Column("msmt17", "msmt17"), "mAP").scores.clusters) == clusters


def test_accuracy_within_families_is_a_column_of_rendered_sets(hand, tools) -> None:
    asked = hand.request("msinet", "osnet", datasets=("msmt17", "market1501"), seeds=1)
    first, *_ = (one for one in experiments(tools, asked) if one.target == "msmt17")
    hand.publish(first, R1=0.5, mAP=0.25, within_family_R1=0.625, within_family_mAP=0.75)
    for other in experiments(tools, asked):
        if other != first and other.target == "msmt17":
            hand.publish(other)  # a record of an older version of the code
    table = tools.table_of("table2", asked)
    headings, lines = grid(table)
    titles = [heading.text for heading in headings]
    assert [title for title in titles if "family" in title] == ["MS in family R1"]
    assert {len(one.cells) for one in lines} == {len(headings)}
    at = titles.index("MS in family R1")
    shown = {one.cells[0].text(lambda text, _: text): one.cells[at] for one in lines if one.group == "from scratch"}
    assert shown["MSINet"].numbers == ((62.5, "62.5", ""),)
    assert shown["OSNet"].remark == "-"
    frame = as_frame(table)
    values = frame[frame["metric"].str.startswith("within_family")].set_index("metric")["mean"]
    assert values.to_dict() == {"within_family_R1": 62.5, "within_family_mAP": 75.0}
    assert any(note.startswith("In family") for note in table.notes)


def test_results_of_other_settings_do_not_fill_the_table(hand, tools) -> None:
    asked = hand.request()
    others = hand.request(profile="smoke"), hand.request(recipe=("lr=0.5",)), hand.request("msinet_x0_5")
    for other in others:
        hand.publish(experiments(tools, other)[0])
        assert any(row.done for row in tools.table_of("table2", other).rows)
    assert not any(row.done for row in tools.table_of("table2", asked).rows)


def test_vehicleid_shows_ranks_1_and_5(hand, tools) -> None:
    asked = hand.request(datasets=("veri776", "vehicleid"))
    hand.publish(experiments(tools, asked, task=("vehicleid", "vehicleid"))[0], R1=0.5, R5=0.75, mAP=0.1)
    hand.publish(experiments(tools, asked, task=("veri776", "vehicleid"))[0], R1=0.25, R5=0.5, mAP=0.1)
    table = tools.table_of("table2", asked)
    assert "50.0 / 75.0" in line(table, "MSINet")
    assert "25.0 / 50.0" in line(table, "MSINet")
    assert [heading.text for heading in grid(table)[0] if heading.metrics and heading.kind == "measured"] == [
        "VR R1/mAP",
        "VID R1/R5",
        "VR>VID R1/R5",
    ]


def test_columns_follow_the_cards_of_the_data_sets(hand, tools) -> None:
    names = ("vehicleid_800", "veri776", "vehicleid", "msmt17", "market1501")
    asked = hand.request(datasets=names)
    hand.publish(experiments(tools, asked, task=("veri776", "veri776"))[0])
    labels = [column.label for column in tools.table_of("table2", asked).columns]
    assert labels == ["M", "MS", "VR", "VID", "VID800", "MS>M", "VR>VID"]


def test_neither_planned_nor_in_the_paper_is_a_dash(data_root: Path, tmp_path: Path) -> None:
    # GS does not adapt to another set, and the paper has no number.
    table = plain_table(Results(Request(data_root=data_root, store=tmp_path)), "table4")
    assert re.split(r"  +", line(table, "GS+MSINet", "pretrained"))[-4:-2] == [NOT_RUN, "91.7 / 81.5"]
    assert re.split(r"  +", line(table, "GS+MSINet", "pretrained"))[-2:] == ["-", "-"]
    assert re.split(r"  +", line(table, "IDM+MSINet", "pretrained"))[-2] == NOT_RUN  # but to another set it is planned


def test_rendered_data_are_named(hand, tools) -> None:
    asked, other = hand.request(), hand.request(recipe=("lr=0.5",))
    hand.publish(experiments(tools, asked)[0], target_layout="MSMT17_V1")
    assert "rendered" not in tools.table_of("table2", asked).title
    hand.publish(experiments(tools, other)[0], target_layout="MSMT17_V1, rendered")
    table = tools.table_of("table2", other)
    assert table.title == f"{find_study('table2').title} (rendered world, not the paper's data)"
    assert any("msmt17 (MSMT17_V1, rendered, fingerprint v1)" in note for note in table.notes)


def test_the_papers_orders_are_noted(hand, tools) -> None:
    asked = hand.request("msinet", "osnet", seeds=2)
    for experiment in experiments(tools, asked):
        hand.publish(experiment, mAP=(0.6 if experiment.model == "msinet" else 0.4) + experiment.seed / 1000)
    # Table 2: 52.5 and 43.3 from scratch.
    assert (
        "Order by mAP, from scratch, MS: MSINet > OSNet; in the paper MSINet > OSNet. "
        "Of 1 pairs, 1 as in the paper, 0 reversed, 0 undecided."
    ) in tools.table_of("table2", asked).notes


def test_a_single_seed_has_no_order(hand, tools) -> None:
    asked = hand.request("msinet", "osnet")
    for experiment in experiments(tools, asked):
        hand.publish(experiment)
    notes = tools.table_of("table2", asked).notes
    assert not any(note.startswith("Order") for note in notes)
    assert "Not compared: single seed. Such rows have no order, marks or decisions." in notes


def test_the_calibration_has_nothing_of_the_paper(hand, tools) -> None:
    asked = hand.request("msinet", "osnet")
    cells = tools.cells_of("calibration", asked)
    for number, experiment in enumerate(dict.fromkeys(one.experiment for one in cells)):
        hand.publish(experiment, R1=number / 10, mAP=number / 20, steps=0)
    table = tools.table_of("calibration", asked)
    assert not any(shown.paper for row in table.rows for shown in row.cells.values())
    assert all(shown.done for row in table.rows for shown in row.cells.values())
    headings, lines = grid(table)
    assert [heading.text for heading in headings] == ["network", "params M", "GMACs", "MS R1/mAP"]
    assert all(len(one.cells) == 4 for one in lines)
    assert "10.0 / 5.0" in line(table, "oracle of colours", "untrained")
    assert not any("paper" in note for note in table.notes)
    begin = next(one for one in as_latex(table).splitlines() if one.startswith(r"\begin{tabular}"))
    assert begin == r"\begin{tabular}{lrrc}"
    # The same runs have the paper's numbers beside them in Table 2.
    assert any(heading.kind == "paper" for heading in grid(tools.table_of("table2", asked))[0])


# Marks


def marks_of(
    tools, *rows: list[float], papers: tuple[float | None, ...] = (), slow: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """The marks of one column, one row a list of values by seed."""
    found = {str(i): tools.hand_cell(v, paper=papers[i] if papers else None) for i, v in enumerate(rows)}
    table = tools.hand_table(found)
    cells = [next(iter(row.cells.values())) for row in marked(table.rows, tools.hand_comparisons(table, slow))]
    return [one.marks.get("mAP", "") for one in cells], [one.paper_marks.get("mAP", "") for one in cells]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([50.0], [""]),  # nothing to compare with
        ([50.0, 40.0], ["*", ""]),  # the second of two is the last
        ([30.0, 50.0, 40.0], ["", "*", "+"]),
        ([50.0, 50.04, 40.0], ["*", "*", "+"]),  # alike to the digit shown
        ([50.0, 40.0, 40.01], ["*", "+", "+"]),
        ([50.0, 50.0], ["", ""]),  # all alike: no best
    ],
)
def test_the_best_and_the_second_best_are_marked(tools, values: list[float], expected: list[str]) -> None:
    measured = marks_of(tools, *([value, value] for value in values))[0]
    assert [mark.replace("≈", "") for mark in measured] == expected
    assert marks_of(tools, *([1.0] for _ in values), papers=tuple(values))[1] == expected


def test_rows_that_cannot_be_told_from_the_best_are_marked(tools) -> None:
    # s² = (2 + 2 + 7/3) / 3 on 6 degrees of freedom: an error of 1.2 points in each difference.
    measured, _ = marks_of(tools, [50.0, 51.0, 52.0], [40.0, 41.0, 42.0], [49.0, 52.0, 50.0])
    assert measured == ["*", "", "+≈"]


def test_single_seeds_and_unconverged_trainings_are_not_marked(tools) -> None:
    assert marks_of(tools, [50.0], [49.9], [10.0])[0] == ["", "", ""]
    assert marks_of(tools, [50.0, 50.0], [40.0, 40.0], [10.0])[0] == ["", "", ""]
    assert marks_of(tools, [50.0, 50.0], [40.0, 40.0], slow=("40.0-1",))[0] == ["", ""]


def differences_of(tools, slow: tuple[str, ...] = (), **values: list[float]) -> list[str]:
    table = tools.hand_table({label: tools.hand_cell(of) for label, of in values.items()}, baseline="base")
    return differences(table, tools.hand_comparisons(table, slow))


def test_differences_of_a_single_seed_share_a_line(tools) -> None:
    assert differences_of(tools, base=[50.0], a=[52.5], b=[40.0]) == [
        "from scratch, M mAP, not tested, differences to base, this training only: a +2.5 [+2.5, +2.5]; "
        "b -10.0 [-10.0, -10.0].",
        LEGEND,
    ]


def test_differences_of_several_seeds_have_an_interval(tools) -> None:
    # Means 51 and 53.3; s² = (2 + 14/3) / 4, error (s² · 2/3)^½ = 1.05, t of 4 degrees 2.776.
    found, legend = differences_of(tools, base=[50.0, 51.0, 52.0], a=[53.0, 52.0, 55.0])
    assert found == "from scratch, M mAP, a minus base: +2.3 [-0.6, +5.3], p 0.091: undecided."
    assert legend == LEGEND
    found, _ = differences_of(tools, base=[50.0, 51.0, 52.0], a=[63.0, 62.0, 65.0])
    assert found.endswith(": higher.")
    found, _ = differences_of(tools, base=[50.0, 51.0, 52.0], a=[33.0, 32.0, 35.0])
    assert found.endswith(": lower.")


def test_differences_of_unconverged_trainings_are_not_tested(tools) -> None:
    found, _ = differences_of(tools, ("52.0-1",), base=[50.0, 51.0], a=[53.0, 52.0])
    # The variance is that of other rows, so there is no interval.
    assert found == "from scratch, M mAP, not tested, differences to base: a +2.0."


def test_marks_look_as_their_format_allows(tools) -> None:
    shown = tools.hand_cell([50.0])
    shown = TableCell(shown.runs.assign(mAP=40.0), 1, marks={"R1": "*", "mAP": "+≈"})
    table = tools.hand_table({"a": shown})
    assert "50.0* / 40.0+≈" in as_text(table)
    assert "**50.0** / <ins>40.0</ins>≈" in as_markdown(table)
    assert r"\textbf{50.0} / \underline{40.0}$^{\approx}$" in as_latex(table)


# Tables 3 and 4


def test_table_3_shows_ours_beside_all_that_the_paper_cites(hand, tools) -> None:
    asked = hand.request("msinet", "osnet", datasets=("market1501", "msmt17"), whole=False)
    runs = {one.experiment for one in tools.cells_of("table3", asked)}
    assert runs <= {one.experiment for one in tools.cells_of("table2", asked)}  # nothing new to train
    wanted = next(e for e in runs if (e.model, e.target) == ("msinet", "msmt17"))
    hand.publish(wanted, R1=0.5, mAP=0.25)
    table = tools.table_of("table3", replace(asked, models=()))
    order = "PCB,PCB+RPP,MGN,OSNet,IANet,DGNet,Auto-ReID,SAN,CDNet,BAT-Net,SFT,CTF,RGA-SC x0.25,MSINet"
    labels = [table.label(row.factors) for row in table.rows]
    assert labels == order.split(","), labels
    shown = cell(table, "scratch", "MSINet")
    assert (shown.mean("mAP"), shown.paper["mAP"], shown.paper_marks["mAP"]) == (25.0, 59.6, "*")
    assert cell(table, "scratch", "SFT").paper_marks["mAP"] == "+"  # 58.3 after 59.6
    assert any("do not share one protocol" in note for note in table.notes)


def test_table_4_shows_the_papers_numbers_without_a_run(hand, tools) -> None:
    asked = hand.request("resnet50", "msinet", datasets=("market1501", "msmt17"), whole=False)
    start = tools.cells_of("table4", asked)[0]
    hand.publish(start.experiment, weights="w", steps=0)
    table = tools.table_of("table4", replace(asked, models=()))
    assert "66.0* / 37.8*" in as_text(table)
    assert "61.3+ / 33.5+ (c)" in as_text(table)
    assert sum(len(cell.paper) for row in table.rows for cell in row.cells.values()) == 2 * 17
    labels = [table.label(row.factors) for row in table.rows]
    assert {"JVTC+", "GCL", "MMT", "GS+MSINet", "Starting weights"} <= set(labels)


# Which records count


@pytest.mark.parametrize("spread", ["one experiment", "two seeds", "two networks", "source of one, target of another"])
def test_two_versions_of_the_data_never_meet_in_a_table(hand, tools, spread: str) -> None:
    asked = hand.request("msinet", "osnet", datasets=("msmt17", "market1501"), seeds=2)
    found = {(e.model, e.seed): e for e in experiments(tools, asked)}
    msinet, across = found["msinet", 0], experiments(tools, asked, task=("msmt17", "market1501"))[0]
    other = {"one experiment": msinet, "two seeds": found["msinet", 1], "two networks": found["osnet", 0]}
    hand.publish(msinet)
    hand.publish(other.get(spread, across), data={"msmt17": "v2"})
    with pytest.raises(UserError, match=r"results on several versions of msmt17; pass --data-root"):
        tools.table_of("table2", asked)


def test_with_a_data_root_only_results_on_those_data_count(hand, tools, data_root: Path) -> None:
    found = load_dataset("msmt17", data_root).fingerprint
    asked = hand.request(seeds=2, data_root=data_root)
    first, second = experiments(tools, asked)
    hand.publish(first, R1=0.25, data={"msmt17": "v1"})
    hand.publish(first, R1=0.5, data={"msmt17": found})
    hand.publish(second, R1=0.75, data={"msmt17": "v1"})
    shown = cell(tools.table_of("table2", asked), "scratch", "MSINet")
    assert shown.mean("R1") == 50
    assert (shown.done, shown.planned) == (1, 2)


def test_records_of_an_earlier_results_version_do_not_count(hand, tools, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hand.request()
    hand.publish(experiments(tools, asked)[0])
    assert cell(tools.table_of("table2", asked), "scratch", "MSINet").done
    monkeypatch.setattr("ablations.engine.experiment.RESULTS_VERSION", 99)
    assert not cell(tools.table_of("table2", asked), "scratch", "MSINet").done


def test_pretrained_results_are_those_of_the_given_weights(hand, tools, tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new", "unused", "empty")):
        (tmp_path / name).mkdir()
        if name != "empty":
            torch.save({"w": torch.tensor(number)}, tmp_path / name / "msinet.pth")
    (experiment,) = experiments(tools, hand.request(), "pretext")
    for metric, name, day in ((0.25, "old", 1), (0.75, "new", 2)):
        weights = file_hash(tmp_path / name / "msinet.pth")
        hand.publish(experiment, R1=metric, weights=weights, finished=f"2024-01-0{day}T00:00:00+00:00")

    def shown(**settings: Any) -> TableCell:
        group = "pretrained" if settings else "pretext"
        return cell(tools.table_of("table2", hand.request(**settings)), group, "MSINet")

    assert shown().mean("R1") == 75  # the newest, if nothing is said
    assert shown(pretrained=tmp_path / "old").mean("R1") == 25
    assert shown(pretrained=tmp_path / "new").mean("R1") == 75
    assert not shown(pretrained=tmp_path / "unused").done
    assert not shown(pretrained=tmp_path / "empty").done


# Notes


def test_notes_say_whose_weights_rank_another_set(hand, tools) -> None:
    for profile, same in (("mini", True), ("full", False)):
        asked = hand.request(datasets=("msmt17", "market1501"), profile=profile)
        hand.publish(experiments(tools, asked)[0])
        (line,) = (note for note in tools.table_of("table2", asked).notes if note.startswith("Across data sets"))
        assert ("the weights trained on A" in line) == same
        assert ("colour jitter" in line) != same


@pytest.mark.parametrize("profile", ["mini", "full"])
def test_notes_name_the_colour_jitter_of_runs_that_have_it(profile: str, data_root: Path, tmp_path: Path) -> None:
    asked = Request(profile=profile, data_root=data_root, datasets=("market1501", "msmt17"), store=tmp_path)
    lines = settings(Results(asked), find_study("table4"))
    labelled, without = (
        [line for line in lines if line.startswith(f"Across data sets (A>B), {kind}")]
        for kind in ("training with labels", "without labels of B")
    )
    assert len(labelled) == len(without) == 1
    assert ("colour jitter instead of random erasing" in labelled[0]) == (profile == "full")  # mini trains once
    assert "jitter" not in without[0]


def test_notes_say_what_a_reader_must_know(hand, tools) -> None:
    asked = hand.request(datasets=("msmt17", "market1501", "veri776"), profile="full", seeds=2)
    hand.publish(experiments(tools, asked)[0])
    text = as_text(tools.table_of("table2", asked))
    for part in (
        "Profile full: images 256x128 and 256x256, batches 16x4, sgd lr 0.065, 120 epochs.",
        "Across data sets (A>B): 86 epochs, colour jitter instead of random erasing.",
        "2 seeds, mean ± sample standard deviation",
        "Models of the last epoch",
        "msmt17 (Layout, fingerprint v1)",
        "Abacus 3000, fp32, torch 9.9",
        "(c): cited by the paper",
    ):
        assert part in text
    short = as_text(tools.table_of("table2", hand.request(recipe=("lr=0.5", "optimizer=sgd"))))
    assert "Profile mini with lr=0.5 optimizer=sgd: images 64x32" in short
    assert "sgd lr 0.5" in short


@pytest.mark.parametrize(("wide", "slow", "warns"), [(10, (), True), (4, (), False), (10, ("40-0",), False)])
def test_a_note_warns_of_unequal_seed_variances(wide: int, slow: tuple[str, ...], warns: bool, tools) -> None:
    cells = {"even": [50, 51, 52], "odd": [49, 51, 53], "wide": [50 - wide, 50, 50 + wide], "single": [9]}
    table = tools.hand_table({label: tools.hand_cell(values) for label, values in cells.items()})
    found = unequal_variances(table, tools.hand_comparisons(table, slow))
    assert [line.partition(". ")[0] for line in found] == [
        "Unequal variances: seed standard deviations of M mAP are between 1.0 (even, from scratch) and "
        "10.0 (wide, from scratch), p 0.045"
    ] * warns


def test_remarks_of_several_effects_name_each_version_once() -> None:
    one, other = (
        replace(untestable(""), remarks=(f"different code versions: 1, {code}", "different devices: cpu, cuda"))
        for code in (2, 3)
    )
    assert remarks_of([one, other]) == " (different code versions: 1, 2, 3; different devices: cpu, cuda)"
    assert remarks_of([untestable("")]) == ""


def test_a_table_of_rows_without_training_says_so(hand, tools) -> None:
    asked = hand.request("colour_histogram")
    (one,) = {
        cell.experiment for cell in tools.cells_of("table2", asked) if cell.experiment.model == "colour_histogram"
    }
    hand.publish(one, parameters=0, steps=0)
    assert "Profile mini: images 64x32. No row is trained." in tools.table_of("table2", asked).notes


def test_image_sizes_of_some_networks_have_their_names(tools, data_root: Path, tmp_path: Path) -> None:
    results = Results(Request(data_root=data_root, datasets=("msmt17",), store=tmp_path))
    assert "images 96x32 (PCB, PCB+RPP, MGN) and 64x32, batches" in settings(results, find_study("table3"))[0]


def test_adaptation_has_direct_transfer_as_baseline(data_root: Path, tmp_path: Path) -> None:
    table = plain_table(Results(Request(data_root=data_root, store=tmp_path)), "table4")
    rows = {table.label(row.factors): row.factors for row in table.rows if "learned" in dict(row.factors)}
    assert table.baseline_of(rows["SpCL+MSINet"], rows.values()) == rows["Direct transfer+MSINet"]
    alone = [factors for label, factors in rows.items() if not label.startswith("Direct")]
    assert table.baseline_of(rows["SpCL"], alone) == rows["Starting weights"]


def test_a_row_without_numbers_of_the_paper_follows_its_method(data_root: Path, tmp_path: Path) -> None:
    table = plain_table(Results(Request(data_root=data_root, store=tmp_path)), "table4")
    labels = [table.label(row.factors) for row in table.rows]
    for method in ("Starting weights", "MMCL", "MMT", "SpCL", "ClusterContrast", "GS", "HDCRL", "IDM"):
        assert labels[labels.index(method) + 1] == f"{method}+MSINet"


def test_files_of_different_requests_have_different_names(tmp_path: Path) -> None:
    assert file_name("table2", Request()) == "table2-mini"
    request = Request(data_root=tmp_path / "photos.csv", recipe=("lr=0.1",), recipe_of="authors")
    assert file_name("table2", request) == "table2-mini-authors-photos_csv-lr=0_1"
    assert file_name("table4", Request(unsupervised_recipe=("eps=0.5",))) == "table4-mini-unsupervised-eps=0_5"
    several = (Request(recipe=("epochs=4",)), Request(search_recipe=("epochs=4",)), Request(keep_same_camera=True))
    assert len({file_name("table1", one) for one in (*several, Request())}) == 4


def test_networks_of_one_table_have_their_own_recipes(data_root: Path, tmp_path: Path) -> None:
    results = Results(Request(profile="paper", data_root=data_root, datasets=("msmt17", "veri776"), store=tmp_path))
    lines = settings(results, find_study("table6"))
    assert "350 epochs (MSINet)" in lines[0]
    assert "120 epochs" in lines[0]
    assert "(DeiT-S, DeiT-B, ViT-B)" in lines[0]
    assert "Spatial alignment (Eq. 7): grid of the anchor image." not in lines
    assert "Spatial alignment (Eq. 7): grid of the anchor image." in settings(results, find_study("table2"))


def test_a_gpu_s_fp32_has_tf32_convolutions(hand, tools) -> None:
    asked = hand.request()
    hand.publish(experiments(tools, asked)[0], device="NVIDIA H100")
    notes = tools.table_of("table2", asked).notes
    assert "Measured on NVIDIA H100, fp32 with TF32 convolutions, torch 9.9." in notes


# Formats


@pytest.fixture
def filled(hand, tools) -> Table:
    """A table with every kind of cell, and a label that LaTeX would trip over."""
    asked = hand.request("msinet", "osnet_x0_5", "resnet50", datasets=("msmt17", "market1501"), seeds=2)
    first, second, other, *_ = (one for one in experiments(tools, asked) if one.model != "resnet50")
    for number, experiment in enumerate((first, second, other)):
        hand.publish(experiment, R1=1 / 3 + number / 7, mAP=1 / 9)
    across = experiments(tools, asked, "pretext", ("msmt17", "market1501"))
    hand.publish(next(one for one in across if one.model == first.model), R1=0.1, mAP=0.05, weights="w")
    return tools.table_of("table2", asked)


def test_text_is_aligned(filled: Table) -> None:
    title, empty, header, *lines = as_text(filled).splitlines()
    assert title.startswith("Table 2: ")
    assert not empty
    rows = lines[: lines.index("")]
    starts = [m.start() for m in re.finditer(r"(?<=  )\S|^\S", header)]
    assert len(starts) == 4 + 2 * 3
    for row in rows:
        if not row.startswith("-- "):
            padded = row.ljust(len(header))
            assert all(padded[s - 2 : s] in ("", "  ") for s in starts[1:])
    assert sum(row.startswith("-- ") for row in rows) == 3


def test_markdown_is_rectangular(filled: Table, tools) -> None:
    pipes = [one.count("|") for one in as_markdown(filled).splitlines() if one.startswith("|")]
    assert len(pipes) == len(filled.rows) + 2
    assert set(pipes) == {12}  # group, network, params, paper, GMACs and three pairs of columns
    # Table 5 of the paper has a bar in its names.
    bar = as_markdown(tools.hand_table({"MSINet|none": tools.hand_cell([], planned=1)}))
    assert len({one.count("|") for one in bar.splitlines() if one.startswith("|")}) == 1


def test_latex_is_well_formed(filled: Table, tools) -> None:
    lines = as_latex(filled).splitlines()
    comments = [one for one in lines if one.startswith("%")]
    assert len(comments) == len(filled.notes) + 2  # the title, and what the preamble needs
    body = [one for one in lines if not one.startswith("%")]
    begin, end = re.fullmatch(r"\\begin\{tabular\}\{([lrc]+)\}", body[0]), body[-1]
    assert begin is not None
    assert end == r"\end{tabular}"
    assert [body[1], body[-2]] == [r"\toprule", r"\bottomrule"]
    columns = len(begin[1])
    rows = [one for one in body[2:-2] if one != r"\midrule"]
    wide = [one for one in rows if one.startswith(r"\multicolumn")]
    assert len(wide) == 3
    assert all(rf"\multicolumn{{{columns}}}{{l}}" in one for one in wide)
    for row in rows:
        assert row.endswith(r" \\")
        if row not in wide:
            assert len(re.findall(r"(?<!\\)&", row)) == columns - 1
        plain = re.sub(r"\\[_%&]", "", row)  # escaped characters are harmless
        assert not re.search(r"[_%#^~<>±]", plain)
        assert plain.count("$") % 2 == 0
        assert plain.count("{") == plain.count("}")
    assert r"MS$\to$M" in rows[0]
    assert r"$\pm$" in "".join(rows)
    assert r"$\sim$24" in "".join(rows)
    assert r"a\_b\&c" in as_latex(tools.hand_table({"a_b&c": tools.hand_cell([1.0])}))


def test_csv_gives_the_same_numbers_back(filled: Table, tmp_path: Path) -> None:
    *_, path = write_table(filled, tmp_path / "deep" / "table")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(filled.rows) * 3 * 2
    back = {(r["group"], r["row"], r["column"], r["metric"]): r for r in rows}
    assert len(back) == len(rows)
    for row in filled.rows:
        for column, shown in row.cells.items():
            for metric in ("R1", "mAP"):
                found = back[group_label(row.group), filled.label(row.factors), column.label, metric]
                assert found["network"] == dict(row.factors)["network"]
                assert (found["mean"] != "") == bool(shown.done)
                if shown.done:
                    assert float(found["mean"]) == shown.mean(metric)  # to the last bit
                    assert (float(found["std"]) == shown.std(metric)) if shown.done > 1 else found["std"] == ""
                assert (int(found["runs"]), int(found["planned"])) == (shown.done, shown.planned)
                assert found["paper"] == str(shown.paper.get(metric, ""))
                assert found["origin"] == shown.origin


def test_all_formats_show_the_same_cells(filled: Table) -> None:
    cells = {one for row in as_markdown(filled).splitlines()[4:] if row[:1] == "|" for one in row.split(" | ")[1:]}
    text = re.sub(r"[*+≈]", "", as_text(filled))
    assert all(re.sub(r"[*≈]|</?ins>", "", one).rstrip(" |") in text for one in cells)
    assert len(cells) > 20


def test_the_brief_table_has_only_rows_with_results(filled: Table, tools) -> None:
    short = brief(filled)
    assert [(row.group, filled.label(row.factors)) for row in short.rows] == [
        ("scratch", "MSINet"),
        ("scratch", "OSNet x0.5"),
        ("pretext", "MSINet"),
    ]
    assert not short.notes
    assert short.columns == filled.columns
    assert as_text(brief(tools.hand_table({}))).startswith("T\n")


# The command


def test_the_command_writes_four_files(hand, tools, tmp_path: Path, capsys) -> None:
    hand.publish(experiments(tools, hand.request())[0], R1=0.123)
    words = ["table", "table2", *hand.request(whole=False).as_args()]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    names = [f"table2-mini.{suffix}" for suffix in ("txt", "md", "tex", "csv")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert (tmp_path / "out" / "table2-mini.txt").read_text() in out
    assert all(str(tmp_path / "out" / name) in out for name in names)
    assert "12.3 / 50.0" in out
    assert main([*words, "--brief"]) == 0
    assert (hand.store.root / "tables" / "table2-mini.csv").exists()
    out = capsys.readouterr().out
    assert "12.3 / 50.0" in out
    assert NOT_RUN not in out
    assert "written" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table9"], "unknown table or figure 'table9'"),
        (["table2"], "the world is not rendered yet"),
        (["table2", "--datasets", "mars"], "unknown data set 'mars'"),
        (["table2", "--profile", "huge"], "unknown profile 'huge'"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_error(hand, words: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main(["table", *words, "--store", str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(hand, tools, tmp_path: Path, capsys) -> None:
    hand.publish(experiments(tools, hand.request())[0])
    (tmp_path / "file").write_text("mine")
    words = ["table", "table2", "--store", str(hand.store.root), "--out", str(tmp_path / "file" / "x")]
    assert main(words) == 2
    assert re.fullmatch(r"error: cannot write .*; check the path\n", capsys.readouterr().err)


def test_tables_are_made_without_torch_and_matplotlib(hand, tools) -> None:
    hand.publish(experiments(tools, hand.request())[0])
    words = ["table", "table2", *hand.request().as_args()]
    code = (
        "import sys; from reports.__main__ import main; "
        f"status = main({words!r}); sys.exit(status or ' '.join({{'torch', 'matplotlib'}} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
