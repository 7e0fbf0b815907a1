"""Tables from records that were written by hand, so that every number on them is known."""

import csv
import re
from collections import Counter
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scipy.stats
import torch

from ablations.calibration import CALIBRATION
from ablations.catalogue import Request
from ablations.discrepancies import DISCREPANCY_STUDY
from ablations.experiment import Experiment
from ablations.store import Store
from ablations.table2 import PRETEXT_GROUP, TABLE2
from ablations.table3 import TABLE3
from msinet.data import load_dataset
from msinet.errors import UserError
from msinet.io import file_hash
from reports.__main__ import main
from reports.tables import (
    NOT_RUN,
    Place,
    Row,
    Table,
    as_frame,
    as_latex,
    as_markdown,
    as_text,
    brief,
    build_table,
    comparisons,
    grid,
    marked,
    paper_numbers,
    write_table,
)

ENVIRONMENT = {"device": "cpu", "cpu": "Abacus 3000", "torch": "9.9", "finished": "2024-01-01T00:00:00+00:00"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def publish(
    store: Store,
    experiment: Experiment,
    *,
    data: dict[str, str] | None = None,
    weights: str | None = None,
    **metrics: Any,
) -> str:
    """A finished run with these metrics, in [0, 1]; returns its id. Data sets are called `v1` unless told otherwise."""
    prints = {name: (data or {}).get(name, "v1") for name in (experiment.source, experiment.target)}
    run_id = experiment.run_id(prints, weights)
    store.partial_folder(run_id).mkdir(parents=True)
    store.publish(
        run_id,
        experiment,
        {
            "R1": 0.5,
            "R5": 0.5,
            "mAP": 0.5,
            "parameters_without_classifier": 2_345_678,
            "macs": 1_129_000_000,
            "source_fingerprint": prints[experiment.source],
            "target_fingerprint": prints[experiment.target],
            "target_layout": "Layout",
            "weights": weights,
            **ENVIRONMENT,
            **metrics,
        },
    )
    return run_id


def request(store: Store, *models: str, **settings: Any) -> Request:
    """On the rendered world, of which nothing is there: what counts are the records."""
    return Request(
        models=models or ("msinet",), store=store.root, **{"datasets": ("msmt17",), "whole": True, **settings}
    )


def experiments(asked: Request, group: str = "from scratch", column: str = "MS") -> list[Experiment]:
    """What a request wants at one place of the table, one per seed and model."""
    return [c.experiment for c in TABLE2.cells(asked, asked.datasets) if (c.group, c.column) == (group, column)]


def place(table: Table, group: str, label: str, column: str = "MS") -> Place:
    (row,) = (row for row in table.rows if (row.group, row.label) == (group, label))
    return row.places[column]


def line(table: Table, label: str, group: str = "from scratch") -> str:
    """The line of a row in the text, its columns apart by two spaces or more."""
    (found,) = (
        one
        for one in as_text(table).split(f"-- {group} ")[1].split("\n-- ")[0].splitlines()[1:]
        if one.startswith(f"{label}  ")
    )
    return found


# The paper's numbers


def test_the_papers_numbers_are_complete() -> None:
    # SPEC H. Sums of both values by table find any digit that was mistyped.
    rows = list(csv.DictReader(files("reports").joinpath("paper.csv").read_text(encoding="utf-8").splitlines()))
    assert Counter(row["table"] for row in rows) == {"T2": 42, "T3": 24, "T4": 17, "T5": 16, "T6": 8}
    sums = {
        t: tuple(str(sum(Decimal(r[v]) for r in rows if r["table"] == t)) for v in ("v1", "v2"))
        for t in ("T2", "T3", "T4", "T5", "T6")
    }
    assert sums == {
        "T2": ("3337.1", "2929.2"),
        "T3": ("2080.1", "1695.8"),
        "T4": ("1243.9", "863.1"),
        "T5": ("1156.5", "1146.8"),
        "T6": ("705.7", "548.9"),
    }
    assert Counter(row["origin"] for row in rows) == {"ran": 56, "cited": 50, "cited?": 1}
    assert Counter(row["origin"] for row in rows if row["table"] == "T5") == {"ran": 16}
    places = [(row["table"], row["method"], row["init"], row["task"]) for row in rows]
    assert len(set(places)) == len(places)
    for row in rows:
        assert 0 < float(row["v1"]) < 100
        assert 0 < float(row["v2"]) < 100
        assert (row["m1"], row["m2"]) == ("R1", "R5" if row["task"].endswith("VID") else "mAP")


@pytest.mark.parametrize(
    ("table", "method", "init", "task", "first", "second", "origin"),
    [
        ("T2", "MSINet", "scratch", "MS", 76.0, 52.5, "ran"),
        ("T2", "ResNet50", "scratch", "VID", 70.6, 76.6, "ran"),
        ("T2", "OSNet", "scratch", "M", 93.6, 81.0, "cited"),
        ("T2", "OSNet", "imagenet", "MS>M", 66.6, 37.5, "cited?"),
        ("T2", "MSINet-SAM", "imagenet", "VR>VID", 49.0, 66.8, "ran"),
        ("T3", "RGA-SC", "-", "MS", 80.3, 57.5, "cited"),
        ("T4", "IDM+MSINet", "-", "UDA-M>MS", 66.0, 37.8, "ran"),
        ("T5", "OSNet|PAM-Self", "imagenet", "VR", 95.9, 76.3, "ran"),
        ("T6", "DeiT-B", "imagenet", "MS", 81.9, 61.4, "cited"),
    ],
)
def test_spots_of_the_papers_numbers(
    table: str, method: str, init: str, task: str, first: float, second: float, origin: str
) -> None:
    numbers = paper_numbers().set_index(["table", "method", "init", "task"])
    row = numbers.loc[(table, method, init, task)]
    assert (row["v1"], row["v2"], row["origin"]) == (first, second, origin)


# What a table shows


def test_mean_and_spread_over_seeds(store: Store) -> None:
    asked = request(store, seeds=3)
    for experiment, first, second in zip(experiments(asked), (0.5, 0.6, 0.85), (0.25, 0.25, 0.25), strict=True):
        publish(store, experiment, R1=first, mAP=second)
    table = build_table(TABLE2, asked)
    # (50 + 60 + 85) / 3 = 65; ((15² + 5² + 20²) / 2)^½ = 325^½ = 18.03
    shown = place(table, "from scratch", "MSINet")
    assert shown.values["R1"] == pytest.approx((65.0, 325**0.5))
    assert shown.values["mAP"] == pytest.approx((25.0, 0.0))
    assert (shown.seeds, shown.planned) == (3, 3)
    assert "65.0±18.0 / 25.0±0.0" in line(table, "MSINet")
    assert "2.35 " in line(table, "MSINet")  # 2,345,678 parameters
    assert "1.129" in line(table, "MSINet")


def test_some_of_the_seeds_are_marked(store: Store) -> None:
    asked = request(store, seeds=3)
    for experiment, metric in zip(experiments(asked), (0.4, 0.6), strict=False):
        publish(store, experiment, R1=metric, mAP=metric)
    table = build_table(TABLE2, asked)
    assert "50.0±14.1 / 50.0±14.1 (2 of 3 seeds)" in line(table, "MSINet")
    (only, *_) = experiments(request(store, "osnet"))
    publish(store, only, R1=0.3, mAP=0.2)
    table = build_table(TABLE2, request(store, "osnet", seeds=2))
    assert "30.0 / 20.0 (1 of 2 seeds)" in line(table, "OSNet")


def test_one_seed_says_nothing_about_the_spread(store: Store) -> None:
    asked = request(store)
    publish(store, experiments(asked)[0], R1=0.5)
    table = build_table(TABLE2, asked)
    assert "±" not in as_text(table)
    assert "nothing is said about the spread" in as_text(table)
    (row,) = (r for r in as_frame(table).to_dict("records") if r["metric"] == "R1" and r["mean"] == 50)
    assert pd.isna(row["std"])  # a 0 would claim that there is none


def test_the_paper_stands_beside(store: Store) -> None:
    asked = request(store, "msinet", "osnet", "resnet50_x0_25", datasets=("msmt17", "market1501"))
    publish(store, experiments(asked)[0], R1=0.5, mAP=0.25)
    table = build_table(TABLE2, asked)
    # SPEC C.2; (c): cited. The paper has no scratch results across data sets.
    assert re.split(r"  +", line(table, "MSINet")) == [
        "MSINet",
        "2.35",
        "2.3",
        "1.129",
        NOT_RUN,
        "94.6* / 87.0*",
        "50.0 / 25.0",
        "76.0* / 52.5*",
        NOT_RUN,
        "-",
    ]
    assert re.split(r"  +", line(table, "OSNet")) == [
        "OSNet",
        "-",
        "2.2",
        "-",
        NOT_RUN,
        "93.6 / 81.0 (c)",
        NOT_RUN,
        "71.0 / 43.3 (c)",
        NOT_RUN,
        "-",
    ]
    assert "66.6 / 37.5 (c)" in line(table, "OSNet", PRETEXT_GROUP)
    # A network of another width has the paper's full one beside it.
    assert "~24" in line(table, "ResNet50 x0.25")
    assert "48.0 / 25.7" in line(table, "ResNet50 x0.25")


def test_what_is_not_run_is_shown_as_not_run(store: Store) -> None:
    asked = request(store, datasets=("msmt17", "veri776"))
    publish(store, experiments(asked)[0])
    table = build_table(TABLE2, asked)
    assert place(table, "from scratch", "MSINet").values
    for group, label, column in (
        ("from scratch", "MSINet", "VR"),
        ("from scratch", "CDNet", "MS"),
        (PRETEXT_GROUP, "MSINet", "MS"),
        ("no training", "colour histogram", "MS"),
    ):
        assert not place(table, group, label, column).values
    # Rows of the paper that nothing here runs are shown, with the paper's numbers.
    assert line(table, "MSINet-SAM", PRETEXT_GROUP).count(NOT_RUN) == 2
    for number in ("80.7+ / 59.5+", "96.7+ / 79.0*", "2.4"):
        assert number in line(table, "MSINet-SAM", PRETEXT_GROUP)
    assert "MSINet-SAM" not in {row.label for row in table.rows if row.group == "from scratch"}
    labels = [(row.group, row.label) for row in table.rows]
    assert len(set(labels)) == len(labels) == 1 + 4 + 5


def test_what_waits_for_its_search_does_not_show_the_papers_network(store: Store) -> None:
    asked = request(store)
    publish(store, experiments(asked)[0])  # the default genotype, trained from scratch
    table = build_table(DISCREPANCY_STUDY, asked)
    assert not any(row.places["MS"].values for row in table.rows)
    waiting = DISCREPANCY_STUDY.cells(asked, asked.datasets)[1]
    assert waiting.experiment.genotype_from is not None
    found = {"genotype": "E" * 12, "agreement": 3, "skip_ratio": 0.0, "collapsed": False, "seconds_training": 1.0}
    publish(store, waiting.experiment.genotype_from, **found)
    publish(store, waiting.experiment.known("E" * 12), mAP=0.25)
    table = build_table(DISCREPANCY_STUDY, asked)
    assert [row.label for row in table.rows if row.places["MS"].values] == [waiting.row]
    assert place(table, waiting.group, waiting.row).values["mAP"][0] == 25.0


def test_failures_and_unfinished_runs_are_no_results(store: Store) -> None:
    asked = request(store, seeds=2)
    failing, unfinished = experiments(asked)
    store.fail(failing.run_id({"msmt17": "v1"}, None), failing, "the reason")
    store.partial_folder(unfinished.run_id({"msmt17": "v1"}, None)).mkdir(parents=True)
    table = build_table(TABLE2, asked)
    assert not place(table, "from scratch", "MSINet").values


def test_the_colour_histogram_fills_all_columns_of_its_test_set(store: Store) -> None:
    asked = request(store, datasets=("market1501", "msmt17"), seeds=2)
    (plain,) = set(experiments(asked, "no training", "MS>M"))
    publish(store, plain, R1=0.125, mAP=0.5, parameters_without_classifier=0, macs=0)
    table = build_table(TABLE2, asked)
    for column in ("M", "MS>M"):
        shown = place(table, "no training", "colour histogram", column)
        assert shown.values["R1"][0] == 12.5
        assert shown.planned == 1  # not one per seed
    assert not place(table, "no training", "colour histogram", "MS").values


def test_results_of_other_settings_do_not_fill_the_table(store: Store) -> None:
    asked = request(store)
    for other in (request(store, profile="smoke"), request(store, recipe=("lr=0.5",)), request(store, "msinet_x0_5")):
        publish(store, experiments(other)[0])
        assert any(row.places["MS"].values for row in build_table(TABLE2, other).rows)
    assert not any(row.places["MS"].values for row in build_table(TABLE2, asked).rows)


def test_vehicleid_shows_ranks_1_and_5(store: Store) -> None:
    asked = request(store, datasets=("veri776", "vehicleid"))
    publish(store, experiments(asked, column="VID")[0], R1=0.5, R5=0.75, mAP=0.1)
    publish(store, experiments(asked, column="VR>VID")[0], R1=0.25, R5=0.5, mAP=0.1)
    table = build_table(TABLE2, asked)
    assert set(place(table, "from scratch", "MSINet", "VID").values) == {"R1", "R5"}
    assert "50.0 / 75.0" in line(table, "MSINet")
    assert "25.0 / 50.0" in line(table, "MSINet")
    assert "VID R1/R5" in as_text(table)
    assert "VR R1/mAP" in as_text(table)


def test_what_is_neither_planned_nor_in_the_paper_is_a_dash(store: Store) -> None:
    # CDNet across data sets: no experiment asks for it, and the paper has no number.
    table = build_table(TABLE2, request(store, "cdnet", "msinet", datasets=("msmt17", "market1501")))
    shown = place(table, "from scratch", "CDNet", "MS>M")
    assert (shown.planned, shown.paper, shown.values) == (0, {}, {})
    assert re.split(r"  +", line(table, "CDNet"))[-2:] == ["-", "-"]
    assert re.split(r"  +", line(table, "CDNet"))[4] == NOT_RUN  # but at home it is planned
    assert re.split(r"  +", line(table, "MSINet"))[-2:] == [NOT_RUN, "-"]


def test_rendered_data_are_called_so(store: Store) -> None:
    asked = request(store)
    publish(store, experiments(asked)[0], target_layout="MSMT17_V1")
    assert "rendered" not in build_table(TABLE2, asked).title
    other = request(store, recipe=("lr=0.5",))
    publish(store, experiments(other)[0], target_layout="MSMT17_V1, rendered")
    table = build_table(TABLE2, other)
    assert table.title == f"{TABLE2.title} (rendered world, not the paper's data)"
    assert any("msmt17 (MSMT17_V1, rendered, fingerprint v1)" in note for note in table.notes)
    photographs = Request(data_root=Path("/photographs"))
    groups = {cell.group for cell in TABLE2.cells(photographs, ("msmt17",))}
    assert not any("rendered" in group for group in groups)


def test_the_papers_orderings_are_noted(store: Store) -> None:
    asked = request(store, "msinet", "osnet")
    for experiment, metric in zip(experiments(asked), (0.6, 0.4), strict=True):
        publish(store, experiment, mAP=metric)
    # SPEC C.2: 52.5 and 43.3 from scratch.
    assert (
        "Order by mAP, from scratch, MS: MSINet > OSNet (the paper's order; 1 of 1 pairs as in the paper; "
        "one seed, so no spread is known)."
    ) in build_table(TABLE2, asked).notes


def test_the_calibration_has_nothing_of_the_paper(store: Store) -> None:
    asked = request(store, "msinet", "osnet")
    cells = CALIBRATION.cells(asked, asked.datasets)
    for number, experiment in enumerate(dict.fromkeys(cell.experiment for cell in cells)):
        publish(store, experiment, R1=number / 10, mAP=number / 20, steps=0)
    table = build_table(CALIBRATION, asked)
    assert not any(shown.paper for row in table.rows for shown in row.places.values())
    assert all(shown.values for row in table.rows for shown in row.places.values())
    header, lines = grid(table)
    assert header == ["method", "params M", "GMACs", "MS R1/mAP"]
    assert all(len(cells) == 4 for _, cells in lines)
    assert "10.0* / 5.0*" in line(table, "MSINet, random weights", "no training")
    assert not any("paper" in note for note in table.notes)
    begin = next(one for one in as_latex(table).splitlines() if one.startswith(r"\begin{tabular}"))
    assert begin == r"\begin{tabular}{lrrc}"
    # The same runs stand beside the paper in Table 2.
    assert "paper" in grid(build_table(TABLE2, asked))[0]


# Marks


def row(values: list[float], seeds: int = 1, paper: float | None = None) -> Place:
    """A place of one metric, whose runs are called after their values."""
    mean = float(pd.Series(values).mean())
    ids = tuple(f"{value}-{seed}" for seed, value in enumerate(values))
    return Place({"mAP": (mean, 0.0)}, len(values), seeds, {} if paper is None else {"mAP": paper}, "ran", ids)


def records(*rows: list[float]) -> pd.DataFrame:
    """The runs behind such places."""
    return (
        pd.DataFrame(
            [
                {"run_id": f"{value}-{seed}", "seed": seed, "mAP": value / 100}
                for values in rows
                for seed, value in enumerate(values)
            ]
        )
        .drop_duplicates("run_id")
        .set_index("run_id")
    )


def marks_of(*rows: list[float], papers: tuple[float | None, ...] = ()) -> tuple[list[str], list[str]]:
    """The marks of one column, one row a list of values by seed."""
    found = [row(values, len(values), papers[i] if papers else None) for i, values in enumerate(rows)]
    table = marked([Row("g", str(i), {"M": place}, None, None) for i, place in enumerate(found)], records(*rows))
    places = [one.places["M"] for one in table]
    return [place.marks.get("mAP", "") for place in places], [place.paper_marks.get("mAP", "") for place in places]


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
def test_the_best_and_the_second_best_are_marked(values: list[float], expected: list[str]) -> None:
    assert marks_of(*([value] for value in values))[0] == expected
    assert marks_of(*([1.0] for _ in values), papers=tuple(values))[1] == expected


def test_what_the_seeds_do_not_tell_from_the_best_is_marked() -> None:
    # Paired differences to the best, by hand: 10 each time (p 0), and 1, -1, 2 (mean 2/3, t = 0.756 of 2 degrees).
    measured, _ = marks_of([50.0, 51.0, 52.0], [40.0, 41.0, 42.0], [49.0, 52.0, 50.0])
    assert measured == ["*", "", "+≈"]
    assert scipy.stats.ttest_rel([50, 51, 52], [49, 52, 50]).pvalue > 0.05
    # One seed tells nothing about noise.
    assert marks_of([50.0], [49.9], [10.0])[0] == ["*", "+", ""]


def differences(**values: list[float]) -> list[str]:
    rows = [Row("g", label, {"M": row(of, len(of))}, None, None) for label, of in values.items()]
    return comparisons(rows, {"M": ("R1", "mAP")}, "base", records(*values.values()))


def test_differences_of_a_single_seed_stand_in_one_line() -> None:
    assert differences(base=[50.0], a=[52.5], b=[40.0]) == [
        "g, M mAP, differences to base: a +2.5; b -10.0. One seed, so no spread is known."
    ]


def test_differences_of_several_seeds_have_an_interval() -> None:
    low, high = scipy.stats.ttest_rel([53, 52, 55], [50, 51, 52]).confidence_interval(0.95)
    line, explanation = differences(base=[50.0, 51.0, 52.0], a=[53.0, 52.0, 55.0])
    assert line.startswith(f"g, M mAP, a minus base: +2.3 [{low:+.1f}, {high:+.1f}], p 0.073 over 3 seeds: within")
    assert "paired t-test" in explanation


def test_marks_look_as_their_format_allows() -> None:
    place = Place({"R1": (50.0, 1.0), "mAP": (40.0, 1.0)}, 1, 1, {}, "", marks={"R1": "*", "mAP": "+≈"})
    table = Table("t", {"M": ("R1", "mAP")}, [Row("g", "a", {"M": place}, None, None)], [])
    assert "50.0* / 40.0+≈" in as_text(table)
    assert "**50.0** / <ins>40.0</ins>≈" in as_markdown(table)
    assert r"\textbf{50.0} / \underline{40.0}$^{\approx}$" in as_latex(table)


# Tables 3 and 4


def test_table_3_shows_ours_beside_all_that_the_paper_cites(store: Store) -> None:
    asked = request(store, "msinet", "osnet", datasets=("market1501", "msmt17"), whole=False)
    runs = {cell.experiment for cell in TABLE3.cells(asked, asked.datasets)}
    assert runs <= {cell.experiment for cell in TABLE2.cells(asked, asked.datasets)}  # nothing new to train
    publish(store, next(e for e in runs if (e.model, e.target) == ("msinet", "msmt17")), R1=0.5, mAP=0.25)
    table = build_table(TABLE3, asked)
    numbers = paper_numbers()
    assert [r.label for r in table.rows] == numbers[numbers["table"] == "T3"]["method"].unique().tolist()
    shown = place(table, "from scratch", "MSINet")
    assert (shown.values["mAP"][0], shown.paper["mAP"], shown.paper_marks["mAP"]) == (25.0, 59.6, "*")
    assert place(table, "from scratch", "SFT").paper_marks == {"mAP": "+"}  # 58.3 after 59.6
    assert any("not of one protocol" in note for note in table.notes)


def test_table_4_is_the_papers_alone_and_says_so(tmp_path: Path, capsys) -> None:
    assert main(["table", "table4", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "no part of this suite" in out
    assert "66.0* / 37.8*" in out
    assert "61.3+ / 33.5+ (c)" in out
    frame = pd.read_csv(tmp_path / "table4.csv")
    assert frame["mean"].isna().all()
    assert frame["paper"].notna().sum() == 2 * 17


# Which records count


@pytest.mark.parametrize("spread", ["one experiment", "two seeds", "two networks", "source of one, target of another"])
def test_two_versions_of_the_data_never_meet_in_a_table(store: Store, spread: str) -> None:
    asked = request(store, "msinet", "osnet", datasets=("msmt17", "market1501"), seeds=2)
    msinet, osnet, again, _ = experiments(asked)
    across = experiments(asked, column="MS>M")[0]
    other = {"one experiment": msinet, "two seeds": again, "two networks": osnet}.get(spread, across)
    publish(store, msinet)
    publish(store, other, data={"msmt17": "v2"})
    with pytest.raises(UserError, match=r"results on several versions of msmt17; pass --data-root"):
        build_table(TABLE2, asked)


def test_with_a_data_root_only_results_on_those_data_count(store: Store, data_root: Path) -> None:
    found = load_dataset("msmt17", data_root).fingerprint
    asked = request(store, seeds=2, data_root=data_root)
    first, second = experiments(asked)
    publish(store, first, R1=0.25, data={"msmt17": "v1"})
    publish(store, first, R1=0.5, data={"msmt17": found})
    publish(store, second, R1=0.75, data={"msmt17": "v1"})
    shown = place(build_table(TABLE2, asked), "from scratch", "MSINet")
    assert shown.values["R1"][0] == 50
    assert (shown.seeds, shown.planned) == (1, 2)


def test_records_of_an_earlier_results_version_do_not_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(store)
    publish(store, experiments(asked)[0])
    assert place(build_table(TABLE2, asked), "from scratch", "MSINet").values
    monkeypatch.setattr("ablations.experiment.RESULTS_VERSION", 2)
    assert not place(build_table(TABLE2, asked), "from scratch", "MSINet").values


def test_pretrained_results_are_those_of_the_weights_at_hand(store: Store, tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new", "unused", "empty")):
        (tmp_path / name).mkdir()
        if name != "empty":
            torch.save({"w": torch.tensor(number)}, tmp_path / name / "msinet.pth")
    (experiment,) = experiments(request(store), PRETEXT_GROUP)
    for metric, name, day in ((0.25, "old", 1), (0.75, "new", 2)):
        weights = file_hash(tmp_path / name / "msinet.pth")
        publish(store, experiment, R1=metric, weights=weights, finished=f"2024-01-0{day}T00:00:00+00:00")

    def shown(**settings: Any) -> dict[str, tuple[float, float]]:
        group = "pre-trained" if settings else PRETEXT_GROUP
        return place(build_table(TABLE2, request(store, **settings)), group, "MSINet").values

    assert shown()["R1"][0] == 75  # the newest, if nothing is said
    assert shown(pretrained=tmp_path / "old")["R1"][0] == 25
    assert shown(pretrained=tmp_path / "new")["R1"][0] == 75
    assert not shown(pretrained=tmp_path / "unused")
    assert not shown(pretrained=tmp_path / "empty")


# Notes


def test_notes_say_what_a_reader_must_know(store: Store) -> None:
    asked = request(store, datasets=("msmt17", "market1501", "veri776"), profile="full", seeds=2)
    publish(store, experiments(asked)[0])
    text = as_text(build_table(TABLE2, asked))
    for part in (
        "Profile full: images 256x128 and 256x256, batches 16x4, sgd lr 0.065, 120 epochs.",
        "Across data sets (A>B): 86 epochs, colour jitter instead of random erasing.",
        "2 seeds, mean ± sample standard deviation",
        "Last-epoch models",
        "msmt17 (Layout, fingerprint v1)",
        "Abacus 3000, torch 9.9",
        "(c) marks those it cites",
    ):
        assert part in text
    short = as_text(build_table(TABLE2, request(store, profile="mini", recipe=("lr=0.5", "optimizer=sgd"))))
    assert "Profile mini with lr=0.5 optimizer=sgd: images 64x32" in short
    assert "sgd lr 0.5" in short
    assert "1 seed, so nothing" in short


# Formats


@pytest.fixture
def filled(store: Store) -> Table:
    """A table with every kind of cell, and a label that LaTeX would trip over."""
    asked = request(store, "msinet", "colour_histogram", datasets=("msmt17", "market1501"), seeds=2)
    for number, experiment in enumerate(experiments(asked)[:3]):
        publish(store, experiment, R1=1 / 3 + number / 7, mAP=1 / 9)
    publish(store, experiments(asked, PRETEXT_GROUP, "MS>M")[0], R1=0.1, mAP=0.05, weights="w")
    return build_table(TABLE2, asked)


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


def test_markdown_is_rectangular(filled: Table) -> None:
    pipes = [one.count("|") for one in as_markdown(filled).splitlines() if one.startswith("|")]
    assert len(pipes) == len(filled.rows) + 2
    assert set(pipes) == {12}  # group, method, params, paper, GMACs and three pairs of columns
    # Table 5 of the paper has a bar in its names.
    row = Row("g", "MSINet|none", {"MS": Place({}, 0, 1, {}, "")}, None, None)
    bar = as_markdown(Table("t", {"MS": ("R1", "mAP")}, [row], []))
    assert len({one.count("|") for one in bar.splitlines() if one.startswith("|")}) == 1


def test_latex_is_well_formed(filled: Table) -> None:
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
        plain = re.sub(r"\\[_%&]", "", row)  # what is escaped is no trouble
        assert not re.search(r"[_%#^~<>±]", plain)
        assert plain.count("$") % 2 == 0
        assert plain.count("{") == plain.count("}")
    assert r"colour\_histogram" in "".join(rows)
    assert r"MS$\to$M" in rows[0]
    assert r"$\pm$" in "".join(rows)
    assert r"$\sim$24" in "".join(rows)


def test_csv_gives_the_same_numbers_back(filled: Table, tmp_path: Path) -> None:
    *_, path = write_table(filled, tmp_path / "deep" / "table")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(filled.rows) * 3 * 2
    back = {(r["group"], r["method"], r["column"], r["metric"]): r for r in rows}
    assert len(back) == len(rows)
    for row in filled.rows:
        for column, shown in row.places.items():
            for metric in ("R1", "mAP"):
                cell = back[row.group, row.label, column, metric]
                assert (cell["mean"] != "") == bool(shown.values)
                if shown.values:
                    mean, std = shown.values[metric]
                    assert float(cell["mean"]) == mean  # to the last bit
                    assert (float(cell["std"]) == std) if shown.seeds > 1 else cell["std"] == ""
                assert (int(cell["seeds"]), int(cell["planned"])) == (shown.seeds, shown.planned)
                assert cell["paper"] == str(shown.paper.get(metric, ""))
                assert cell["origin"] == shown.origin


def test_all_formats_show_the_same_cells(filled: Table) -> None:
    cells = {cell for one in as_markdown(filled).splitlines()[4:] if one[:1] == "|" for cell in one.split(" | ")[1:]}
    text = re.sub(r"[*+≈]", "", as_text(filled))
    assert all(re.sub(r"[*≈]|</?ins>", "", cell).rstrip(" |") in text for cell in cells)
    assert len(cells) > 20


def test_the_brief_table_has_the_rows_with_results_alone(filled: Table) -> None:
    short = brief(filled)
    assert [(row.group, row.label) for row in short.rows] == [
        ("from scratch", "MSINet"),
        ("from scratch", "colour_histogram"),
        (PRETEXT_GROUP, "MSINet"),
    ]
    assert not short.notes
    assert short.columns == filled.columns
    nothing = brief(Table("t", short.columns, [], []))
    assert as_text(nothing).startswith("t\n")


# The command


def test_the_command_writes_four_files(store: Store, tmp_path: Path, capsys) -> None:
    asked = request(store)
    publish(store, experiments(asked)[0], R1=0.123)
    words = ["table", "table2", "--store", str(store.root), "--models", "msinet"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    names = [f"table2-mini.{suffix}" for suffix in ("txt", "md", "tex", "csv")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert (tmp_path / "out" / "table2-mini.txt").read_text() in out
    assert all(str(tmp_path / "out" / name) in out for name in names)
    assert "12.3 / 50.0" in out
    assert main([*words, "--brief"]) == 0
    assert (store.root / "tables" / "table2-mini.csv").exists()
    out = capsys.readouterr().out
    assert "12.3 / 50.0" in out
    assert NOT_RUN not in out
    assert "written" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["table9"], "unknown table or figure 'table9'"),
        (["table2"], "holds no finished runs; run something or pass --data-root"),
        (["table2", "--datasets", "mars"], "unknown data set 'mars'"),
        (["table2", "--profile", "huge"], "unknown profile 'huge'"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_error(words: list[str], told: str, tmp_path: Path, capsys) -> None:
    assert main(["table", *words, "--store", str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(store: Store, tmp_path: Path, capsys) -> None:
    publish(store, experiments(request(store))[0])
    (tmp_path / "file").write_text("mine")
    assert main(["table", "table2", "--store", str(store.root), "--out", str(tmp_path / "file" / "x")]) == 2
    assert re.fullmatch(r"error: cannot write .*; check the path\n", capsys.readouterr().err)
