"""Numbers of queries with and without a match in the gallery."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msinet.data.datasets import Dataset


@dataclass(frozen=True)
class QueryCounts:
    """Queries of one draw. Those without a match are left out of all metrics."""

    queries: int
    ranked: int
    """with a match in the gallery"""
    not_in_gallery: int
    """their identity has no image in the gallery"""
    own_camera_only: int
    """their identity is in the gallery only under the query's own camera, whose images are left out"""

    def __str__(self) -> str:
        reasons = (
            (self.not_in_gallery, "of an identity that is not in the gallery"),
            (self.own_camera_only, "of an identity that only their own camera saw"),
        )
        words = [f"{number} {reason}" for number, reason in reasons if number]
        return f"{self.ranked} of {self.queries} queries ranked" + ("; left out: " + ", ".join(words) if words else "")

    def record(self) -> dict[str, int]:
        """The counts under their names in records."""
        return {
            "queries": self.queries,
            "queries_ranked": self.ranked,
            "queries_without_match": self.queries - self.ranked,
            "queries_not_in_gallery": self.not_in_gallery,
            "queries_own_camera_only": self.own_camera_only,
        }


def count_queries(dataset: Dataset) -> QueryCounts:
    """Count the queries of a data set's first draw by whether they have a match."""
    draw = dataset.draws[0]
    ranked = int(queries_with_match(dataset).sum())
    absent = int(np.isin(dataset.test_identities[draw.query], dataset.test_identities[draw.gallery], invert=True).sum())
    return QueryCounts(len(draw.query), ranked, absent, len(draw.query) - ranked - absent)


def queries_with_match(dataset: Dataset) -> NDArray[np.bool_]:
    """(Q,) True for each query of the first draw that has a match in the gallery."""
    draw = dataset.draws[0]
    cameras: dict[int, set[int]] = {}  # of the gallery, by identity
    for i in draw.gallery:
        cameras.setdefault(dataset.test[i].identity, set()).add(dataset.test[i].camera)
    own = [{dataset.test[i].camera} if dataset.remove_same_camera else set() for i in draw.query]
    found = [cameras.get(dataset.test[i].identity, set()) - left for i, left in zip(draw.query, own, strict=True)]
    return np.array([bool(others) for others in found], bool)
