"""k-reciprocal encoding (Zhong et al., CVPR 2017), exact, with sparse matrices: re-ranking and Jaccard distances.

For N images, published code holds several dense N x N matrices. Only a few hundred entries per row are not zero, so
sparse matrices are used here. Only the result of `rerank`, (Q, G), is dense.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from msinet.errors import UserError
from msinet.retrieval.similarities import Features, as_features, unit_rows

Indices = NDArray[np.int64]
Distances = NDArray[np.float32]

CHUNK_BYTES = 64 << 20  # similarities in memory at a time while neighbours are searched


def rerank(query: Features, gallery: Features, *, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Distances:
    """Distances (Q, G): weighted sum of feature distance and Jaccard distance of the neighbours.

    With d the squared Euclidean distance of unit rows, divided by the largest in its row, over all N = Q + G images:

    1. R(i): those of the k1 + 1 nearest of i that have i among their own k1 + 1 nearest; R'(i): the same with k1 / 2.
    2. R*(i): R(i) and every R'(c), c in R(i), of which more than two thirds are in R(i).
    3. V(i, j) = exp(-d(i, j)) on R*(i), divided by its sum; then the mean of V over the k2 nearest of i.
    4. Jaccard distance of i and j: 1 - sum min(V(i), V(j)) / (2 - sum min(V(i), V(j))).

    The result is (1 - weight) * Jaccard + weight * d.

    Args:
        query: (Q, D) features of any length.
        gallery: (G, D) features.
        k1: number of neighbours, fewer than Q + G.
        k2: neighbours whose V is averaged, at most k1; 1: no averaging.
        weight: lambda, weight of the feature distance, in [0, 1].

    Raises:
        UserError: arguments out of range, or shapes that do not match.
        DataError: NaN or infinite features.
    """
    query, gallery = as_features(query, gallery)
    features = torch.cat([unit_rows("query", query), unit_rows("gallery", gallery)]).float()  # (N, D)
    count = len(features)
    check_reranking(k1, k2, weight, count)
    nearest, largest = _neighbours(features, k1 + 1)  # (N, k1 + 1), (N,)
    mixed = _expanded(features, _reciprocal_sets(nearest, k1), largest)
    if k2 > 1:
        mixed = (_rows(nearest[:, :k2]) @ mixed) / np.float32(k2)
    result = _jaccard(mixed, len(query))  # (Q, G)
    result *= np.float32(1 - weight)
    if weight:
        for start in range(0, len(query), rows_at_once(len(gallery))):
            stop = min(start + rows_at_once(len(gallery)), len(query))
            d = _normed((features[start:stop] @ features[len(query) :].T).cpu(), largest[start:stop, None])
            result[start:stop] += np.float32(weight) * d.numpy()
    return result


def check_reranking(k1: int, k2: int, weight: float, count: int) -> None:
    """Check the arguments of `rerank` for `count` images, Q + G.

    Raises:
        UserError: arguments out of range.
    """
    if not 1 <= k2 <= k1 < count:
        raise UserError(f"re-ranking needs 1 <= k2 <= k1 < images, got k2 = {k2}, k1 = {k1}, {count} images")
    if not 0 <= weight <= 1:
        raise UserError(f"the weight of the original distance (lambda) must lie in [0, 1], got {weight}")


def jaccard_distances(
    features: Features,
    *,
    k1: int = 30,
    k2: int = 6,
    radius: float = 0.6,
    lists: int | None = None,
    scaled: bool = False,
) -> sparse.csr_array:
    """Jaccard distances of at most `radius` between all images: a sparse matrix (N, N).

    Steps 1 to 4 of `rerank`, for clustering. Entries that are not stored are larger distances. Stored entries of a row
    are sorted by distance, and the diagonal is stored as 0, as `sklearn.cluster.DBSCAN` expects it.

    Args:
        features: (N, D), of any length.
        k1: number of neighbours, fewer than N.
        k2: neighbours whose V is averaged, at most k1; 1: no averaging.
        radius: largest distance that is stored, in [0, 1).
        lists: length of the neighbour lists, the image itself included; None: k1 + 1. Code that uses faiss retrieves
            only k1.
        scaled: divide d by the largest in its row, as in `rerank`; otherwise d = 2 - 2 cos.

    Raises:
        UserError: arguments out of range, or fewer images than neighbours.
        DataError: NaN or infinite features.
    """
    features, _ = as_features(features, features)
    features = unit_rows("features", features.cpu()).float()
    count = len(features)
    if not 1 <= k2 <= k1 < count:
        raise UserError(
            f"Jaccard distances need 1 <= k2 <= k1 < images, got k2 = {k2}, k1 = {k1}, {count} images; "
            "lower k1 and k2 or take more images"
        )
    if not 0 <= radius < 1:
        raise UserError(f"the radius of Jaccard distances must lie in [0, 1), got {radius}")
    nearest, largest = _neighbours(features, lists or k1 + 1)
    mixed = _expanded(features, _reciprocal_sets(nearest, k1), largest if scaled else torch.ones(count))
    if k2 > 1:
        mixed = (_rows(nearest[:, :k2]) @ mixed) / np.float32(k2)
    return _close_pairs(mixed, radius)


def rows_at_once(columns: int) -> int:
    """Rows of float32 similarities that fit in `CHUNK_BYTES`."""
    return max(1, CHUNK_BYTES // (4 * columns))


def _normed(similarities: Tensor, largest: Tensor) -> Tensor:
    """Squared distances of unit rows from their similarities, divided by the largest of the row."""
    return (2 - 2 * similarities).clamp_(min=0) / largest


def _neighbours(features: Tensor, k: int) -> tuple[Indices, Tensor]:
    """The k nearest of every image, (N, k), itself first unless there are ties; and its largest distance (N,)."""
    nearest = np.empty((len(features), k), np.int64)
    largest = torch.empty(len(features))
    step = rows_at_once(len(features))
    for start in range(0, len(features), step):
        similarities = features[start : start + step] @ features.T  # (step, N)
        nearest[start : start + step] = similarities.topk(k).indices.cpu().numpy()
        largest[start : start + step] = (2 - 2 * similarities.amin(1)).cpu()
    return nearest, largest.clamp_(min=1e-12)


def _rows(indices: Indices) -> sparse.csr_array:
    """A matrix (N, N) with ones in the columns `indices` (N, k) of each row."""
    count, k = indices.shape
    ones = np.ones(indices.size, np.float32)
    return sparse.csr_array((ones, indices.ravel(), np.arange(count + 1) * k), shape=(count, count))


def _reciprocal_sets(nearest: Indices, k1: int) -> sparse.csr_array:
    """R* as a matrix (N, N) whose entry (i, j) is not zero if j belongs to R*(i)."""
    forward = _rows(nearest)
    mutual = forward.multiply(forward.T).tocsr()  # R
    half = _rows(nearest[:, : int(np.around(k1 / 2)) + 1])
    narrow = half.multiply(half.T).tocsr()  # R'
    shared = (mutual @ narrow.T).multiply(mutual).tocsr()  # |R(i) and R'(c)| for c in R(i)
    sizes = np.diff(narrow.indptr)
    shared.data = (shared.data > 2 / 3 * sizes[shared.indices]).astype(np.float32)
    shared.eliminate_zeros()
    sets: sparse.csr_array = (mutual + shared @ narrow).tocsr()
    return sets


def _expanded(features: Tensor, sets: sparse.csr_array, largest: Tensor) -> sparse.csr_array:
    """V: exp(-d) on the sets, each row divided by its sum."""
    rows = np.repeat(np.arange(len(features)), np.diff(sets.indptr))
    values = torch.empty(len(rows))
    step = max(1, CHUNK_BYTES // (8 * features.shape[1]))
    for start in range(0, len(rows), step):
        i, j = (torch.from_numpy(part[start : start + step].astype(np.int64)) for part in (rows, sets.indices))
        similarities = torch.linalg.vecdot(features[i], features[j]).cpu()
        values[start : start + step] = (-_normed(similarities, largest[i])).exp()
    weights = values.numpy()
    sums = np.bincount(rows, weights, len(features)).astype(np.float32)
    return sparse.csr_array((weights / sums[rows], sets.indices, sets.indptr), shape=sets.shape)


def _common(
    row: int, mixed: sparse.csr_array, columns: sparse.csc_array, entries_of: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Sum of min(V(row), V(j)) for every row j of `columns`, whose columns have `entries_of` entries: (rows,)."""
    span = slice(mixed.indptr[row], mixed.indptr[row + 1])
    present, own = mixed.indices[span], mixed.data[span]
    if not len(present):  # of many equal images, some are not among their own neighbours
        return np.zeros(columns.shape[0])
    starts, counts = columns.indptr[present], entries_of[present]
    ends = counts.cumsum()  # the entries of these columns, one column after the other
    entries = np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
    least = np.minimum(np.repeat(own, counts), columns.data[entries])
    return np.bincount(columns.indices[entries], least, columns.shape[0]).astype(np.float64, copy=False)


def _close_pairs(mixed: sparse.csr_array, radius: float) -> sparse.csr_array:
    """Jaccard distances between the rows that are at most `radius`, each row sorted by distance: (N, N)."""
    columns = mixed.tocsc()
    count, entries_of = mixed.shape[0], np.diff(columns.indptr)
    needed = 2 * (1 - radius) / (2 - radius)  # 1 - m / (2 - m) <= radius

    def one(i: int) -> tuple[NDArray[np.intp], Distances]:
        common = _common(i, mixed, columns, entries_of)
        common[i] = 1
        close = np.flatnonzero(common >= needed)
        distances = (1 - common[close] / (2 - common[close])).clip(0).astype(np.float32)
        order = np.argsort(distances, kind="stable")
        return close[order], distances[order]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        rows = list(pool.map(one, range(count)))
    ends = np.cumsum([0, *(len(close) for close, _ in rows)])
    indices, data = (np.concatenate([row[part] for row in rows]) for part in (0, 1))
    return sparse.csr_array((data, indices, ends), shape=(count, count))


def _jaccard(mixed: sparse.csr_array, queries: int) -> Distances:
    """Jaccard distances (Q, G) between the rows of queries and those of the gallery."""
    gallery = mixed[queries:].tocsc()
    items, entries_of = gallery.shape[0], np.diff(gallery.indptr)
    result = np.empty((queries, items), np.float32)

    def one(i: int) -> None:
        least = _common(i, mixed, gallery, entries_of)
        result[i] = 1 - least / (2 - least)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(one, range(queries)):
            pass  # re-raises errors of the threads
    return result
