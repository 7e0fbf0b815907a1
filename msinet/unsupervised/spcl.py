"""SpCL (Ge et al., NeurIPS 2020): memory of all images, P x K batches, and only reliable clusters."""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet.training.fit import Row, Values
from msinet.unsupervised.batches import Labelled
from msinet.unsupervised.losses import contrast, mean_similarities
from msinet.unsupervised.norms import join_norms, split_norms
from msinet.unsupervised.pseudo_labels import OUTLIER, centroids, cluster, distances, singletons
from msinet.unsupervised.task import Conditions, InstanceTask, Unlabelled


class SelfPaced(InstanceTask):
    """A cluster is reliable if it hardly grows with a larger radius and hardly splits with a smaller one."""

    threshold = float("nan")
    """largest dissimilarity of a reliable cluster to its looser one; fixed in the first epoch with a cluster
    of several images, 1 before"""

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
        return keep_reliable(labels, independence, compactness, np.nan_to_num(self.threshold, nan=1.0))

    def state_dict(self) -> dict[str, Any]:
        """The state, with the threshold."""
        return super().state_dict() | {"threshold": self.threshold}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.threshold = state["threshold"]


class SelfPacedAdaptation(SelfPaced):
    """SpCL from a labelled source: the memory has a row for each identity of the source, then one per target image.

    Source and target have separate batch norms; the result has the target's.

    Args:
        network: to train.
        images: of the target.
        conditions: recipe, seed, device.
        source: labelled images.
    """

    def __init__(self, network: nn.Module, images: Unlabelled, conditions: Conditions, source: Labelled) -> None:
        split = copy.deepcopy(network)
        split_norms(split, 2)
        super().__init__(split, images, conditions)
        self.source, self.of_source = source, self.source_batches(source)

    @property
    def trained(self) -> nn.Module:
        """A copy of the network with the target's batch norms."""
        network = copy.deepcopy(self.network)
        join_norms(network)
        return network

    def initialize(self) -> None:
        """Fill the memory with the source's class centroids and the features of the target's images."""
        labels = torch.from_numpy(self.source.labels).to(self.device)
        rows = F.normalize(centroids(self.extract(self.source.pixels), labels, self.source.identities))
        rows = torch.cat([rows, self.extract()])  # (identities + N, D)
        self.new_memory(*rows.shape).centres.copy_(rows)

    def clustered_features(self) -> Tensor:
        """The memory's rows of the target."""
        return self.rows.centres[self.source.identities :].clone()

    def begin_epoch(self, epoch: int, step: int) -> Row:
        """Begin the batches of both domains."""
        row = super().begin_epoch(epoch, step)
        self.of_source.draw(epoch, step, int(row["steps"]))
        return row

    def step(self, epoch: int, step: int) -> Values:
        """Compare a batch of each domain with the rows of both, train, and update the rows."""
        del epoch, step
        (source, own), (target, positions) = self.of_source.next(), self.batches.next()
        features = F.normalize(self.embed(self.network, torch.cat([source, target])).feature)  # (2B, D)
        labels = torch.cat([own, self.targets[positions] + self.source.identities])  # (2B,)
        logits = self.logits(features, labels)  # (2B, identities + labels)
        of_source, of_target = (contrast(*half) for half in zip(logits.chunk(2), labels.chunk(2), strict=True))
        self.optimize(of_source + of_target)
        self.rows.update(features, torch.cat([own, positions + self.source.identities]))
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {
            "loss": (of_source + of_target).detach(),
            "source": of_source.detach(),
            "target": of_target.detach(),
            "accuracy": accuracy,
        }

    def logits(self, features: Tensor, own: Tensor) -> Tensor:
        """Mean cosine with each label's rows over the temperature; labels of the source come first."""
        del own
        first = self.source.identities
        labels = torch.cat([torch.arange(first, device=self.device), self.targets + first])  # of the rows
        return mean_similarities(features, self.rows.centres, labels, first + self.count) / self.rows.temperature


def dissimilarity(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 - IoU of each image's clusters by both labels, in [0, 1): (N,). Outliers are clusters of one image."""
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
    """The quantile `share` of the independence of clusters with several images; NaN without such clusters."""
    several = np.bincount(labels[labels != OUTLIER]) > 1
    found = np.sort(smallest_of_cluster(labels, independence)[several])
    return float(found[min(len(found) - 1, round(len(found) * share))]) if len(found) else float("nan")


def keep_reliable(
    labels: np.ndarray, independence: np.ndarray, compactness: np.ndarray, threshold: float
) -> np.ndarray:
    """Renumbered labels (N,): an image keeps its cluster if the cluster is independent and the image is in its core.

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
