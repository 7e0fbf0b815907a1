"""Factors of rendered images, query difficulty by factor, and features made of factors alone (oracles)."""

import csv
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from msinet.data.datasets import Dataset, Draw
from msinet.data.layouts import card_of
from msinet.data.rendered import FACTORS
from msinet.errors import UserError

Oracle = Literal["colours", "coarse"]
#: Factors that each oracle knows, by kind: the main colours, or all factors that families of a look share.
ORACLES: dict[Oracle, dict[str, tuple[str, ...]]] = {
    "colours": {"person": ("upper_colour", "lower_colour"), "vehicle": ("colour", "second")},
    "coarse": {
        "person": (
            "build",
            "upper",
            "upper_colour",
            "upper_second",
            "upper_pattern",
            "lower",
            "lower_colour",
            "lower_second",
            "lower_pattern",
        ),
        "vehicle": ("type", "colour", "second", "two_tone", "cargo"),
    },
}

#: Random orders of images with equal factors, over which the accuracy of an oracle is averaged.
ORDERS = 10


def read_factors(dataset: Dataset) -> dict[str, dict[str, str]]:
    """`factors.csv` of a rendered set by image path relative to the set; empty for photographs.

    Raises:
        UserError: the file lacks an image of the set.
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


def query_factors(dataset: Dataset, draw: Draw) -> list[dict[str, int | float]]:
    """Factors of each query of a draw; empty for photographs.

    Per query: `family`, whose members differ in one or two details; `occlusion`, the hidden share of the body;
    `light`, the exposure; `view_change`, degrees between its view and the nearest view of its matches in the gallery,
    NaN without a match.
    """
    factors = read_factors(dataset)
    if not factors:
        return []
    rows = [factors[image.path.relative_to(dataset.root).as_posix()] for image in dataset.test]
    yaw = np.array([float(row["yaw"]) for row in rows])
    result = []
    for query in draw.query:
        matches = dataset.matches(query, draw.gallery)
        turn = abs((yaw[matches] - yaw[query] + 180) % 360 - 180)
        result.append(
            {
                "family": int(rows[query]["family"]),
                "occlusion": float(rows[query]["occlusion"]),
                "light": float(rows[query]["light"]),
                "view_change": float(turn.min()) if len(turn) else float("nan"),
            }
        )
    return result


def one_hot(rows: Sequence[Mapping[str, str]], columns: Sequence[str], order: int = 0) -> np.ndarray:
    """Features (N, D) float32 whose inner product grows with the number of equal factors.

    Columns hold a one-hot code of each factor. Small random components are added, because images with equal factors
    would otherwise rank in gallery order. The random components depend on `order` alone.
    """
    codes = []
    for column in columns:
        names, values = np.unique([row[column] for row in rows], return_inverse=True)
        codes.append(np.eye(len(names), dtype=np.float32)[values])
    noise = np.random.default_rng(order).standard_normal((len(rows), 32)).astype(np.float32)
    noise *= 0.1 / np.linalg.norm(noise, axis=1, keepdims=True)  # changes similarities by 0.01 at most
    return np.concatenate((*codes, noise), axis=1)


def oracle_features(dataset: Dataset, which: Oracle, order: int = 0) -> np.ndarray:
    """Features (len(test), D) float32 of an oracle that knows a few factors of every test image and nothing else.

    `msinet.training.evaluation.rank` ranks them like those of a network; its result bounds what the factors reveal.
    Images with equal factors rank in a random order with the seed `order`; tables average over `ORDERS` of them.

    Raises:
        UserError: the set was not rendered.
    """
    return one_hot(_test_rows(dataset), ORACLES[which][card_of(dataset.name).kind], order)


def families(dataset: Dataset) -> np.ndarray:
    """Family of every test image, (len(test),) int64. Members of a family differ in one or two details.

    Raises:
        UserError: the set was not rendered.
    """
    return np.array([int(row["family"]) for row in _test_rows(dataset)], dtype=np.int64)


def _test_rows(dataset: Dataset) -> list[dict[str, str]]:
    factors = read_factors(dataset)
    if not factors:
        raise UserError(f"{dataset.root} has no {FACTORS}: only rendered sets have factors")
    return [factors[image.path.relative_to(dataset.root).as_posix()] for image in dataset.test]
