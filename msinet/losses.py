"""The losses of training (Sec. 3.2, Eq. 5-6; SPEC A.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with label smoothing (Eq. 5).

    The target is (1 - smoothing) * one-hot + smoothing / identities.

    Args:
        logits: (B, identities).
        labels: (B,), in [0, identities).
        smoothing: in [0, 1]; 0 is plain cross-entropy.
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def triplet_loss(embeddings: Tensor, labels: Tensor, margin: float = 0.3, *, normalize: bool = True) -> Tensor:
    """Batch-hard triplet loss (Eq. 6): the farthest positive against the nearest negative of each anchor.

    The anchor counts among its own positives, which is harmless: its distance is the smallest. An
    anchor whose batch holds no other identity has no negative and costs nothing.

    Args:
        embeddings: (B, D).
        labels: (B,).
        margin: by how much a negative must be farther than a positive.
        normalize: compare unit vectors, so that distances lie in [0, 2] (the released code does).
    """
    embeddings = embeddings.float()
    if normalize:
        embeddings = F.normalize(embeddings)
    square = embeddings.square().sum(1)
    # |a - b|^2 by one matrix product; clamped because rounding can push it below 0.
    distance = (square[:, None] + square - 2 * embeddings @ embeddings.T).clamp(min=1e-12).sqrt()  # (B, B)
    same = labels[:, None] == labels
    hardest_positive = distance.masked_fill(~same, 0.0).amax(1)  # (B,)
    hardest_negative = distance.masked_fill(same, torch.inf).amin(1)  # (B,)
    return F.relu(hardest_positive - hardest_negative + margin).mean()
