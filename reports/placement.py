"""Labels of points in a scatter plot, placed without overlaps inside the axes."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Box = tuple[float, float, float, float]  # left, bottom, right, top
#: Directions in which a label is tried, in this order, as multiples of its half width and height.
DIRECTIONS = ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, -1), (-1, 0))
#: Gaps between point and label that are tried, in label heights.
GAPS = (0.3, 0.7, 1.2, 2.0, 3.0, 4.5)
#: Largest number of boxes that the search for an arrangement without overlaps tries.
PATIENCE = 20_000


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def outside(box: Box, bounds: Box) -> float:
    """Area of a box that lies beyond the bounds."""
    return (box[2] - box[0]) * (box[3] - box[1]) - overlap(box, bounds)


def place_labels(
    points: Sequence[Box], sizes: Sequence[tuple[float, float]], bounds: Box, obstacles: Sequence[Box] = ()
) -> list[Box]:
    """One box for each label: near its point, without overlaps of points, labels and bounds if there is room.

    A depth-first search tries the directions around each point, near ones first. Without a solution each label in
    turn takes the box with the least overlap. The same input gives the same boxes.

    Args:
        points: boxes of the markers, in any unit.
        sizes: width and height of each label, in that unit.
        bounds: box of the axes.
        obstacles: further boxes to avoid.
    """
    tried = [
        [_label_box(point, size, direction, gap * size[1]) for gap in GAPS for direction in DIRECTIONS]
        for point, size in zip(points, sizes, strict=True)
    ]

    def cost(box: Box, placed: Sequence[Box]) -> float:
        return outside(box, bounds) + sum(overlap(box, other) for other in (*points, *obstacles, *placed))

    patience = iter(range(PATIENCE))

    def search(placed: list[Box]) -> list[Box] | None:
        if len(placed) == len(points):
            return placed
        for box in tried[len(placed)]:
            if next(patience, None) is None:
                return None
            if cost(box, placed) < 1e-9 and (found := search([*placed, box])) is not None:
                return found
        return None

    found = search([])
    if found is None:
        found = []
        for boxes in tried:
            found.append(min(boxes, key=lambda box: cost(box, found)))
    return found


def _label_box(point: Box, size: tuple[float, float], direction: tuple[int, int], gap: float) -> Box:
    """The box of a label in a direction from its point."""
    x, y = (point[0] + point[2]) / 2, (point[1] + point[3]) / 2
    away = gap / math.hypot(*direction)
    x += direction[0] * ((point[2] - point[0]) / 2 + away + size[0] / 2)
    y += direction[1] * ((point[3] - point[1]) / 2 + away + size[1] / 2)
    return x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2


def annotate(
    axis: Axes,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    *,
    areas: Sequence[float],
    line: tuple[Any, Any] = ((), ()),
    **style: Any,
) -> None:
    """Write a text at each point of finished axes, with a line to texts that are not next to their point.

    Texts of points that overlap have lines too.

    Call it last: limits, scales and layout of the figure must be final.

    Args:
        axis: with its points drawn and its limits set.
        x: data coordinates.
        y: data coordinates.
        texts: one for each point.
        areas: marker areas in points squared, as `scatter` takes them.
        line: x and y of a drawn line that texts avoid.
        style: text properties, such as fontsize.
    """
    figure = axis.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # of Agg, which draws every figure here
    centres = axis.transData.transform(np.column_stack([x, y]))
    radii = [math.sqrt(area) / 2 * figure.dpi / 72 for area in areas]
    points = [(cx - r, cy - r, cx + r, cy + r) for (cx, cy), r in zip(centres, radii, strict=True)]
    labels = [axis.text(a, b, text, ha="center", va="center", **style) for a, b, text in zip(x, y, texts, strict=True)]
    extents = [label.get_window_extent(renderer) for label in labels]
    frame = axis.get_window_extent(renderer)
    obstacles = _along(axis.transData.transform(np.column_stack(line))) if len(line[0]) > 1 else []
    sizes = [(e.width + 0.8 * e.height, 1.1 * e.height) for e in extents]  # with room around
    boxes = place_labels(points, sizes, (frame.x0, frame.y0, frame.x1, frame.y1), obstacles)
    for label, box, point in zip(labels, boxes, points, strict=True):
        centre = axis.transData.inverted().transform(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        label.set_position((float(centre[0]), float(centre[1])))
        middle = (point[0] + point[2]) / 2, (point[1] + point[3]) / 2
        nearest = min(max(middle[0], box[0]), box[2]), min(max(middle[1], box[1]), box[3])
        far = math.dist(nearest, middle) - (point[2] - point[0]) / 2 > 0.8 * (box[3] - box[1])
        if far or sum(overlap(point, other) > 0 for other in points) > 1:  # the point itself is one of them
            start, stop = axis.transData.inverted().transform([nearest, middle])
            axis.plot([start[0], stop[0]], [start[1], stop[1]], color="0.5", lw=0.7, zorder=1)


def _along(corners: np.ndarray) -> list[Box]:
    """Small boxes, two pixels apart, that cover a line through these points (N, 2)."""
    boxes = []
    for start, stop in pairwise(corners):
        for share in np.linspace(0, 1, 2 + int(math.dist(start, stop) / 2)):
            x, y = start + share * (stop - start)
            boxes.append((x - 1, y - 1, x + 1, y + 1))
    return boxes
