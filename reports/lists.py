"""Figure 6: ranked lists with distances; right and wrong images have different frames."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from msinet.data import Dataset
from msinet.data.decoding import decode
from reports.drawing import COLOURS, STYLE, Margins, image_grid, write_figure
from reports.ranked import RankedList

#: Colour, line and mark of a frame; right and wrong differ without colours too.
RIGHT, WRONG = (COLOURS[2], "-", "\N{CHECK MARK}"), (COLOURS[1], (0, (2, 1.2)), "\N{MULTIPLICATION X}")


def as_frame(lists: Mapping[str, Sequence[RankedList]], dataset: Dataset) -> pd.DataFrame:
    """One row per network, query and rank: network, query, ap, rank, gallery (paths), distance and right."""

    def name(path: Path) -> str:
        return path.relative_to(dataset.root).as_posix()

    return pd.DataFrame(
        [
            {
                "network": network,
                "query": name(one.query.path),
                "ap": one.ap,
                "rank": rank,
                "gallery": name(image.path),
                "distance": distance,
                "right": right,
            }
            for network, found in lists.items()
            for one in found
            for rank, (image, distance, right) in enumerate(zip(one.gallery, one.distances, one.right, strict=True), 1)
        ]
    )


def draw_lists(
    lists: Mapping[str, Sequence[RankedList]], dataset: Dataset, size: tuple[int, int], title: str, stem: Path
) -> list[Path]:
    """Each query with a row per network: the query, then the gallery images from near to far, with distances below.

    Right images have a solid green frame and a check mark, wrong ones a dashed red frame and a cross. Images of the
    query's identity and camera are left out of its list, as in the ranking.

    Args:
        lists: by network, all of the same queries.
        dataset: the data set of the queries.
        size: (height, width) of the shown images.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    rows = [pair for place in zip(*lists.values(), strict=True) for pair in zip(lists, place, strict=True)]
    longest = max(len(one.gallery) for _, one in rows)
    with mpl.rc_context(STYLE):
        figure, axes, _ = image_grid(
            len(rows), 1 + longest, size, title, Margins(left=0.95, top=0.42, below=0.17), side=0.56
        )
        for line, (network, one) in zip(axes, rows, strict=True):
            first = network == next(iter(lists))
            if first:
                _show(line[0], decode(one.query.path, *size), "query")
            else:
                line[0].set_visible(False)
            position = line[0].get_position()
            label = f"{network}\nAP {one.ap:.0f} %"
            figure.text(0.06 / figure.get_figwidth(), (position.y0 + position.y1) / 2, label, va="center", fontsize=7.5)
            for axis, image, distance, right in zip(line[1:], one.gallery, one.distances, one.right, strict=False):
                colour, style, mark = RIGHT if right else WRONG
                _show(axis, decode(image.path, *size), f"{distance:.2f} {mark}", colour)
                axis.add_patch(
                    Rectangle(
                        (0, 0), 1, 1, transform=axis.transAxes, fill=False, ec=colour, lw=2, ls=style, clip_on=False
                    )
                )
            for axis in line[1 + len(one.gallery) :]:
                axis.set_visible(False)
        for rank, axis in enumerate(axes[0][1:], 1):
            axis.set_title(str(rank), loc="center", fontsize=7, pad=3)
        return write_figure(figure, as_frame(lists, dataset), stem)


def _show(axis: Axes, pixels: NDArray[np.uint8], caption: str, colour: str = "black") -> None:
    axis.imshow(pixels, interpolation="nearest")
    axis.set_xlabel(caption, fontsize=6.5, labelpad=2.5, color=colour)
