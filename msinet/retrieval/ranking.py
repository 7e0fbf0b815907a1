"""Ranking without sorting: the rank of a match is one plus the number of gallery items that are nearer.

Similarities are inner products of unit rows. They order the gallery as Euclidean distances do, but float32 distances
2 - 2s merge different similarities, so rankings use similarities. Only a block of queries x gallery is in memory at a
time, and the gallery is neither sorted nor copied.
"""

import itertools
import mmap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from msinet.errors import DataError, UserError
from msinet.retrieval.metrics import Retrieval

Features = Tensor | NDArray[Any]
Labels = ArrayLike | Tensor
Indices = NDArray[np.int64]
Mapped = np.memmap[Any, Any]
Row = NDArray[Any]  # float similarities of one query, padded with -inf to whole tiles
Block = NDArray[Any]  # rows of several queries

CHUNK_BYTES = 20 << 20  # similarities in memory at a time, which fit in a cache
QUERIES = 256  # smallest number of queries in a block, because products with fewer are slow ...
MOST_BYTES = 128 << 20  # ... up to this size
WORDS = 255  # 64-bit words of booleans that can be summed before one of the 8 bytes overflows
SLAB_BYTES = 64 << 20  # of a gallery on disk, read at a time
TILE = 2 * 8 * WORDS  # columns are padded to multiples of this; NumPy's broadcast comparison of fewer is slow
FEW = 64  # competing items are sorted, not counted, if they are at most this fraction (1/64) of the gallery
BLOCK = 4 * TILE  # columns compared at a time ...
GROUP = 64  # ... with this number of thresholds: 1 MiB of booleans, which fits in a cache


def evaluate(
    query: Features,
    gallery: Features,
    *,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cameras: Labels | None = None,
    gallery_cameras: Labels | None = None,
    max_rank: int = 50,
    chunk_bytes: int | None = None,
) -> Retrieval:
    """CMC, average precision and inverse negative penalty of every query (Sec. 4.1, docs/protocol.md).

    A match has the query's identity. With cameras, gallery items of the same identity *and* camera are
    removed first; without (VehicleID) nothing is. AP is the mean over the matches of the precision at their
    rank, without interpolation. Among equally similar items, the one with the lower gallery index ranks first.

    Args:
        query: (Q, D) features of any length, on the device that multiplies. If both are float64, they are ranked in
            float64, else in float32. A row of zeros has similarity 0 to every item.
        gallery: (G, D) features on the same device. A NumPy memory map stays on disk: one slab of `SLAB_BYTES` is in
            memory at a time, and the map is read once per block of similarities (see `chunk_bytes`).
        query_ids: (Q,) integers.
        gallery_ids: (G,) integers.
        query_cameras: (Q,) integers, given together with `gallery_cameras` or not at all.
        gallery_cameras: (G,) integers.
        max_rank: length of the CMC curve, at least 1; past the gallery's end it keeps its last value.
        chunk_bytes: memory for one block of similarities, which holds at least one query; None: 20 MiB, or what 256
            queries need up to 128 MiB.

    Raises:
        UserError: arguments that do not fit together: shapes, types, lengths, only one camera array.
        DataError: NaN or infinite features, or no query with a match.
    """
    query, gallery = _ranked(query, gallery)
    scores = _Scores(_Split(query_ids, gallery_ids, query_cameras, gallery_cameras, len(query), len(gallery)), max_rank)
    with _Threads() as threads:
        for start, block in _blocks(query, gallery, chunk_bytes):
            scores.add_block(start, block, threads)
    return scores.result()


def evaluate_distances(
    distances: NDArray[np.floating[Any]],
    *,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cameras: Labels | None = None,
    gallery_cameras: Labels | None = None,
    max_rank: int = 50,
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
    queries, items = distances.shape
    scores = _Scores(_Split(query_ids, gallery_ids, query_cameras, gallery_cameras, queries, items), max_rank)

    def one(i: int) -> None:
        row = np.full(_whole_tiles(items), -np.inf, distances.dtype)
        np.negative(distances[i], out=row[:items])
        scores.add_row(i, row)

    with _Threads() as threads:
        threads.each(one, range(queries))
    return scores.result()


class _Scores:
    """Collects the ranks of all matches, by rows or blocks of rows, and computes the metrics."""

    def __init__(self, split: "_Split", max_rank: int) -> None:
        if max_rank < 1:
            raise UserError(f"max_rank is the length of the CMC curve and must be at least 1, got {max_rank}")
        self.split, self.max_rank = split, max_rank
        queries = split.queries
        self.ap, self.inp = np.full(queries, np.nan), np.full(queries, np.nan)
        self.first_rank, self.positives = np.zeros(queries, np.int64), np.zeros(queries, np.int64)

    def add_row(self, i: int, row: Row) -> None:
        """Add the similarities of query i; the row is changed."""
        matches, removed = self.split.of(i)
        if not len(matches):
            return
        row[removed] = -np.inf
        ranks = np.sort(_ranks(row, matches))  # (R,)
        self.ap[i] = (np.arange(1, len(ranks) + 1) / ranks).mean()
        self.inp[i] = len(ranks) / ranks[-1]
        self.first_rank[i] = ranks[0]
        self.positives[i] = len(ranks)

    def add_block(self, start: int, block: Block, threads: "_Threads") -> None:
        """Add the similarities (r, whole tiles) of r queries from `start` on; the block is changed.

        In a good ranking, few items compete with the matches. Only those are sorted, for all rows at once, so that one
        pass over the block is most of the work. Other rows are added one by one.
        """
        rows, columns, own = self.split.of_all(start, start + len(block))
        block[rows[own], columns[own]] = -np.inf
        rows, columns = rows[~own], columns[~own]
        if not len(rows):
            return
        number = np.bincount(rows, minlength=len(block))  # matches of each row
        lowest = np.full(len(block), np.inf, block.dtype)
        np.minimum.at(lowest, rows, block[rows, columns])
        competing = torch.ge(torch.from_numpy(block), torch.from_numpy(lowest)[:, None]).numpy()  # (r, whole tiles)
        counts = _sum(competing)
        few = counts * FEW <= block.shape[1]
        hard = np.flatnonzero(~few)
        threads.each(lambda k: self.add_row(start + int(k), block[k]), hard)

        r, c = _true(competing, np.flatnonzero(few & (number > 0)))
        order = np.lexsort((c, -block[r, c], r))  # by row, the nearest first, ties in gallery order
        r, c = r[order], c[order]
        ranks = np.arange(1, len(r) + 1) - np.searchsorted(r, r)
        keys = np.sort(rows * block.shape[1] + columns)  # of the matches
        nearest = np.searchsorted(keys, key := r * block.shape[1] + c)
        hit = keys[np.minimum(nearest, len(keys) - 1)] == key
        r, ranks = r[hit], ranks[hit]
        found = np.arange(1, len(r) + 1) - np.searchsorted(r, r)  # matches up to this one
        which, first = np.unique(r, return_index=True)
        last = np.append(first, len(r))[1:] - 1
        of = start + which
        self.positives[of] = number[which]
        self.ap[of] = np.bincount(r, found / ranks, len(block))[which] / number[which]
        self.inp[of] = number[which] / ranks[last]
        self.first_rank[of] = ranks[first]

    def result(self) -> Retrieval:
        """The metrics of all queries.

        Raises:
            DataError: no query has a match.
        """
        valid = self.positives > 0
        if not valid.any():
            own = sum(len(self.split.of(i)[1]) > 0 for i in range(self.split.queries))
            raise DataError(
                f"no query has a match: {self.split.queries - own} of {self.split.queries} have an identity that none"
                f" of the {self.split.items} gallery items has, {own} share theirs with items of their own camera only;"
                " check the ids and cameras of query and gallery"
            )
        hits = np.bincount(np.minimum(self.first_rank[valid], self.max_rank + 1), minlength=self.max_rank + 2)
        cmc = np.cumsum(hits)[1:-1] / valid.sum()
        return Retrieval(valid, self.ap, self.inp, self.first_rank, self.positives, cmc)


def _true(block: NDArray[np.bool_], rows: Indices) -> tuple[Indices, Indices]:
    """Rows and columns, in order, of True in the given rows of a block whose width is a multiple of 8."""
    words = block.view(np.uint64)  # eight columns at once, most of which are 0
    r, w = np.nonzero(words if len(rows) == len(words) else words[rows])
    r = rows[r]
    which, bit = np.nonzero(words[r, w][:, None].view(np.uint8))
    return r[which], 8 * w[which] + bit


class _Threads(ThreadPoolExecutor):
    """A pool with as many threads as torch uses. NumPy releases the interpreter lock in comparisons.

    One pool serves all blocks, because the process keeps the memory of every thread it has started.
    """

    def __init__(self) -> None:
        super().__init__(torch.get_num_threads())

    def each(self, work: Callable[[int], object], numbers: Iterable[int]) -> None:
        """Call `work` with each number; its exceptions are raised."""
        for _ in self.map(work, numbers):
            pass


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

    Arguments as for `evaluate`. With ids and cameras, items of the query's own identity and camera are left
    out; without ids nothing is.

    Returns:
        (Q, k) gallery indices and (Q, k) squared Euclidean distances between unit rows, in [0, 4]. Where
        fewer than k items are left, the index is -1 and the distance infinite.

    Raises:
        UserError: as `evaluate`, or k below 1.
        DataError: NaN or infinite features.
    """
    if k < 1:
        raise UserError(f"a ranked list needs k of at least 1, got {k}")
    query, gallery = _ranked(query, gallery)
    if query_ids is None or gallery_ids is None:
        if not query_ids is gallery_ids is query_cameras is gallery_cameras:
            raise UserError("query_ids and gallery_ids belong together: pass both, or no ids and no cameras")
        query_ids, gallery_ids = np.zeros(len(query), np.int64), np.zeros(len(gallery), np.int64)
    split = _Split(query_ids, gallery_ids, query_cameras, gallery_cameras, len(query), len(gallery))
    indices = np.full((len(query), k), -1, np.int64)
    distances = np.full((len(query), k), np.inf)

    def select(i: int, row: Row) -> None:
        row[split.of(i)[1]] = -np.inf
        cut = max(len(row) - k, 0)
        best = np.flatnonzero(row >= np.partition(row, cut)[cut])  # k items, or more when tied
        best = best[row[best] > -np.inf]
        best = best[np.argsort(-row[best], kind="stable")][:k]
        indices[i, : len(best)] = best
        distances[i, : len(best)] = np.clip(2 - 2 * row[best].astype(np.float64), 0, 4)

    with _Threads() as threads:
        for start, block in _blocks(query, gallery, chunk_bytes):
            threads.each(lambda k, start=start, block=block: select(start + k, block[k]), range(len(block)))  # type: ignore[misc]
    return indices, distances


def _ranks(row: Row, matches: Indices) -> Indices:
    """Exact ranks (R,), from 1, of the gallery items `matches` in a row of similarities."""
    thresholds = row[matches]  # (R,)
    values = row
    competing = row >= thresholds.min()
    if np.count_nonzero(competing) * 4 < len(row):  # a good ranking: skip the other items
        kept = row[np.flatnonzero(competing)]
        values = np.full(_whole_tiles(len(kept)), -np.inf, row.dtype)
        values[: len(kept)] = kept
    nearer = _count(np.greater, values, thresholds)
    level = _count(np.greater_equal, values, thresholds) - nearer
    ranks = nearer + 1
    for j in np.flatnonzero(level > 1):  # ties: lower indices rank first
        ranks[j] += np.count_nonzero(row[: matches[j]] == thresholds[j])
    return ranks


def _count(compare: np.ufunc, values: Row, thresholds: Row) -> Indices:
    """Number of the values (N,), N in whole tiles, that compare true with each of the thresholds (R,)."""
    counts = np.zeros(len(thresholds), np.int64)
    for start, first in itertools.product(range(0, len(values), BLOCK), range(0, len(thresholds), GROUP)):
        group = slice(first, first + GROUP)
        true = compare(values[start : start + BLOCK], thresholds[group, None])  # (GROUP, BLOCK) bool
        counts[group] += _sum(true)
    return counts


def _sum(true: NDArray[np.bool_]) -> Indices:
    """Number of True in each row: (R, whole tiles) to (R,).

    Booleans are bytes of 0 or 1, so adding them as 64-bit words counts in eight bytes at once.
    """
    words = true.view(np.uint64).reshape(len(true), -1, WORDS).sum(axis=2)  # (R, whole tiles / 8 / WORDS)
    sums: Indices = words.view(np.uint8).sum(axis=1, dtype=np.int64)
    return sums


@torch.no_grad()
def _blocks(query: Tensor, gallery: Tensor | Mapped, chunk_bytes: int | None) -> Iterator[tuple[int, Block]]:
    """Yield the number of the first query, and similarities (r, whole tiles) padded with -inf, block by block.

    The caller may change a block. The next one overwrites it.
    """
    columns = len(gallery)
    query_lengths = _lengths("query", query)
    lengths = np.concatenate([_lengths("gallery", slab, start) for start, slab in _slabs(gallery)])
    # Dividing similarities instead of the gallery avoids a copy; unit rows need no division.
    divide = bool(np.abs(lengths - 1).max() > 4 * torch.finfo(query.dtype).eps)
    scale = torch.from_numpy(lengths).to(query.dtype)
    width = _whole_tiles(columns)
    row_bytes = width * query.element_size()
    if chunk_bytes is None:
        chunk_bytes = min(max(CHUNK_BYTES, QUERIES * row_bytes), MOST_BYTES)
    rows = max(1, min(len(query), chunk_bytes // row_bytes))
    similarities = torch.full((rows, width), -torch.inf, dtype=query.dtype)
    for start in range(0, len(query), rows):
        chunk = query[start : start + rows]
        unit = chunk / torch.from_numpy(query_lengths[start : start + rows, None]).to(chunk)
        for first, slab in _slabs(gallery):
            block = similarities[: len(chunk), first : first + len(slab)]
            if slab.device.type == "cpu":
                torch.mm(unit, slab.to(unit.dtype).T, out=block)
            else:
                block.copy_(unit @ slab.T)
        if divide:
            similarities[: len(chunk), :columns] /= scale
        yield start, similarities[: len(chunk)].numpy()


def _ranked(query: Features, gallery: Features) -> tuple[Tensor, Tensor | Mapped]:
    """The result of `as_features`, except that a memory-mapped gallery is not read."""
    if not isinstance(gallery, np.memmap) or gallery.ndim != 2:
        return as_features(query, gallery)
    return as_features(query, gallery[:1])[0], gallery


def _slabs(gallery: Tensor | Mapped) -> Iterator[tuple[int, Tensor]]:
    """Yield the gallery in pieces with their first rows: a tensor as a whole, a memory map slab by slab."""
    if isinstance(gallery, Tensor):
        yield 0, gallery
        return
    dtype = np.float64 if gallery.dtype == np.float64 else np.float32
    step = max(1, SLAB_BYTES // (gallery.shape[1] * np.dtype(dtype).itemsize))
    for start in range(0, len(gallery), step):
        slab = np.array(gallery[start : start + step], dtype)  # a copy: maps are read-only
        if isinstance(gallery.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            gallery.base.madvise(mmap.MADV_DONTNEED)  # else pages that were read stay in memory
        yield start, torch.from_numpy(slab)


class _Split:
    """The matches of each query (its identity, other cameras) and removed items (its identity and camera)."""

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
        wanted, ids = _labels("query_ids", query_ids, queries), _labels("gallery_ids", gallery_ids, items)
        self.cameras: tuple[Indices, Indices] | None = None
        if query_cameras is not None and gallery_cameras is not None:
            self.cameras = (
                _labels("query_cameras", query_cameras, queries),
                _labels("gallery_cameras", gallery_cameras, items),
            )
        elif query_cameras is not gallery_cameras:
            missing = "query_cameras" if query_cameras is None else "gallery_cameras"
            raise UserError(f"{missing} is missing: pass the cameras of both query and gallery, or of neither")
        self.order = np.argsort(ids, kind="stable")
        self.starts = np.searchsorted(ids, wanted, side="left", sorter=self.order)
        self.stops = np.searchsorted(ids, wanted, side="right", sorter=self.order)

    def of(self, i: int) -> tuple[Indices, Indices]:
        """Gallery indices of the matches and of the removed items of query i."""
        _, same, own = self.of_all(i, i + 1)
        return same[~own], same[own]

    def of_all(self, first: int, stop: int) -> tuple[Indices, Indices, NDArray[np.bool_]]:
        """Queries counted from `first`, gallery indices of their identity, and True for items of their own camera."""
        starts, counts = self.starts[first:stop], self.stops[first:stop] - self.starts[first:stop]
        rows = np.repeat(np.arange(stop - first), counts)
        within = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
        same = self.order[np.repeat(starts, counts) + within]
        if self.cameras is None:
            return rows, same, np.zeros(len(rows), bool)
        return rows, same, self.cameras[1][same] == self.cameras[0][first + rows]


def as_features(query: Features, gallery: Features) -> tuple[Tensor, Tensor]:
    """Both as tensors (Q, D) and (G, D) of one floating type, float64 only if both are; memory maps are read.

    Raises:
        UserError: shapes that are not of features, or that differ in dimension.
    """
    pair: list[Tensor] = []
    for name, features in (("query", query), ("gallery", gallery)):
        if isinstance(features, np.ndarray):
            # a copy of reversed arrays, which torch refuses, and of read-only ones, about which it warns
            features = torch.from_numpy(np.require(features, requirements=["C", "W"]))
        if features.ndim != 2 or 0 in features.shape:
            raise UserError(
                f"{name} features have shape {tuple(features.shape)}; expected (images, dimensions), none 0"
            )
        pair.append(features.detach())
    if pair[0].shape[1] != pair[1].shape[1]:
        raise UserError(
            f"query features have {pair[0].shape[1]} dimensions and gallery features {pair[1].shape[1]}:"
            " extract both with the same network"
        )
    dtype = torch.float64 if pair[0].dtype == pair[1].dtype == torch.float64 else torch.float32
    return pair[0].to(dtype), pair[1].to(dtype)


def _labels(name: str, labels: Labels, expected: int) -> Indices:
    """Ids or cameras as an integer array of the expected length."""
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (expected,) or array.dtype.kind not in "iu":
        raise UserError(
            f"{name} has type {array.dtype} and shape {array.shape}; expected one integer per feature row,"
            f" shape ({expected},)"
        )
    return array.astype(np.int64)


def _lengths(name: str, features: Tensor, first: int = 0) -> NDArray[np.float64]:
    """Euclidean length of every row (N,); 1 for rows of zeros, so that division leaves them unchanged.

    Errors count rows from `first`.
    """
    lengths = torch.linalg.vector_norm(features, dim=1).double()
    extreme = ~((lengths > 1e-15) & (lengths < 1e15))  # the squares may have left the range of float32
    lengths[extreme] = torch.linalg.vector_norm(features[extreme].double(), dim=1)
    lengths = lengths.cpu().numpy()
    broken = np.flatnonzero(~np.isfinite(lengths))
    if len(broken):
        raise DataError(
            f"{len(broken)} of {len(lengths)} {name} features hold NaN or infinite values, the first in row"
            f" {first + broken[0]}; check the weights and the images behind them"
        )
    return np.where(lengths == 0, 1.0, lengths)


def unit_rows(name: str, features: Tensor) -> Tensor:
    """The rows of a tensor (N, D), scaled to length 1; rows of zeros are unchanged.

    Raises:
        DataError: NaN or infinite features, by `name` and row.
    """
    return features / torch.from_numpy(_lengths(name, features)[:, None]).to(features)


def _whole_tiles(columns: int) -> int:
    return -(-columns // TILE) * TILE
