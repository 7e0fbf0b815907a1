"""Curves from hand-written histories: what is drawn is what the runs hold."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from matplotlib.figure import Figure

from ablations.catalogue import Request
from ablations.store import Store
from ablations.table2 import TABLE2
from msinet.errors import UserError
from msinet.training.run import write_csv
from reports.__main__ import main
from reports.figures import curve_data, draw_curves, draw_rows


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    return Request(store=tmp_path / "results", datasets=("market1501",), models=("msinet",), seeds=2)


def fill(asked: Request, *, evaluated: bool = True) -> None:
    """Two epochs of 10 and 9 steps per run, evaluated after the second alone; the histogram has no history."""
    store = Store(asked.store)
    for cell in TABLE2.cells(asked, asked.datasets):
        experiment = cell.experiment
        if experiment.init == "pretrained":
            continue
        trained = cell.group != "no training"
        run_id = experiment.run_id({"market1501": "v1"}, None)
        folder = store.partial_folder(run_id)
        folder.mkdir(parents=True)
        last = {"mAP": 0.3 + experiment.seed / 10, "R1": 0.5} if evaluated else {}
        write_csv(
            folder / "history.csv", [{"epoch": 1, "steps": 10}, {"epoch": 2, "steps": 9, **last}] if trained else []
        )
        store.publish(run_id, experiment, {
            "mAP": 0.25, "R1": 0.4, "steps": 19 if trained else 0, "weights": None, "device": "cpu", "cpu": "Abacus",
            "torch": "9", "finished": "2024-01-01", "parameters_without_classifier": 1, "macs": 1,
            "source_fingerprint": "v1", "target_fingerprint": "v1", "target_layout": "Market-1501",
        })  # fmt: skip


def test_points_are_those_of_the_evaluated_epochs(asked: Request) -> None:
    fill(asked)
    data = curve_data(Store(asked.store), TABLE2, asked)
    points = {(r["model"], r["seed"], r["step"]): round(r["mAP"], 6) for _, r in data.iterrows()}
    assert points == {("colour histogram", 0, 0): 25.0, ("MSINet", 0, 19): 30.0, ("MSINet", 1, 19): 40.0}
    assert set(data["column"]) == {"M"}


def test_the_command_writes_picture_vector_and_data(asked: Request, tmp_path: Path, capsys: object) -> None:
    fill(asked)
    assert main(["curves", "table2", *asked.as_args(), "--out", str(tmp_path / "out")]) == 0
    stem = tmp_path / "out" / "table2-mini-curves"
    with PIL.Image.open(stem.with_suffix(".png")) as picture:
        assert np.asarray(picture.convert("L")).std() > 5  # something is drawn
    assert "<svg" in stem.with_suffix(".svg").read_text(encoding="utf-8")
    assert len(pd.read_csv(stem.with_suffix(".csv"))) == 3


def test_the_same_data_give_the_same_svg(asked: Request, tmp_path: Path) -> None:
    fill(asked)
    data = curve_data(Store(asked.store), TABLE2, asked)
    first, second = (draw_curves(data, "t", tmp_path / name)[1] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_runs_without_evaluations_have_no_curve(asked: Request) -> None:
    fill(asked, evaluated=False)
    with pytest.raises(UserError, match="--evaluate-every"):
        curve_data(Store(asked.store), TABLE2, asked)


def test_a_row_of_two_groups_has_a_mean_in_each(tmp_path: Path) -> None:
    # Averaged together, runs from scratch and pre-trained ones would show a level that neither has.
    data = pd.DataFrame([
        {"group": group, "row": row, "column": "VR", "seed": 0, "run_id": f"{group}{row}", "R1": level, "mAP": level}
        for group, level in (("from scratch", 20.0), ("pre-trained", 60.0)) for row in ("none", "pam")
    ])  # fmt: skip
    drawn: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "close", drawn.append)
        draw_rows(data, "title", "none", tmp_path / "figure")
    (figure,) = drawn
    bars = [line.get_xdata().tolist() for axis in figure.axes for line in axis.lines if line.get_marker() == "|"]
    assert bars == [[20.0, 20.0], [60.0, 60.0]]
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["VR, from scratch", "VR, pre-trained"]
    plt.close(figure)
