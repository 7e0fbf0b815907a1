"""The nearest gallery items of each query."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msinet.errors import UserError
from msinet.retrieval.matches import Indices, Labels, Split
from msinet.retrieval.similarities import Features, blocks, streamed


def top_k(
    query: Features,
    gallery: Features,
    k: int,
    *,
    query_ids: Labels | None = None,
    gallery_ids: Labels | None = None,
    query_cameras: Labels | None = None,
    gallery_cameras: Labels | None = None,
    chunk_bytes: int | None = None,
) -> tuple[Indices, NDArray[np.float64]]:
    """The k nearest gallery items of every query, nearest first, ties in gallery order.

    Arguments are those of `evaluate`. With ids and cameras, items of the query's own identity and camera are left
    out; otherwise no item is left out.

    Returns:
        (Q, k) gallery indices and (Q, k) squared Euclidean distances between unit rows, in [0, 4]. Where
        fewer than k items are left, the index is -1 and the distance infinite.

    Raises:
        UserError: as `evaluate`, or k below 1.
        DataError: NaN or infinite features.
    """
    if k < 1:
        raise UserError(f"a ranked list needs k of at least 1, got {k}")
    query, gallery = streamed(query, gallery)
    split = None
    if query_ids is not None and gallery_ids is not None:
        split = Split(query_ids, gallery_ids, query_cameras, gallery_cameras, len(query), len(gallery))
    elif not query_ids is gallery_ids is query_cameras is gallery_cameras:
        raise UserError("query_ids and gallery_ids belong together: pass both, or no ids and no cameras")
    indices = np.full((len(query), k), -1, np.int64)
    distances = np.full((len(query), k), np.inf)

    def select(i: int, row: NDArray[Any]) -> None:
        cut = max(len(row) - k, 0)
        best = np.flatnonzero(row >= np.partition(row, cut)[cut])  # k items, or more when tied
        best = best[row[best] > -np.inf]
        best = best[np.argsort(-row[best], kind="stable")][:k]
        indices[i, : len(best)] = best
        distances[i, : len(best)] = np.clip(2 - 2 * row[best].astype(np.float64), 0, 4)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for start, block in blocks(query, gallery, chunk_bytes):
            if split is not None:
                rows, columns, own = split.of(start, start + len(block))
                block[rows[own], columns[own]] = -torch.inf
            list(threads.map(select, range(start, start + len(block)), block.numpy()))  # re-raises thread errors
    return indices, distances
