"""Losses that compare unit features with a memory of all images."""

import torch
from torch import Tensor

from msinet.models.heads import ReIDNet
from msinet.unsupervised.pseudo_labels import centroids

#: Added to probabilities before their logarithm, as in the released codes.
EPSILON = 1e-6


def mean_similarities(features: Tensor, memory: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mean cosine of features with the memory's rows of each label: (B, D), (N, D), (N,) to (B, count).

    The mean of the products equals the product with the mean row, which is cheaper.
    """
    return features @ centroids(memory, labels, count).T


def hardest_similarities(similarities: Tensor, labels: Tensor, own: Tensor, count: int) -> Tensor:
    """The hardest similarity per label: the smallest for a feature's own label, else the largest: (B, count).

    Args:
        similarities: with the memory's rows, (B, N).
        labels: of these rows, (N,); every label in [0, count) has a row.
        own: label of each feature, (B,).
        count: number of labels.
    """
    index = labels.expand(len(similarities), -1)
    empty = similarities.new_zeros(len(similarities), count)
    largest = empty.scatter_reduce(1, index, similarities, "amax", include_self=False)
    smallest = empty.scatter_reduce(1, index, similarities, "amin", include_self=False)
    is_own = torch.arange(count, device=own.device) == own[:, None]  # (B, count)
    return torch.where(is_own, smallest, largest)


def contrast(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log(p + 1e-6) with p the softmax of logits (B, count) at the targets (B,)."""
    chosen = logits.softmax(1).gather(1, targets[:, None])
    return -(chosen + EPSILON).log().mean()


@torch.no_grad()
def features_of(network: ReIDNet) -> int:
    """Length D of a network's feature, from one black image; its mode stays unchanged."""
    training = network.training
    device = next(network.parameters()).device
    size = network.image or (64, 32)  # pixels; small ones where any size will do
    length = int(network.eval()(torch.zeros(1, 3, *size, device=device)).shape[1])
    network.train(training)
    return length
