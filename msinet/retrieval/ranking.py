"""Ranking of a gallery, and metrics from the ranks of the matches (Sec. 4.1, docs/protocol.md).

Similarities are sorted in blocks, on as many threads as torch has. NumPy releases the interpreter lock for each block.
"""

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msinet.errors import DataError, UserError
from msinet.retrieval.matches import Indices, Labels, Split
from msinet.retrieval.metrics import Retrieval
from msinet.retrieval.similarities import CHUNK_BYTES, Features, blocks, streamed

LAST = 2**16 - 2  # largest key; one more must fit in 16 bits
FAR = 1e300  # in place of infinite distances
AT_ONCE = 1 << 18  # similarities ranked at a time by a thread, with their keys and order about 4 MiB


def evaluate(
    query: Features,
    gallery: Features,
    *,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cameras: Labels | None = None,
    gallery_cameras: Labels | None = None,
    chunk_bytes: int | None = None,
) -> Retrieval:
    """CMC, average precision and inverse negative penalty of every query (Sec. 4.1, docs/protocol.md).

    A match has the query's identity. With cameras, gallery items of the same identity *and* camera are
    removed first; without cameras (VehicleID) no item is removed. AP is the mean precision at the ranks of the
    matches, without interpolation. Ties rank in gallery order.

    Args:
        query: (Q, D) features of any norm; their device computes the products, the CPU sorts. If query and gallery are
            float64, they are ranked in float64, else in float32. A row of zeros has similarity 0 to every item.
        gallery: (G, D) features on the same device. A NumPy memory map stays on disk: one slab of `SLAB_BYTES` is in
            memory at a time, and the map is read once per block of similarities (see `chunk_bytes`).
        query_ids: (Q,) integers.
        gallery_ids: (G,) integers.
        query_cameras: (Q,) integers, given together with `gallery_cameras` or not at all.
        gallery_cameras: (G,) integers.
        chunk_bytes: memory for one block of similarities, which holds at least one query; None: 20 MiB, or what 256
            queries need up to 128 MiB.

    Raises:
        UserError: arguments that do not fit together: shapes, types, lengths, only one camera array.
        DataError: NaN or infinite features, or no query with a match.
    """
    query, gallery = streamed(query, gallery)
    split = Split(query_ids, gallery_ids, query_cameras, gallery_cameras, len(query), len(gallery))
    return _evaluate(split, blocks(query, gallery, chunk_bytes))


def evaluate_distances(
    distances: NDArray[np.floating[Any]],
    *,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cameras: Labels | None = None,
    gallery_cameras: Labels | None = None,
) -> Retrieval:
    """Evaluate given distances (Q, G), such as those of re-ranking, as `evaluate` does for features.

    Raises:
        UserError: as `evaluate`.
        DataError: NaN distances, or no query with a match.
    """
    if distances.ndim != 2 or 0 in distances.shape:
        raise UserError(f"distances have shape {distances.shape}; expected (queries, gallery), none 0")
    if np.isnan(distances).any():
        raise DataError("some distances are NaN; check the features behind them")
    split = Split(query_ids, gallery_ids, query_cameras, gallery_cameras, *distances.shape)
    step = max(1, CHUNK_BYTES // (8 * distances.shape[1]))
    parts = (
        (start, torch.from_numpy(np.clip(-distances[start : start + step].astype(float), -FAR, FAR)))
        for start in range(0, len(distances), step)
    )
    return _evaluate(split, parts)


def _evaluate(split: Split, similarities: Iterable[tuple[int, Tensor]]) -> Retrieval:
    """The metrics of all queries, from (first query, block of similarities) pairs; blocks are changed in place."""
    found: list[tuple[Indices, Indices]] = []  # queries and ranks of matches
    step = max(1, AT_ONCE // split.items)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for start, block in similarities:
            parts = block.split(step)  # type: ignore[no-untyped-call]
            found += threads.map(partial(_ranks, split), range(start, start + len(block), step), parts)
    queries, ranks = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return _metrics(split, queries, ranks)


def _ranks(split: Split, start: int, block: Tensor) -> tuple[Indices, Indices]:
    """Queries and ranks, from 1, of the matches in a block (r, G), whose first query is `start`; the block is changed.

    Items are sorted by 16-bit keys, for which NumPy always needs two passes. Equal keys keep gallery order. Only items
    that share the key of a match are then sorted by their similarities.
    """
    similarities = block.numpy()
    rows, columns, own = split.of(start, start + len(block))
    highest = similarities.max(axis=1, keepdims=True)
    span = highest - similarities.min(axis=1, keepdims=True)
    scale = np.divide(LAST, span, out=np.zeros_like(span), where=span > 1e-30)  # 0: all keys are equal
    keys = ((highest - similarities) * scale).astype(np.uint16)  # rounding keeps the order
    keys[rows[own], columns[own]] = LAST  # removed items come last ...
    similarities[rows[own], columns[own]] = np.nan  # ... also among equal keys
    order = np.argsort(keys, axis=1, kind="stable")  # (r, G)
    rows, columns = rows[~own], columns[~own]
    matches = np.zeros(keys.shape, bool)
    matches[rows, columns] = True

    row, key = np.divmod(np.unique(rows * (LAST + 1) + keys[rows, columns]), LAST + 1)  # runs of equal keys
    bounds = np.stack([key, key + 1]).astype(np.uint16)
    first, stop = places = np.empty(bounds.shape, np.int64)
    starts = np.searchsorted(row, np.arange(len(keys) + 1))
    for k, (a, b) in enumerate(itertools.pairwise(starts)):
        places[:, a:b] = np.searchsorted(keys[k], bounds[:, a:b], sorter=order[k])
    run = np.repeat(np.arange(len(row)), stop - first)  # number of the run of each item
    position = np.arange(len(run)) + np.repeat(stop - (stop - first).cumsum(), stop - first)
    row = row[run]
    column = order[row, position]
    exact = np.lexsort((-similarities[row, column], run))  # stable: ties stay in gallery order
    match = matches[row, column[exact]]
    return start + row[match], position[match] + 1


def _metrics(split: Split, queries: Indices, ranks: Indices) -> Retrieval:
    """The metrics from the ranks of all matches (M,) and their queries (M,)."""
    positives = np.bincount(queries, minlength=split.queries)
    valid = positives > 0
    if not valid.any():
        own = len(np.unique(split.of(0, split.queries)[0]))
        raise DataError(
            f"no query has a match: {split.queries - own} of {split.queries} have an identity that none of the"
            f" {split.items} gallery items has, {own} share theirs with items of their own camera only;"
            " check the ids and cameras of query and gallery"
        )
    order = np.lexsort((ranks, queries))
    queries, ranks = queries[order], ranks[order]
    ends = positives.cumsum()
    found = np.arange(1, len(ranks) + 1) - (ends - positives)[queries]  # matches up to this one
    ap, inp, first_rank = np.full(len(valid), np.nan), np.full(len(valid), np.nan), np.zeros(len(valid), np.int64)
    ap[valid] = np.bincount(queries, found / ranks, len(valid))[valid] / positives[valid]
    inp[valid] = positives[valid] / ranks[ends[valid] - 1]
    first_rank[valid] = ranks[(ends - positives)[valid]]
    return Retrieval(valid, ap, inp, first_rank, positives)
