"""Batches by pseudo-labels. Pure functions of labels and seed, so that interrupted epochs can resume."""

from collections.abc import Callable, Sequence

import numpy as np

from msinet.data.sampler import passes
from msinet.unsupervised.pseudo_labels import OUTLIER

Batches = list[list[int]]


def members(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of each cluster's images, in order; `OUTLIER` is no cluster."""
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] != OUTLIER]
    starts = np.flatnonzero(np.diff(labels[order], prepend=OUTLIER))
    return np.split(order, starts[1:]) if len(order) else []


def gallery_batches(
    labels: np.ndarray, cameras: np.ndarray, shape: tuple[int, int], *, seed: int, epoch: int, steps: int | None = None
) -> Batches:
    """Batches of P clusters with K images each, if possible of different cameras ("random multiple gallery").

    A pass visits the clusters in random order. Each cluster gives an anchor and K - 1 other images, from other cameras
    if it has any, with replacement if there are fewer than K. A cluster of one image gives it only once, so batches are
    cut from the joined list and may contain more than P clusters.

    Args:
        labels: of each image, (N,); images with `OUTLIER` are left out.
        cameras: of each image, (N,).
        shape: P and K.
        seed: of the run.
        epoch: counted from 0.
        steps: batches, from as many passes as needed; None: one pass.

    Returns:
        Lists of P * K positions in `labels`.
    """
    groups, (p, k) = members(labels), shape

    def flat(rng: np.random.Generator) -> list[int]:
        return [i for number in rng.permutation(len(groups)) for i in _gallery(groups[number], cameras, k, rng)]

    return passes(lambda number: _cut(flat, p * k, (seed, epoch, number)), steps)


def _gallery(cluster: np.ndarray, cameras: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    """An anchor and K - 1 other images; only the anchor for a cluster of one image."""
    anchor = int(rng.choice(cluster))
    others = cluster[cameras[cluster] != cameras[anchor]]
    if not len(others):
        others = cluster[cluster != anchor]
    if not len(others):
        return [anchor]
    return [anchor, *map(int, rng.choice(others, k - 1, replace=len(others) < k))]


def group_batches(
    labels: np.ndarray, group: int, batch: int, *, seed: int, epoch: int, steps: int | None = None
) -> Batches:
    """Group sampling (Han et al., 2022): images of a cluster follow each other in groups.

    Clusters are shuffled inside and cut into groups of at most `group` images. The groups follow each other in random
    order, then come the outliers. Batches are cut from that list and taken in random order.

    Args:
        labels: of each image, (N,), outliers as `OUTLIER`.
        group: largest group; 0: all images in random order.
        batch: images in a batch.
        seed: of the run.
        epoch: counted from 0.
        steps: batches, from as many passes as needed; None: one pass.
    """
    clusters = members(labels)
    outliers = np.flatnonzero(labels == OUTLIER)

    def flat(rng: np.random.Generator) -> list[int]:
        if not group:
            return [int(i) for i in rng.permutation(len(labels))]
        shuffled = [rng.permutation(cluster) for cluster in clusters]
        groups = [cluster[i : i + group] for cluster in shuffled for i in range(0, len(cluster), group)]
        ordered = [groups[number] for number in rng.permutation(len(groups))]
        return [int(i) for part in (*ordered, rng.permutation(outliers)) for i in part]

    def batches(number: int) -> Batches:
        found = _cut(flat, batch, (seed, epoch, number))
        order = np.random.default_rng((seed, epoch, number, 1)).permutation(len(found))
        return [found[i] for i in order]

    return passes(batches, steps)


def _cut(flat: Callable[[np.random.Generator], list[int]], size: int, seed: Sequence[int]) -> Batches:
    """Batches cut from one list (or several if one is shorter than a batch); an incomplete batch is left out."""
    rng = np.random.default_rng(list(seed))
    found: list[int] = []
    while len(found) < size:
        more = flat(rng)
        assert more, "no image to draw"
        found += more
    return [found[i : i + size] for i in range(0, len(found) - size + 1, size)]
