"""Pseudo-labels: clusters of features by DBSCAN on Jaccard distances, and their quality."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from msinet.errors import DataError
from msinet.retrieval import jaccard_distances
from msinet.training.recipe import Unsupervised

#: Label of images in no cluster.
OUTLIER = -1


class Quality(NamedTuple):
    """Agreement of pseudo-labels with identities; each outlier counts as a cluster of its own."""

    nmi: float
    """normalised mutual information, in [0, 1]"""
    ari: float
    """adjusted Rand index, at most 1; 0 for chance"""


def distances(features: Tensor, settings: Unsupervised, radius: float | None = None) -> sparse.csr_array:
    """Jaccard distances of features (N, D) by a method's settings, up to `radius` (by default its eps).

    Raises:
        DataError: NaN or infinite features.
        UserError: fewer images than neighbours.
    """
    return jaccard_distances(
        features,
        k1=settings.k1,
        k2=settings.k2,
        radius=settings.eps if radius is None else radius,
        lists=settings.k1 if settings.neighbour_lists == "k1" else None,
        scaled=settings.jaccard_scaled,
    )


def cluster(within: sparse.csr_array, eps: float, min_samples: int) -> np.ndarray:
    """DBSCAN: labels 0, 1, ... of the clusters and `OUTLIER`, (N,) int64.

    Args:
        within: distances (N, N) of `jaccard_distances`; those that are not stored are larger than eps.
        eps: largest distance of neighbours.
        min_samples: neighbours of a core point, itself included.

    Raises:
        ValueError: eps is not above 0.
    """
    from sklearn.cluster import DBSCAN  # takes seconds

    if eps <= 0:
        raise ValueError(f"eps must be above 0, got {eps}")
    found: np.ndarray = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(
        sparse.csr_matrix(within)
    )
    return found.astype(np.int64)


def check_clusters(labels: np.ndarray, settings: Unsupervised, radius: float, *, keeps_outliers: bool) -> None:
    """Check that there are at least two clusters.

    Args:
        labels: of `cluster`, (N,).
        settings: of the method, for the message.
        radius: of DBSCAN, for the message.
        keeps_outliers: whether each outlier is trained as a cluster of its own.

    Raises:
        DataError: no cluster, or one cluster alone.
    """
    count, outliers = int(labels.max(initial=-1)) + 1, int((labels == OUTLIER).sum())
    if count + (outliers if keeps_outliers else 0) > 1:
        return
    what = "no cluster" if count == 0 else "a single cluster"
    name = "closest" if settings.method == "mmt" else "eps"  # mmt computes its radius
    remedy = f"raise {name}, lower min_samples" if count == 0 else f"lower {name}"
    raise DataError(
        f"DBSCAN found {what} among {len(labels)} images ({outliers} outliers; eps {radius:g}, min_samples "
        f"{settings.min_samples}), but {settings.method} needs at least two; {remedy} or start from better weights"
    )


def singletons(labels: np.ndarray) -> np.ndarray:
    """The labels with each outlier as a cluster of its own, after the others."""
    result = labels.copy()
    outliers = labels == OUTLIER
    result[outliers] = int(labels.max(initial=-1)) + 1 + np.arange(outliers.sum())
    return result


def quality(labels: np.ndarray, hidden: np.ndarray) -> Quality:
    """Compare pseudo-labels (N,) with the hidden identities (N,)."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    with _quiet():
        found = singletons(labels)
        return Quality(
            float(normalized_mutual_info_score(hidden, found)), max(-1.0, float(adjusted_rand_score(hidden, found)))
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress scikit-learn's warning about a large number of classes."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        yield


def centroids(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mean of each label's rows: features (N, D) and labels (N,) in [0, count) to (count, D); not normalised."""
    sums = features.new_zeros(count, features.shape[1]).index_add_(0, labels, features)
    return sums / torch.bincount(labels, minlength=count).clamp(min=1)[:, None]
