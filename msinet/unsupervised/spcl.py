"""SpCL (Ge et al., NeurIPS 2020): GS's memory with batches of clusters, of which only reliable ones are kept."""

from typing import Any

import numpy as np
from torch import Tensor

from msinet.unsupervised.pseudo_labels import OUTLIER, cluster, distances, singletons
from msinet.unsupervised.task import InstanceTask


class SelfPaced(InstanceTask):
    """A cluster is reliable if it hardly grows with a larger radius and hardly breaks with a smaller one."""

    threshold = float("nan")
    """largest dissimilarity of a reliable cluster to its looser one; fixed in the first epoch"""

    def find_labels(self, features: Tensor) -> np.ndarray:
        """Clusters without their unreliable images, which become outliers."""
        s = self.settings
        within = distances(features, s, s.eps + s.eps_gap)
        labels, tight, loose = (
            cluster(within, eps, s.min_samples) for eps in (s.eps, max(1e-6, s.eps - s.eps_gap), s.eps + s.eps_gap)
        )
        independence, compactness = dissimilarity(labels, loose), dissimilarity(labels, tight)
        if np.isnan(self.threshold):
            self.threshold = first_threshold(labels, independence, s.reliable)
        return keep_reliable(labels, independence, compactness, self.threshold)

    def state_dict(self) -> dict[str, Any]:
        """The threshold as well."""
        return super().state_dict() | {"threshold": self.threshold}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.threshold = state["threshold"]


def dissimilarity(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 - IoU of each image's cluster and its cluster by other labels, in [0, 1): (N,). Outliers are alone."""
    mine, theirs = singletons(labels), singletons(others)
    _, place, shared = np.unique(np.stack([mine, theirs]), axis=1, return_inverse=True, return_counts=True)
    both = shared[place.ravel()]
    union = np.bincount(mine)[mine] + np.bincount(theirs)[theirs] - both
    apart: np.ndarray = 1 - both / union
    return apart


def smallest_of_cluster(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The smallest value of each cluster's images, (clusters,)."""
    inside = labels != OUTLIER
    result = np.full(int(labels.max(initial=OUTLIER)) + 1, np.inf)
    np.minimum.at(result, labels[inside], values[inside])
    return result


def first_threshold(labels: np.ndarray, independence: np.ndarray, share: float) -> float:
    """The quantile of the clusters' independence, for clusters of several images; 1 without any."""
    several = np.bincount(labels[labels != OUTLIER]) > 1
    found = np.sort(smallest_of_cluster(labels, independence)[several])
    return float(found[min(len(found) - 1, round(len(found) * share))]) if len(found) else 1.0


def keep_reliable(
    labels: np.ndarray, independence: np.ndarray, compactness: np.ndarray, threshold: float
) -> np.ndarray:
    """Labels (N,) numbered anew: an image keeps its cluster if that is independent and the image is at its core.

    Args:
        labels: (N,).
        independence: of each image, (N,); small is independent.
        compactness: of each image, (N,); small is compact.
        threshold: largest independence of a reliable cluster.
    """
    inside = labels != OUTLIER
    independent = smallest_of_cluster(labels, independence) <= threshold
    core = compactness <= np.append(smallest_of_cluster(labels, compactness), np.inf)[labels]
    kept = inside & np.append(independent, False)[labels] & core
    result = np.full_like(labels, OUTLIER)
    result[kept] = np.unique(labels[kept], return_inverse=True)[1]
    return result
