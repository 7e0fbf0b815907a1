"""k-reciprocal neighbours and Jaccard distances with N x N matrices and loops over images, as in public code."""

import numpy as np

#: Kinds of features: clustered by identity, as those of a trained network, or not, as those of an untrained one.
KINDS = {"clustered": True, "random": False}


def dense_jaccard(distances: np.ndarray, order: np.ndarray, k1: int, k2: int, out: np.ndarray) -> None:
    """Jaccard distances of the first images to all images.

    Args:
        distances: (N, N).
        order: the nearest images of each image, itself first; at least `k1` columns.
        k1: neighbours that may be reciprocal.
        k2: neighbours whose weights are averaged.
        out: receives the distances; its rows are the first images. It may be `distances` itself, to save memory.
    """
    count = len(distances)

    def reciprocal(i: int, k: int) -> np.ndarray:
        forward = order[i, : k + 1]
        found: np.ndarray = forward[(order[forward, : k + 1] == i).any(1)]
        return found

    mixed = np.zeros_like(distances)
    for i in range(count):
        found = expanded = reciprocal(i, k1)
        for candidate in found:
            theirs = reciprocal(candidate, round(k1 / 2))
            if len(np.intersect1d(theirs, found)) > 2 / 3 * len(theirs):
                expanded = np.append(expanded, theirs)
        expanded = np.unique(expanded)
        weights = np.exp(-distances[i, expanded])
        mixed[i, expanded] = weights / weights.sum()
    if k2 > 1:
        mixed = np.stack([mixed[order[i, :k2]].mean(0) for i in range(count)])
    having = [np.flatnonzero(mixed[:, j]) for j in range(count)]
    for i in range(len(out)):
        least = np.zeros(count, np.float32)
        for j in np.flatnonzero(mixed[i]):
            least[having[j]] += np.minimum(mixed[i, j], mixed[having[j], j])
        out[i] = 1 - least / (2 - least)
