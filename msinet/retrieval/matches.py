"""Selection of each query's matches and of gallery items to remove before ranking (docs/protocol.md)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from msinet.errors import UserError

Labels = ArrayLike | Tensor
Indices = NDArray[np.int64]


class Split:
    """The matches of each query (its identity, other cameras) and removed items (its identity and camera).

    Args:
        query_ids: (Q,) integers.
        gallery_ids: (G,) integers.
        query_cameras: (Q,) integers, or None with `gallery_cameras`: nothing is removed.
        gallery_cameras: (G,) integers, or None.
        queries: Q.
        items: G.

    Raises:
        UserError: labels of another type or length, or only one camera array.
    """

    def __init__(
        self,
        query_ids: Labels,
        gallery_ids: Labels,
        query_cameras: Labels | None,
        gallery_cameras: Labels | None,
        queries: int,
        items: int,
    ) -> None:
        self.queries, self.items = queries, items
        wanted, ids = as_labels("query_ids", query_ids, queries), as_labels("gallery_ids", gallery_ids, items)
        self.cameras: tuple[Indices, Indices] | None = None
        if query_cameras is not None and gallery_cameras is not None:
            self.cameras = (
                as_labels("query_cameras", query_cameras, queries),
                as_labels("gallery_cameras", gallery_cameras, items),
            )
        elif query_cameras is not gallery_cameras:
            missing = "query_cameras" if query_cameras is None else "gallery_cameras"
            raise UserError(f"{missing} is missing: pass the cameras of both query and gallery, or of neither")
        self.order = np.argsort(ids, kind="stable")
        self.starts = np.searchsorted(ids, wanted, side="left", sorter=self.order)
        self.stops = np.searchsorted(ids, wanted, side="right", sorter=self.order)

    def of(self, first: int, stop: int) -> tuple[Indices, Indices, NDArray[np.bool_]]:
        """Gallery items with the identity of queries `first` to `stop` - 1, as three arrays (M,).

        They are: the query, counted from `first`; the gallery index; and True if the camera is the query's own.
        """
        starts, counts = self.starts[first:stop], self.stops[first:stop] - self.starts[first:stop]
        rows = np.repeat(np.arange(stop - first), counts)
        within = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
        same = self.order[np.repeat(starts, counts) + within]
        if self.cameras is None:
            return rows, same, np.zeros(len(rows), bool)
        return rows, same, self.cameras[1][same] == self.cameras[0][first + rows]


def as_labels(name: str, labels: Labels, expected: int) -> Indices:
    """Ids, cameras or groups as an integer array of the expected length.

    Raises:
        UserError: another type or length.
    """
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (expected,) or array.dtype.kind not in "iu":
        raise UserError(
            f"{name} has type {array.dtype} and shape {array.shape}; expected one integer per feature row,"
            f" shape ({expected},)"
        )
    return array.astype(np.int64)
