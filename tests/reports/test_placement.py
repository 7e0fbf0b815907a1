"""Labels of points: apart from each other, from the points and from the edges."""

import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.placement import annotate, overlap, place_labels

BOUNDS = (0.0, 0.0, 400.0, 300.0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300)), min_size=1, max_size=6),
    st.lists(st.integers(20, 90), min_size=6, max_size=6),
)
def test_labels_lie_clear_of_everything(places: list[tuple[int, int]], widths: list[int]) -> None:
    points = [(x - 3.0, y - 3.0, x + 3.0, y + 3.0) for x, y in places]
    sizes = [(float(width), 10.0) for width in widths[: len(points)]]
    boxes = place_labels(points, sizes, BOUNDS)
    assert boxes == place_labels(points, sizes, BOUNDS)
    for (width, height), (x0, y0, x1, y1) in zip(sizes, boxes, strict=True):
        assert (x1 - x0, y1 - y0) == pytest.approx((width, height))
        assert BOUNDS[0] <= x0 + 1e-6
        assert x1 <= BOUNDS[2] + 1e-6
        assert BOUNDS[1] <= y0 + 1e-6
        assert y1 <= BOUNDS[3] + 1e-6
    for a, b in [*itertools.combinations(boxes, 2), *itertools.product(boxes, points)]:
        # two intervals that share more than an edge in both directions overlap
        assert min(a[2], b[2]) - max(a[0], b[0]) <= 1e-6 or min(a[3], b[3]) - max(a[1], b[1]) <= 1e-6


def test_a_label_keeps_off_obstacles_and_stays_near() -> None:
    point = (100.0, 100.0, 104.0, 104.0)
    (free,) = place_labels([point], [(30.0, 10.0)], BOUNDS)
    assert free[0] > point[2]  # on the right, where a reader looks first
    assert free[0] - point[2] < 10
    (moved,) = place_labels([point], [(30.0, 10.0)], BOUNDS, obstacles=[free])
    assert overlap(moved, free) == 0


def test_without_room_the_labels_are_all_there() -> None:
    points = [(1.0, 1.0, 3.0, 3.0)] * 5
    assert len(place_labels(points, [(50.0, 10.0)] * 5, (0.0, 0.0, 20.0, 20.0))) == 5


def test_texts_of_a_drawn_figure_are_apart() -> None:
    with mpl.rc_context({"figure.dpi": 100}):
        figure, axis = plt.subplots(figsize=(3, 2), layout="constrained")
        x, y = [16.4, 18.7, 17.3, 43.1], [38.0, 37.9, 49.1, 41.9]
        axis.scatter(x, y)
        axis.set(xlim=(0, 50), ylim=(35, 51))
        annotate(
            axis,
            x,
            y,
            ["CDNet, 1.8 M", "MSINet, 2.0 M", "OSNet, 2.2 M", "ResNet50, 23.5 M"],
            areas=[36.0] * 4,
            line=([16.4, 17.3], [38.0, 49.1]),
        )
        figure.canvas.draw()
        frame = axis.get_window_extent()
        boxes = [text.get_window_extent() for text in axis.texts]
        plt.close(figure)
    assert len(boxes) == 4
    for box in boxes:
        assert np.all(box.min >= frame.min - 1)
        assert np.all(box.max <= frame.max + 1)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
