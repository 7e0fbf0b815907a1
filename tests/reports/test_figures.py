"""Figures from hand-written runs and histories: what is drawn is what the runs hold."""

import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ablations.engine.request import Request
from ablations.engine.study import Study
from ablations.studies import STUDIES, find_study
from reports.__main__ import main
from reports.curves import by_group, curve_data, draw_curves
from reports.drawing import STYLE, Margins, image_grid, looks, title_lines
from reports.figures import AXES, draw_levels, draw_rows, run_data
from reports.results import Results
from reports.tables import Row, Table

#: What a history holds of each epoch.
EPOCH = {"lr": 0.1, "loss": 2.0, "identity": 1.5, "triplet": 0.5, "accuracy": 0.25}


@pytest.fixture
def fill(hand, tools) -> Callable[..., Request]:
    """Two epochs of 10 and 9 steps per run, evaluated after the second alone; the histogram has no history."""

    def filled(*, evaluated: bool = True, histogram: bool = True) -> Request:
        asked = hand.request(datasets=("market1501",), seeds=2, whole=False)
        for cell in tools.cells_of("table2", asked):
            if cell.group == "untrained" and not histogram:
                continue
            last = {"mAP": 0.3 + cell.seed / 10, "R1": 0.5} if evaluated else {}
            epochs = [EPOCH | {"epoch": 1, "steps": 10}, EPOCH | {"epoch": 2, "steps": 9, **last}]
            trained = cell.group != "untrained"
            files = {"history.csv": epochs if trained else []}
            hand.publish(cell.experiment, files=files, mAP=0.25, R1=0.4, steps=19 if trained else 0)
        return asked

    return filled


@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=20), st.floats(0.7, 5))
def test_lines_of_a_title_fit_and_are_as_few_and_as_even_as_can_be(words: list[str], inches: float) -> None:
    width = int(14.5 * inches)
    lines = title_lines(" ".join(words), inches)
    assert " ".join(lines).split() == words
    assert max(map(len, lines)) <= width
    assert len(lines) == len(textwrap.wrap(" ".join(words), width))
    longest = max(map(len, lines))
    whole = longest > max(map(len, words))
    assert not whole or len(textwrap.wrap(" ".join(words), longest - 1)) > len(lines)


def test_points_are_those_of_the_histories(fill) -> None:
    data = curve_data(Results(fill()), "table2")
    evaluated = data.dropna(subset="mAP")
    points = {(r["row"], r["seed"], r["step"]): round(r["mAP"], 6) for _, r in evaluated.iterrows()}
    bounds = ("colour histogram", "oracle of colours", "oracle of colours, types and patterns")
    levels = {(label, 0, 0): 25.0 for label in bounds}
    assert points == {**levels, ("MSINet", 0, 19): 30.0, ("MSINet", 1, 19): 40.0}
    assert set(data["column"]) == {"M"}
    trained = data[data["epoch"] > 0]
    assert trained[["row", "seed", "epoch", "step"]].to_numpy().tolist() == [
        ["MSINet", seed, epoch, step] for seed in (0, 1) for epoch, step in ((1, 10), (2, 19))
    ]
    assert set(trained["accuracy"]) == {25.0}
    assert set(trained["loss"]) == {2.0}


def test_the_command_writes_picture_vector_and_data(fill, tmp_path: Path) -> None:
    assert main(["curves", "table2", *fill().as_args(), "--out", str(tmp_path / "out")]) == 0
    stem = tmp_path / "out" / "table2-mini-curves"
    with PIL.Image.open(stem.with_suffix(".png")) as picture:
        assert np.asarray(picture.convert("L")).std() > 5  # something is drawn
    assert "<svg" in stem.with_suffix(".svg").read_text(encoding="utf-8")
    assert len(pd.read_csv(stem.with_suffix(".csv"))) == 3 + 2
    assert (tmp_path / "out" / "table2-mini-training.png").exists()


def test_the_same_data_give_the_same_svg(fill, tmp_path: Path) -> None:
    data = curve_data(Results(fill()), "table2")
    first, second = (draw_curves(data, "t", tmp_path / name)[1] for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("histogram", [True, False])
def test_runs_without_evaluations_have_training_curves_alone(
    fill, histogram: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = fill(evaluated=False, histogram=histogram)
    assert main(["curves", "table2", *asked.as_args()]) == 0
    assert "--evaluate-every" in capsys.readouterr().out
    assert (asked.store / "figures" / "table2-mini-training.svg").exists()
    assert not (asked.store / "figures" / "table2-mini-curves.svg").exists()


def test_without_trainings_the_command_that_makes_them_is_named(
    hand, tools, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = hand.request(datasets=("market1501",))
    hand.publish(tools.cells_of("table2", asked, "untrained")[0].experiment, steps=0)
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


def table(*names: str, baseline: tuple = (), axis: str = "") -> Table:
    """A table without rows, of a study whose labels are its factors."""
    label = ", ".join(f"{{{name}}}" for name in names)
    study = Study("s", "T", "", "", "", lambda *_: [], lambda row: label.format(**row), baseline, axis)
    return Table("T", (), (), study)


def runs(of: Table, rows: dict[tuple, tuple[float, ...]], group: str = "from scratch", **more: object) -> pd.DataFrame:
    """What `run_data` gives for rows with these values by seed."""
    return pd.DataFrame(
        [
            {
                "group": group,
                "factors": factors,
                "row": of.label(factors),
                "column": "VR",
                "seed": seed,
                "run_id": f"{group}{factors}{seed}",
                "metric": "mAP",
                "R1": value,
                "mAP": value,
                "parameters": 2e6,
                "macs": 1e9,
                "low": np.nan,
                "high": np.nan,
                "scope": "",
            }
            | more
            for factors, values in rows.items()
            for seed, value in enumerate(values)
        ]
    )


def test_a_row_of_two_groups_has_a_mean_in_each(tmp_path: Path) -> None:
    # Averaged together, runs from scratch and pre-trained ones would show a level that neither has.
    none, pam = (("alignment", "none"),), (("alignment", "pam"),)
    of = table("alignment", baseline=none)
    data = pd.concat(
        [
            runs(of, {none: (19.0, 21.0), pam: (18.0, 22.0)}),
            runs(of, {none: (59.0, 61.0), pam: (60.0, 60.0)}, group="pre-trained"),
        ]
    )
    figure = drawn_by(lambda: draw_rows(data, of, "title", tmp_path / "figure"))
    bars = [line.get_xdata().tolist() for axis in figure.axes for line in axis.lines if line.get_marker() == "|"]
    assert bars == [[20.0, 20.0], [60.0, 60.0]]
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["VR, from scratch", "VR, pre-trained"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["20.0", "20.0"]


def test_rows_are_compared_with_the_baseline_of_their_own_network(tmp_path: Path) -> None:
    of = table("network", "alignment", baseline=(("alignment", "none"),))
    values = {"A none": 20.0, "A pam": 22.0, "B none": 40.0, "B pam": 37.0}
    rows = {tuple(zip(("network", "alignment"), key.split(), strict=True)): (v,) for key, v in values.items()}
    figure = drawn_by(lambda: draw_rows(runs(of, rows), of, "title", tmp_path / "figure"))
    lines = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    spans = [(segment[0][0], segment[1][0]) for line in lines for segment in line.get_segments()]
    assert spans == [(20, 20), (20, 22), (40, 40), (40, 37)]


def test_error_bars_are_intervals_of_the_difference_to_the_baseline(tools, tmp_path: Path) -> None:
    cells = {"base": tools.hand_cell([20.0, 21.0]), "a": tools.hand_cell([22.0, 25.0])}
    cells = {
        label: replace(cell, runs=cell.runs.assign(factors=[(("row", label),)] * 2)) for label, cell in cells.items()
    }
    of = tools.hand_table(cells, baseline="base")
    compared = tools.hand_comparisons(of)
    data = run_data(of, compared)
    low, high = compared.effect(of.rows[1], of.rows[0], of.columns[0], "mAP").interval
    found = data[data["row"] == "a"][["low", "high"]].drop_duplicates().to_numpy()
    assert found.tolist() == [pytest.approx([20.5 + low, 20.5 + high])]
    assert data.loc[data["row"] == "base", "low"].isna().all()
    assert set(data["scope"]) == {"", "new trainings and test identities"}
    figure = drawn_by(lambda: draw_rows(data, of, "title", tmp_path / "figure"))
    ends = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_marker() == "|"]
    assert [20.5 + low] in [pytest.approx(end) for end in ends]
    assert "interval of the difference" in figure._supxlabel.get_text()  # type: ignore[union-attr]


def test_levels_are_drawn_against_their_number(tmp_path: Path) -> None:
    of = table("mechanism", "overlap", axis="overlap")
    values = {("ce", 1.0): (30.0, 32.0), ("tcm", 1.0): (40.0, 42.0), ("tcm", 0.2): (35.0, 39.0)}
    rows = {(("mechanism", name), ("overlap", level)): found for (name, level), found in values.items()}
    figure = drawn_by(lambda: draw_levels(runs(of, rows), of, "title", tmp_path / "figure"))
    (axis,) = figure.axes
    mean, dots, level = axis.lines
    assert mean.get_xydata().tolist() == [[0.2, 37.0], [1.0, 41.0]]
    assert sorted(map(tuple, dots.get_xydata())) == [(0.2, 35.0), (0.2, 39.0), (1.0, 40.0), (1.0, 42.0)]
    assert list(level.get_ydata()) == [31.0, 31.0]
    # A single level of several that are planned is a point, not a level line.
    of = replace(of, rows=[Row("searched", factors, {}) for factors in rows])
    figure = drawn_by(lambda: draw_levels(runs(of, dict(list(rows.items())[1:2])), of, "title", tmp_path / "figure"))
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[1.0, 40.0], [1.0, 42.0]]
    # The size of the network is shown where the factor changes it.
    of = table("ratio", axis="ratio")
    data = runs(of, {(("ratio", 1),): (60.0,), (("ratio", 3),): (50.0,)})
    figure = drawn_by(lambda: draw_levels(data, of, "title", tmp_path / "figure"))
    assert [axis.get_ylabel() for axis in figure.axes] == ["mAP on VR, %", "parameters, M", "multiply-adds, $10^9$"]
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[1.0, 2.0], [3.0, 2.0]]


def test_every_axis_of_a_study_is_known_and_has_levels() -> None:
    axes = {study.name: study.axis for study in STUDIES.values() if study.axis}
    assert set(axes.values()) == set(AXES)
    for name, axis in axes.items():
        cells = find_study(name).cells(Request(whole=True), ("market1501", "msmt17", "veri776", "vehicleid"))
        assert len({dict(cell.factors)[axis] for cell in cells}) >= 4


def test_a_network_looks_the_same_in_every_figure() -> None:
    first = looks({"MSINet": "msinet", "OSNet": "osnet", "something": "", "colour histogram": "colour_histogram"})
    second = looks({"other": "", "MSINet x0.25": "msinet"})
    widths = looks({"MSINet": "msinet", "MSINet x0.5": "msinet", "other": ""})
    assert widths["MSINet"] == first["MSINet"]
    assert len(set(widths.values())) == 3
    assert second["MSINet x0.25"] == first["MSINet"]
    assert len(set(first.values())) == 4
    assert list(first) == ["MSINet", "OSNet", "something", "colour histogram"]
    many = looks({f"row {number}": "" for number in range(12)})
    assert len(set(many.values())) == 12


def test_titles_fit_their_figure(tmp_path: Path) -> None:
    of = table("weight", axis="weight")
    data = runs(of, {(("weight", 0.0),): (20.0,), (("weight", 2.0),): (22.0,)})
    title = "Figure 5e: a title that is much longer than a narrow figure is wide, " * 2
    figure = drawn_by(lambda: draw_levels(data, of, title, tmp_path / "figure"))
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
            figure, axes, _ = image_grid(2, 3, (64, 32), title, Margins(left=0.5, top=0.3))
            figure.canvas.draw()
            heading = figure._suptitle  # type: ignore[attr-defined]
            assert max(axis.get_window_extent().y1 for axis in axes[0]) < heading.get_window_extent().y0
            plt.close(figure)
