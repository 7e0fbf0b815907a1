"""Shared by all figures: style, colours and markers, titles, image grids, and files."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from msinet.io import atomic_path, write_text
from msinet.models.registry import CARDS

#: Text as small as a paper's captions, no top and right frame, the same SVG from the same data.
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "figure.titlesize": 8.5,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "svg.hashsalt": "0",
}
#: Colours for every kind of colour vision (Okabe and Ito), each with a marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^vDP"
#: Pixels per inch of PNG files.
DPI = 200


def looks(networks: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each label.

    Networks have those of their cards in every figure; of several widths of a network, the first one has. Other labels
    take the free colours in order. Further labels repeat colours with other markers.

    Args:
        networks: card name by label; empty: the label is not a single network.
    """
    first = {name: label for label, name in reversed([*networks.items()]) if name and CARDS[name].colour}
    found = {label: (CARDS[name].colour, CARDS[name].marker or MARKERS[0]) for name, label in first.items()}
    taken = {colour for colour, _ in found.values()}
    free = [place for place, colour in enumerate(COLOURS) if colour not in taken] or list(range(len(COLOURS)))
    for number, label in enumerate(label for label in networks if label not in found):
        place, turn = free[number % len(free)], number // len(free)
        found[label] = COLOURS[place], MARKERS[(place + turn) % len(MARKERS)]
    return {label: found[label] for label in networks}


def finish_axes(axis: Axes, grid: str = "y") -> None:
    """Draw a grid behind the data."""
    axis.grid(axis=grid)  # type: ignore[arg-type]
    axis.set_axisbelow(True)


def title_lines(title: str, inches: float) -> list[str]:
    """The lines of a title in a figure of that width, about equally long: no line of a single word."""
    width = int(14.5 * inches)  # characters of this size to an inch
    lines: list[str] = []
    for part in title.splitlines():
        count, word = len(textwrap.wrap(part, width)), max(map(len, part.split()), default=1)
        widths = range(min(word, width), width + 1)  # words stay whole
        lines += next(found for w in widths if len(found := textwrap.wrap(part, w)) == count)
    return lines


def add_title(figure: Figure, title: str) -> None:
    """Add a title on the left, wrapped to the width; a figure with a layout engine grows by the extra lines."""
    lines = title_lines(title, figure.get_figwidth())
    if figure.get_layout_engine():
        figure.set_figheight(figure.get_figheight() + 0.16 * (len(lines) - 1))
    # A layout engine chooses the height unless one is given.
    top = {} if figure.get_layout_engine() else {"y": 1 - 0.06 / figure.get_figheight(), "va": "top"}
    figure.suptitle("\n".join(lines), x=0.01, ha="left", **top)


def add_legend(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Add a legend below the axes, with as many columns as fit into the figure's width.

    Args:
        figure: with a constrained layout.
        handles: line or marker by label.
    """
    for columns in range(len(handles), 0, -1):
        found = figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
        if found.get_window_extent().width <= 0.97 * figure.bbox.width:  # the image is cropped at its edges
            return
        if columns > 1:
            found.remove()


@dataclass(frozen=True)
class Margins:
    """Room around the images of a grid, in inches."""

    left: float
    top: float
    """for labels and a title of one line"""
    right: float = 0.05
    """0.3 or more leaves room for a colour bar"""
    below: float = 0.0
    """under every row, for captions"""


def image_grid(
    tall: int, wide: int, size: tuple[int, int], title: str, margins: Margins, side: float = 0.78
) -> tuple[Figure, list[list[Axes]], Axes]:
    """A figure of images of one size without gaps between them.

    Args:
        tall: number of rows.
        wide: images in a row.
        size: (height, width) of an image, of which only the ratio counts.
        title: title of the figure.
        margins: around the images.
        side: inches of an image's longer side.

    Returns:
        The figure, its axes by row, and axes for a colour bar.
    """
    gap = 0.05
    height, width = side * min(1, size[0] / size[1]), side * min(1, size[1] / size[0])
    across = margins.left + wide * (width + gap) + margins.right
    top = margins.top + 0.16 * (len(title_lines(title, across)) - 1)
    down = height + margins.below + gap
    whole = across, top + tall * down
    figure = plt.figure(figsize=whole)
    add_title(figure, title)

    def box(x: float, y: float, w: float, h: float) -> Axes:  # inches from the top left corner
        return figure.add_axes((x / whole[0], 1 - (y + h) / whole[1], w / whole[0], h / whole[1]))

    axes = [
        [box(margins.left + x * (width + gap), top + y * down, width, height) for x in range(wide)] for y in range(tall)
    ]
    for axis in (one for row in axes for one in row):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    bar = box(across - margins.right + 0.04, top, 0.09, whole[1] - top - gap - margins.below)
    bar.set_visible(margins.right >= 0.3)
    return figure, axes, bar


def write_figure(figure: Figure, data: pd.DataFrame, stem: Path) -> list[Path]:
    """Write STEM.png, .svg and the .csv with their data; returns the files. The pictures' metadata have the title."""
    about = {"Title": " ".join(figure.get_suptitle().split())}
    for suffix, metadata in ((".png", about), (".svg", about | {"Date": None})):
        with atomic_path(stem.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=DPI, metadata=metadata)
    plt.close(figure)
    write_text(stem.with_suffix(".csv"), data.to_csv(index=False, float_format="%.4g"))
    return [stem.with_suffix(suffix) for suffix in (".png", ".svg", ".csv")]
