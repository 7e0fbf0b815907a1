"""Factors of the images of a rendered set, and how hard they make each query."""

import csv

import numpy as np

from msinet.data.datasets import Dataset, Draw
from msinet.data.rendered import FACTORS
from msinet.errors import UserError


def read_factors(dataset: Dataset) -> dict[str, dict[str, str]]:
    """`factors.csv` of a rendered set by image path relative to the set; empty for photographs.

    Raises:
        UserError: it lacks an image of the set.
    """
    file = dataset.root / FACTORS
    if not dataset.world or not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        factors = {row["path"]: row for row in csv.DictReader(stream)}
    # A query of VeRi is in the gallery under the same name, and is listed once.
    by_name = {path.rpartition("/")[2]: row for path, row in factors.items()}
    result = {}
    for image in (*dataset.train, *dataset.test):
        path = image.path.relative_to(dataset.root).as_posix()
        row = factors.get(path) or by_name.get(image.path.name)
        if row is None:
            raise UserError(f"{file} does not list {path}; render the set again")
        result[path] = row
    return result


def query_factors(dataset: Dataset, draw: Draw) -> list[dict[str, float]]:
    """Factors that make each query of a draw easy or hard; empty for photographs.

    Per query: `occlusion`, the hidden share of the body; `light`, the exposure; `view_change`, degrees between
    its view and the nearest view among its matches in the gallery, NaN without one.
    """
    factors = read_factors(dataset)
    if not factors:
        return []
    rows = [factors[image.path.relative_to(dataset.root).as_posix()] for image in dataset.test]
    yaw = np.array([float(row["yaw"]) for row in rows])
    identities = np.array([image.identity for image in dataset.test])
    cameras = np.array([image.camera for image in dataset.test])
    result = []
    for query in draw.query:
        matches = draw.gallery[identities[draw.gallery] == identities[query]]
        if dataset.remove_same_camera:
            matches = matches[cameras[matches] != cameras[query]]
        turn = abs((yaw[matches] - yaw[query] + 180) % 360 - 180)
        result.append(
            {
                "occlusion": float(rows[query]["occlusion"]),
                "light": float(rows[query]["light"]),
                "view_change": float(turn.min()) if len(turn) else float("nan"),
            }
        )
    return result
