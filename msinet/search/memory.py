"""Memory of one unit vector per identity, used as a classifier (Eq. 2-3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory(nn.Module):
    """Class centres c_n: zeros at first, then rows of unit length.

    Args:
        classes: identities of the side.
        channels: of a feature.
        temperature: tau of Eq. 2.
        momentum: beta of Eq. 3: weight of the old row in an update.
    """

    centres: Tensor

    def __init__(self, classes: int, channels: int, temperature: float = 0.05, momentum: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(classes, channels))  # (n, D)
        self.temperature, self.momentum = temperature, momentum

    def fill(self, features: Tensor, labels: Tensor) -> None:
        """Every row becomes the normalised mean of its class's unit features: features (N, D), labels (N,)."""
        sums = torch.zeros_like(self.centres).index_add_(0, labels, F.normalize(features))
        self.centres.copy_(F.normalize(sums))

    def logits(self, features: Tensor) -> Tensor:
        """f . c_n / tau of unit features: (B, D) to (B, n)."""
        return F.normalize(features) @ self.centres.clone().T / self.temperature  # a clone: rows change before backward

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, turns: int | None = None) -> None:
        """Eq. 3 sample by sample, in batch order: c <- normalise(beta c + (1 - beta) f).

        Args:
            features: (B, D).
            labels: (B,).
            turns: largest number of samples of one class; None: it is counted, which waits for a GPU.
        """
        features = F.normalize(features.detach())
        # Samples of different classes are independent: update with the first of each class, then the second, ...
        earlier = (labels[:, None] == labels).tril(-1).sum(1)  # (B,): how many of its class came before
        # Shapes are fixed, as a CUDA graph needs them: samples of other turns are written to a spare row.
        spare = len(self.centres)
        rows = torch.cat([self.centres, self.centres.new_zeros(1, self.centres.shape[1])])  # (n + 1, D)
        for turn in range(turns or int(earlier.max()) + 1):
            now = torch.where(earlier == turn, labels, spare)  # (B,)
            rows[now] = F.normalize(self.momentum * rows[now] + (1 - self.momentum) * features)
        self.centres.copy_(rows[:spare])
