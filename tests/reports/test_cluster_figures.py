"""Figures of clusters over epochs, from runs that were written by hand."""

from dataclasses import replace

import pandas as pd
import pytest

from ablations.engine.request import Request
from ablations.studies.table4 import START, TRANSFER
from reports.__main__ import main
from reports.layout import comparisons_of
from reports.results import Results
from reports.statistics import Variance
from reports.verdicts import judge

SETS = ("market1501", "msmt17")
WEIGHTS = "w"


@pytest.fixture
def asked(hand) -> Request:
    return hand.request("resnet50", "msinet", datasets=SETS, whole=False)


def fill(hand, tools, asked: Request, values: dict[str, float], by_seed: float = 0.0) -> None:
    """Finished runs of Table 4 with this mAP by method, R1 the same; clusters of three epochs.

    Trainings differ by `by_seed` from one seed to the next; starting weights are those of a file, for all seeds.
    """
    for cell in tools.cells_of("table4", asked):
        method = dict(cell.factors)["method"]
        value = values.get(method, 0.3) + (0 if method.startswith(START) else by_seed * cell.seed)
        files = {}
        if not method.startswith((START, TRANSFER)):
            rows = [
                {"epoch": i + 1, "steps": 2, "lr": 0.1, "loss": 1.0, "accuracy": 0.9, "clusters": 10 + i}
                | {"outliers": 30 - i, "nmi": 0.5 + i / 10, "ari": 0.1 + i / 10}
                for i in range(3)
            ]
            files = {"history.csv": rows}
        steps = 0 if method.startswith(START) else 6
        hand.publish(cell.experiment, files=files, weights=WEIGHTS, mAP=value, R1=value, steps=steps)


def test_the_figure_has_every_run_of_a_method_and_its_epochs(hand, tools, asked: Request, capsys) -> None:
    fill(hand, tools, asked, {})
    assert main(["clusters", "table4", *asked.as_args()]) == 0
    data = pd.read_csv(asked.store / "figures" / "table4-mini-clusters.csv")
    runs = data.groupby(["row", "column"])
    assert set(runs.groups) == {
        *(
            (f"{name}{backbone}", "M")
            for name in ("MMCL", "SpCL", "ClusterContrast", "GS", "HDCRL")
            for backbone in ("", "+MSINet")
        ),
        *((f"{name}{backbone}", "M>MS") for name in ("SpCL", "IDM", "MMT") for backbone in ("", "+MSINet")),
    }
    assert (runs.size() == 3).all()
    one = data[(data["row"] == "GS+MSINet")]
    assert one["clusters"].tolist() == [10, 11, 12]
    assert set(zip(one["method"], one["network"], strict=True)) == {("GS", "MSINet")}
    assert set(data.query("row == 'GS'")["network"]) == {"ResNet50"}
    assert one["ari"].tolist() == pytest.approx([0.1, 0.2, 0.3])  # shares, not per cent
    svg = (asked.store / "figures" / "table4-mini-clusters.svg").read_text(encoding="utf-8")
    assert svg.count("<path") > 40
    assert "clusters" in capsys.readouterr().out


def test_without_a_run_its_command_is_named(hand, tools, asked: Request, capsys) -> None:
    cells = tools.cells_of("table4", asked)
    hand.publish(cells[0].experiment, weights=WEIGHTS, steps=0)
    assert main(["clusters", *asked.as_args()]) == 2
    assert "no finished run with clusters of table4" in (err := capsys.readouterr().err)
    assert "python -m ablations run table4" in err


def test_the_table_shows_the_paper_s_methods_and_ours(hand, tools, asked: Request) -> None:
    fill(hand, tools, asked, {"GS+MSINet": 0.42})
    table = tools.table_of("table4", asked)
    labels = [table.label(row.factors) for row in table.rows]
    assert labels[:4] == [f"{name}{more}" for name in (START, TRANSFER) for more in ("", "+MSINet")] or set(labels) >= {
        START,
        f"{START}+MSINet",
        TRANSFER,
        f"{TRANSFER}+MSINet",
        "ClusterContrast",
        "MMT",
        "JVTC+",
        "CycAs",
    }
    row = next(row for row in table.rows if table.label(row.factors) == "GS+MSINet")
    (inside, across) = table.columns
    assert (inside.label, across.label) == ("M", "M>MS")
    assert row.cells[inside].mean("mAP") == pytest.approx(42)
    assert row.cells[inside].paper == {"R1": 91.7, "mAP": 81.5}
    assert row.cells[across].planned == 0
    rows = [one.factors for one in table.rows if one.cells[inside].planned]
    assert dict(table.baseline_of(row.factors, rows) or ())["method"] == f"{START}+MSINet"


def test_starting_weights_do_not_count_as_trainings_that_vary_little(hand, tools, asked: Request) -> None:
    asked = replace(asked, seeds=3)
    fill(hand, tools, asked, {}, by_seed=0.02)
    table, compared = tools.table_of("table4", asked), comparisons_of(Results(asked), "table4")
    (inside, _) = table.columns
    rows = {table.label(row.factors): row for row in table.rows if row.cells[inside].done}
    found = {label: compared.row(row, inside, "mAP").between for label, row in rows.items()}
    starts = [found.pop(f"{START}{more}") for more in ("", "+MSINet")]
    assert starts == [Variance(0, 4)] * 2
    assert list(found.values()) == [Variance(pytest.approx(4.0), 2 * len(found))] * len(found)
    effect = compared.effect(rows["GS"], rows[START], inside, "mAP")
    assert [one.value for one in effect.trainings] == pytest.approx([4 / 3, 0])
    assert not any(note.startswith("Unequal variances") for note in table.notes)


def test_the_claims_of_table_4_are_judged(hand, tools, asked: Request) -> None:
    values = {"HDCRL": 0.5, "HDCRL+MSINet": 0.6, "IDM": 0.5, "IDM+MSINet": 0.4, "GS": 0.5, "GS+MSINet": 0.45}
    fill(hand, tools, asked, values)
    found = {verdict.claim.key: verdict for verdict in judge(Results(asked))}
    expected = {
        "gs": ("GS - GS+MSINet, M R1: +5.0", "GS+MSINet - GS, M mAP: -5.0"),
        "hdcrl": ("HDCRL+MSINet - HDCRL, M R1: +10.0", "HDCRL+MSINet - HDCRL, M mAP: +10.0"),
        "idm": ("IDM+MSINet - IDM, M>MS R1: -10.0", "IDM+MSINet - IDM, M>MS mAP: -10.0"),
    }
    for key, beginnings in expected.items():
        texts = [outcome.text for outcome in found[key].outcomes]
        assert [text.startswith(start) for text, start in zip(texts, beginnings, strict=False)] == [True, True], texts
        assert found[key].reasons == ("single seed",)  # which decides nothing; but every claim has its runs
