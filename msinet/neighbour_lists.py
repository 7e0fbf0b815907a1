"""Ranked lists of nearest images, without an evaluation protocol, as a picture, a CSV file and an HTML page."""

import base64
import html
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from msinet.data.decoding import decode
from msinet.data.own import lists_in, read_list
from msinet.data.sheets import Line, draw
from msinet.errors import DataError
from msinet.io import atomic_path, write_csv, write_text
from msinet.neighbours import Collection, image_files

#: Queries and columns of the picture; the CSV file and the page have all.
ROWS, COLUMNS = 40, 20
#: Height of an image in picture and page, in pixels.
HEIGHT = 128
#: Files in the folder of results.
PICTURE, TABLE, PAGE = "ranked.png", "ranked.csv", "ranked.html"
#: Queries that are ranked at a time.
AT_ONCE = 256


@dataclass(frozen=True)
class Label:
    """Identity and camera, as written in the list of images."""

    identity: str
    camera: str


@dataclass(frozen=True)
class Neighbour:
    """An image of a ranked list."""

    path: Path
    distance: float
    """Euclidean distance to the query between unit features, in [0, 2]"""
    label: Label | None


@dataclass(frozen=True)
class NeighbourList:
    """A query and its neighbours, the nearest first."""

    query: Path
    label: Label | None
    neighbours: tuple[Neighbour, ...]

    def lines(self) -> list[str]:
        """The list as text: rank, distance, path and, if known, identity."""
        return [
            f"{rank:>4}  {one.distance:.4f}  {one.path}" + (f"  {one.label.identity}" if one.label else "")
            for rank, one in enumerate(self.neighbours, 1)
        ]


def gallery_of(source: Path) -> tuple[list[Path], dict[Path, Label]]:
    """The images of a folder, or of a list with their labels.

    Raises:
        DataError: no such path, no images, or a list that cannot be used.
    """
    if source.suffix.lower() != ".csv" or not source.is_file():
        return image_files(source), {}
    (path,) = lists_in(source)
    dataset = read_list(path)
    images = (*dataset.train, *dataset.test)
    if not images:
        raise DataError(f"{source} lists no images; add lines, or pass a folder of images")
    labels = {image.path: Label(dataset.identity_name(image), dataset.camera_name(image)) for image in images}
    return list(labels), labels


def find(
    queries: Collection, gallery: Collection, k: int, labels: Mapping[Path, Label] | None = None
) -> list[NeighbourList]:
    """The k nearest gallery images of every query. A query that is also in the gallery is left out of its own list.

    Files are compared without symbolic links: a query and a gallery image may be one file with two paths.

    Args:
        queries: features of the queries.
        gallery: features of the gallery, by the same network.
        k: length of a list; shorter if the gallery has fewer images.
        labels: of gallery images, where known.
    """
    known = labels or {}
    real = {os.path.realpath(path): label for path, label in known.items()}
    lists = []
    for start in range(0, len(queries), AT_ONCE):
        features = queries.features[start : start + AT_ONCE]
        rows, distances = gallery.nearest(features, k + 1)
        for number, (row, far) in enumerate(zip(rows, distances, strict=True), start):
            query = queries.path(number)
            file = os.path.realpath(query)
            others = _others(gallery, row, far, file)
            if len(others) < k < len(gallery) - 1:  # several paths in the gallery lead to the query: rank all
                everything = gallery.nearest(features[number - start][None], len(gallery))
                others = _others(gallery, everything[0][0], everything[1][0], file)
            neighbours = (Neighbour(path, distance, known.get(path)) for path, distance in others[:k])
            lists.append(NeighbourList(query, real.get(file), tuple(neighbours)))
    return lists


def _others(
    gallery: Collection, rows: NDArray[np.int64], distances: NDArray[np.float64], file: str
) -> list[tuple[Path, float]]:
    """Path and distance of the images in some rows of a gallery, without those that are a file."""
    found = ((gallery.path(int(row)), float(d)) for row, d in zip(rows, distances, strict=True) if row >= 0)
    return [(path, distance) for path, distance in found if os.path.realpath(path) != file]


def write_lists(lists: Sequence[NeighbourList], folder: Path) -> list[Path]:
    """Write ranked.png, ranked.csv and ranked.html into a folder and return their paths."""
    picture, table, page = folder / PICTURE, folder / TABLE, folder / PAGE
    width = _width(lists)
    lines = [
        Line(
            _caption(one.label, "query"),
            ((one.query, one.query.name[:18]), *((n.path, f"{n.distance:.3f}") for n in one.neighbours[:COLUMNS])),
        )
        for one in lists[:ROWS]
    ]
    more = f" ({ROWS} of {len(lists)} queries)" if len(lists) > ROWS else ""
    sheet = draw(lines, f"query, then its nearest images with their distances{more}", HEIGHT, width)
    with atomic_path(picture) as temporary:
        sheet.save(temporary)
    write_csv(table, (row for one in lists for row in _rows(one)))
    write_text(page, _page(lists))
    return [picture, table, page]


def _width(lists: Sequence[NeighbourList]) -> int:
    """Width of the images in the picture, by the shape of the first query."""
    height, width = map(int, decode(lists[0].query).shape[:2])
    return min(2 * HEIGHT, max(HEIGHT // 2, math.ceil(HEIGHT * width / height)))


def _caption(label: Label | None, unknown: str) -> str:
    return label.identity[:14] if label else unknown


def _rows(one: NeighbourList) -> list[dict[str, str | int | float]]:
    return [
        {
            "query": str(one.query),
            "rank": rank,
            "image": str(found.path),
            "distance": found.distance,
            **({"identity": found.label.identity, "camera": found.label.camera} if found.label else {}),
        }
        for rank, found in enumerate(one.neighbours, 1)
    ]


STYLE = """body{font:14px system-ui,sans-serif;margin:1.5em;color:#222}section{margin-bottom:2em}
div{display:flex;flex-wrap:wrap;gap:8px}figure{margin:0;width:96px}img{height:128px;max-width:96px;object-fit:contain}
figcaption{font-size:11px;overflow-wrap:anywhere;color:#555}figure.query img{outline:3px solid #222}
figure.right img{outline:3px solid #1a7f37}figure.wrong img{outline:3px solid #c4320a}"""


def _page(lists: Sequence[NeighbourList]) -> str:
    """One self-contained HTML page: every query with its neighbours, their distances and paths."""
    thumbnails: dict[Path, str] = {}
    sections = []
    for one in lists:
        figures = [_figure(one.query, "query", one.query.name, thumbnails)]
        for rank, found in enumerate(one.neighbours, 1):
            labels = (one.label, found.label)
            kind = "" if not all(labels) else "right" if one.label.identity == found.label.identity else "wrong"  # type: ignore[union-attr]
            about = f"{rank}: {found.distance:.3f}" + (f", {found.label.identity}" if found.label else "")
            figures.append(_figure(found.path, kind, f"{about} {found.path.name}", thumbnails))
        sections.append(f"<section><h2>{html.escape(one.query.name)}</h2><div>{''.join(figures)}</div></section>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Nearest images</title><style>{STYLE}</style>'
        "<h1>Nearest images</h1><p>The query, then its nearest images: rank, Euclidean distance between unit features, "
        f"file.</p>{''.join(sections)}</html>\n"
    )


def _figure(path: Path, kind: str, caption: str, thumbnails: dict[Path, str]) -> str:
    if path not in thumbnails:
        image = PIL.Image.fromarray(decode(path))
        image.thumbnail((2 * HEIGHT, HEIGHT))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        thumbnails[path] = base64.b64encode(buffer.getvalue()).decode()
    source = f"data:image/jpeg;base64,{thumbnails[path]}"
    title = html.escape(str(path), quote=True)
    return (
        f'<figure class="{kind}" title="{title}"><img alt="{title}" src="{source}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
