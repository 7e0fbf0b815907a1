"""Curves from hand-written histories: what is drawn is what the runs hold."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ablations.catalogue import Request
from ablations.index import CATALOGUES
from ablations.store import Store
from ablations.table2 import TABLE2
from msinet.errors import UserError
from msinet.training.run import write_csv
from reports.__main__ import main
from reports.figures import (
    NUMBERED,
    STYLE,
    by_group,
    curve_data,
    draw_curves,
    draw_levels,
    draw_rows,
    image_grid,
    looks,
    training_data,
)

#: What every epoch tells.
EPOCH = {"lr": 0.1, "loss": 2.0, "identity": 1.5, "triplet": 0.5, "accuracy": 0.25}


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
            folder / "history.csv",
            [EPOCH | {"epoch": 1, "steps": 10}, EPOCH | {"epoch": 2, "steps": 9, **last}] if trained else [],
        )
        store.publish(
            run_id,
            experiment,
            {
                "mAP": 0.25,
                "R1": 0.4,
                "steps": 19 if trained else 0,
                "weights": None,
                "device": "cpu",
                "cpu": "Abacus",
                "torch": "9",
                "finished": "2024-01-01",
                "parameters_without_classifier": 1,
                "macs": 1,
                "source_fingerprint": "v1",
                "target_fingerprint": "v1",
                "target_layout": "Market-1501",
            },
        )


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
    assert (tmp_path / "out" / "table2-mini-training.png").exists()


def test_the_same_data_give_the_same_svg(asked: Request, tmp_path: Path) -> None:
    fill(asked)
    data = curve_data(Store(asked.store), TABLE2, asked)
    first, second = (draw_curves(data, "t", tmp_path / name)[1] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_runs_without_evaluations_have_no_curve(asked: Request) -> None:
    fill(asked, evaluated=False)
    with pytest.raises(UserError, match="--evaluate-every"):
        curve_data(Store(asked.store), TABLE2, asked)


def test_training_curves_are_those_of_the_histories(asked: Request) -> None:
    fill(asked, evaluated=False)
    data = training_data(Store(asked.store), TABLE2, asked)
    assert data[["row", "seed", "epoch", "step"]].to_numpy().tolist() == [
        ["MSINet", 0, 1, 10],
        ["MSINet", 0, 2, 19],
        ["MSINet", 1, 1, 10],
        ["MSINet", 1, 2, 19],
    ]
    assert set(data["accuracy"]) == {25.0}
    assert set(data["loss"]) == {2.0}


def test_curves_without_evaluations_are_drawn_of_the_training(
    asked: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(asked, evaluated=False)
    assert main(["curves", "table2", *asked.as_args()]) == 0
    assert "--evaluate-every" in capsys.readouterr().out
    assert (asked.store / "figures" / "table2-mini-training.svg").exists()
    assert not (asked.store / "figures" / "table2-mini-curves.svg").exists()


def test_without_runs_the_command_that_makes_them_is_named(asked: Request, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", "table2", *asked.as_args()]) == 2
    assert f"python -m ablations run table2 {' '.join(asked.as_args())}" in capsys.readouterr().err


def drawn_by(draw: Callable[[], object]) -> Figure:
    """The figure that a function draws, before it is closed."""
    drawn: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "close", drawn.append)
        draw()
    (figure,) = drawn
    plt.close(figure)
    return figure


def runs(rows: dict[str, tuple[float, ...]], group: str = "from scratch", column: str = "VR") -> pd.DataFrame:
    """What `row_data` gives for rows with these values by seed."""
    return pd.DataFrame(
        [
            {
                "group": group,
                "row": row,
                "column": column,
                "seed": seed,
                "run_id": f"{group}{row}{seed}",
                "metric": "mAP",
                "R1": value,
                "mAP": value,
                "parameters": 2e6,
                "macs": 1e9,
            }
            for row, values in rows.items()
            for seed, value in enumerate(values)
        ]
    )


def test_a_row_of_two_groups_has_a_mean_in_each(tmp_path: Path) -> None:
    # Averaged together, runs from scratch and pre-trained ones would show a level that neither has.
    data = pd.concat(
        [
            runs({"none": (19.0, 21.0), "pam": (18.0, 22.0)}),
            runs({"none": (59.0, 61.0), "pam": (60.0, 60.0)}, group="pre-trained"),
        ]
    )
    figure = drawn_by(lambda: draw_rows(data, "title", "none", tmp_path / "figure"))
    bars = [line.get_xdata().tolist() for axis in figure.axes for line in axis.lines if line.get_marker() == "|"]
    assert bars == [[20.0, 20.0], [60.0, 60.0]]
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["VR, from scratch", "VR, pre-trained"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["20.0", "20.0"]


def test_rows_are_compared_with_the_baseline_of_their_own_network(tmp_path: Path) -> None:
    data = runs({"A|none": (20.0,), "A|pam": (22.0,), "B|none": (40.0,), "B|pam": (37.0,)})
    figure = drawn_by(lambda: draw_rows(data, "title", "A|none", tmp_path / "figure"))
    (lines,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    spans = [(segment[0][0], segment[1][0]) for segment in lines.get_segments()]
    assert spans == [(20, 20), (20, 22), (40, 40), (40, 37)]


def test_levels_are_drawn_against_their_number(tmp_path: Path) -> None:
    data = runs({"CE, overlap 1": (30.0, 32.0), "TCM, overlap 1": (40.0, 42.0), "TCM, overlap 0.2": (35.0, 39.0)})
    figure = drawn_by(lambda: draw_levels(data, "title", NUMBERED["figure5a"], tmp_path / "figure"))
    (axis,) = figure.axes
    mean, dots, level = axis.lines
    assert mean.get_xydata().tolist() == [[0.2, 37.0], [1.0, 41.0]]
    assert sorted(map(tuple, dots.get_xydata())) == [(0.2, 35.0), (0.2, 39.0), (1.0, 40.0), (1.0, 42.0)]
    assert list(level.get_ydata()) == [31.0, 31.0]
    # The size of the network stands beside where it changes.
    ratios = runs({"1:1": (60.0,), "3:1": (50.0,)})
    figure = drawn_by(lambda: draw_levels(ratios, "title", NUMBERED["figure5d"], tmp_path / "figure"))
    assert [axis.get_ylabel() for axis in figure.axes] == ["mAP on VR, %", "parameters, M", "multiply-adds, $10^9$"]
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[1.0, 2.0], [3.0, 2.0]]


@pytest.mark.parametrize("name", sorted(NUMBERED))
def test_the_rows_of_a_numbered_figure_are_recognised(name: str) -> None:
    asked = Request(whole=True)
    rows = {cell.row for cell in CATALOGUES[name].cells(asked, ("market1501", "msmt17", "veri776", "vehicleid"))}
    levels = [row for row in rows if NUMBERED[name].pattern.fullmatch(row)]
    assert len(levels) >= 4
    assert rows - set(levels) <= {"CE, overlap 1"}


def test_a_network_looks_the_same_in_every_figure() -> None:
    first, second = looks(["MSINet", "OSNet", "something", "colour histogram"]), looks(["other", "MSINet x0.25"])
    assert second["MSINet x0.25"] == first["MSINet"]
    assert len(set(first.values())) == 4
    many = looks(f"row {number}" for number in range(12))
    assert len(set(many.values())) == 12


def test_titles_fit_their_figure(tmp_path: Path) -> None:
    data = runs({"weight 0": (20.0,), "weight 2": (22.0,)})
    title = "Figure 5e: a title that is much longer than a narrow figure is wide, " * 2
    figure = drawn_by(lambda: draw_levels(data, title, NUMBERED["figure5e"], tmp_path / "figure"))
    assert figure._suptitle is not None
    box = figure._suptitle.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


def test_groups_of_initial_weights_have_a_figure_each(tmp_path: Path) -> None:
    data = pd.DataFrame({"group": ["no training", "from scratch", "pre-trained on x"], "value": [0, 1, 2]})
    found = [(group, part["value"].tolist(), stem.name) for group, part, stem in by_group(data, tmp_path / "a")]
    assert found == [("from scratch", [0, 1], "a-from-scratch"), ("pre-trained on x", [0, 2], "a-pre-trained-on-x")]
    found = [(group, part["value"].tolist(), stem.name) for group, part, stem in by_group(data[:2], tmp_path / "a")]
    assert found == [("from scratch", [0, 1], "a")]
    assert [group for group, _, _ in by_group(data[:1], tmp_path / "a")] == ["no training"]


def test_a_long_title_of_an_image_grid_pushes_the_images_down() -> None:
    with mpl.rc_context(STYLE):
        for title in ("short", "a title of several lines " * 12):
            figure, axes, _ = image_grid(2, 3, (64, 32), title, left=0.5, top=0.3)
            figure.canvas.draw()
            heading = figure._suptitle  # type: ignore[attr-defined]
            assert max(axis.get_window_extent().y1 for axis in axes[0]) < heading.get_window_extent().y0
            plt.close(figure)
