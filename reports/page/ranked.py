"""Ranked lists of the report: gallery images of the networks of Table 2 for the same queries, with thumbnails."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image

from ablations.engine.study import group_label
from msinet.data import Dataset, Image
from msinet.data.decoding import decode
from msinet.errors import UserError
from msinet.progress import bar
from msinet.training.options import RankingOptions
from reports.page.report import Data, Missing, Part, Report, jpeg
from reports.results import run_command
from reports.tables import Column, Row, Table, random_weights

if TYPE_CHECKING:
    from reports.ranked import RankedList

#: Length of the ranked lists.
TOP = 15
#: Largest height and width of thumbnails, in pixels.
THUMBNAIL = 96


class Thumbnails:
    """Small copies of images, each made once."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self.places: dict[Path, int] = {}

    def place(self, path: Path) -> int:
        """Position of a file's copy among `uris`; made at the first call.

        Raises:
            DataError: the image cannot be decoded.
        """
        if path not in self.places:
            image = PIL.Image.fromarray(decode(path))
            image.thumbnail((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.LANCZOS)
            self.places[path] = len(self.uris)
            self.uris.append(jpeg(image, 85))
        return self.places[path]


def ranked(report: Report) -> Part:
    """The section of ranked lists."""
    thumbnails = Thumbnails()
    sets: list[Data] = []
    missing: list[Missing] = []
    table = report.table("table2")
    if report.results.is_reference:
        pass
    elif table is None or not table.done:
        missing.append(Missing("ranked lists", "no trained network", run_command("table2", report.request)))
    else:
        for column in bar(iterable=table.columns, desc="ranked lists"):
            rows = [row for row in table.rows if row.cells[column].done and not random_weights(row)]
            if rows:
                found, gaps = column_lists(report, table, rows, column, thumbnails)
                sets += found
                missing += gaps
    lists = {"thumbnails": thumbnails.uris, "sets": sets}
    return Part({"ranked": lists, "top": TOP, "thumbnail": THUMBNAIL}, tuple(missing))


def column_lists(
    report: Report, table: Table, rows: Sequence[Row], column: Column, thumbnails: Thumbnails
) -> tuple[list[Data], list[Missing]]:
    """Lists of a column's rows, by the first run of each."""
    from reports.ranked import ranked_lists, spread_queries  # imports torch, which reference results do not need

    try:
        dataset = report.results.dataset(column.test)
    except UserError as error:
        command = run_command("table2", report.request)
        return [], [Missing(f"ranked lists on {column.label}", str(error), command)]
    chosen = spread_queries(dataset, report.queries)
    networks, missing = [], []
    for row in rows:
        run, name = row.cells[column].runs.iloc[0], table.label(row.factors)
        try:
            lists = ranked_lists(report.results, run["run_id"], dataset, chosen, TOP, report.run_options)
        except UserError as error:
            missing.append(Missing(f"ranked lists of {name} on {column.label}", str(error)))
            continue
        about = {"name": name, "group": group_label(row.group), "run": run["run_id"], "mAP": run["mAP"]}
        networks.append(about | {"lists": [_list(one, dataset, thumbnails) for one in lists]})
    if not networks:
        return [], missing
    name = column.label.replace(">", " → ")
    found = {"name": name, "about": about_lists(dataset, column.train), "networks": networks}
    return [found | _queries(dataset, chosen, thumbnails)], missing


def _queries(dataset: Dataset, chosen: Sequence[int], thumbnails: Thumbnails) -> Data:
    """Thumbnail, labels and file name of each query."""
    images = [dataset.test[dataset.draws[0].query[position]] for position in chosen]
    return {"queries": [[thumbnails.place(i.path), *_labels(i, dataset), i.path.name] for i in images]}


def browser(weights: Sequence[Path], dataset: Dataset, queries: int, run_options: RankingOptions) -> Data:
    """Template values of the page for given weights."""
    from reports.given import given_lists
    from reports.ranked import spread_queries

    chosen, thumbnails = spread_queries(dataset, queries), Thumbnails()
    networks = [
        {
            "name": one.label,
            "group": one.network,
            "run": "",
            "mAP": one.mean_ap,
            "lists": [_list(ranked_list, dataset, thumbnails) for ranked_list in one.lists],
        }
        for one in given_lists(weights, dataset, chosen, TOP, run_options)
    ]
    found = {"name": dataset.name, "about": about_lists(dataset, dataset.name), "networks": networks}
    found |= _queries(dataset, chosen, thumbnails)
    lists = {"thumbnails": thumbnails.uris, "sets": [found]}
    return {"ranked": lists, "top": TOP, "thumbnail": THUMBNAIL}


def _labels(image: Image, dataset: Dataset) -> tuple[str | int, str | int]:
    """Identity and camera of an image, with the names of a user's list if it has names."""
    identity, camera = image.identity, image.camera
    return dataset.identity_names.get(identity, identity), dataset.camera_names.get(camera, camera)


def _list(one: "RankedList", dataset: Dataset, thumbnails: Thumbnails) -> Data:
    return {
        "ap": None if math.isnan(one.ap) else one.ap,
        "first": one.first_rank,
        "positives": one.positives,
        "items": [
            [thumbnails.place(image.path), round(distance, 2), int(right), *_labels(image, dataset), image.path.name]
            for image, distance, right in zip(one.gallery, one.distances, one.right, strict=True)
        ],
    }


def about_lists(dataset: Dataset, train: str) -> str:
    """One sentence about the ranking."""
    trained = f", trained on {train}" if train != dataset.name else ""
    gallery = len(dataset.draws[0].gallery)
    removed = "; images with the query's identity and camera are left out" if dataset.remove_same_camera else ""
    return f"{dataset.name} ({dataset.layout}){trained}: {gallery:,} gallery images{removed}."
