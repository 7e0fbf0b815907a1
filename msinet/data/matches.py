"""Numbers of queries with and without a match in the gallery."""

from dataclasses import dataclass

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
    cameras: dict[int, set[int]] = {}
    for i in draw.gallery:
        cameras.setdefault(dataset.test[i].identity, set()).add(dataset.test[i].camera)
    absent = own = 0
    for i in draw.query:
        seen = cameras.get(dataset.test[i].identity)
        absent += seen is None
        own += dataset.remove_same_camera and seen == {dataset.test[i].camera}
    return QueryCounts(len(draw.query), len(draw.query) - absent - own, absent, own)
