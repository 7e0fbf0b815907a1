"""ClusterContrast (Dai et al., 2021): a memory of one centre per cluster, refilled in each epoch."""

import torch.nn.functional as F
from torch import Tensor

from msinet.training.fit import Values
from msinet.unsupervised.task import PseudoLabelTask


class ClusterContrast(PseudoLabelTask):
    """Outliers are left out. At the start of each epoch, centres are the clusters' normalised mean features.

    With `hard_update`, only the least similar image of a cluster in a batch updates its centre.
    """

    keeps_outliers = False

    def prepare(self, features: Tensor) -> None:
        """Fill the memory with the clusters' centres."""
        inside = self.targets >= 0
        self.new_memory(self.count, features.shape[1]).fill(features[inside], self.targets[inside])

    def step(self, epoch: int, step: int) -> Values:
        """Classify a batch by the memory, train, and update the memory."""
        del epoch, step
        assert self.memory is not None
        images, positions = self.batches.next()
        features = F.normalize(self.embed(self.network, images).feature)  # (B, D)
        targets = self.targets[positions]  # (B,)
        logits = self.memory.logits(features)  # (B, clusters)
        loss = F.cross_entropy(logits, targets)
        self.optimize(loss)
        rows = hardest(logits.detach(), targets) if self.settings.hard_update else slice(None)
        self.memory.update(features[rows], targets[rows])
        return {"loss": loss.detach(), "accuracy": (logits.argmax(1) == targets).float().mean()}


def hardest(logits: Tensor, targets: Tensor) -> Tensor:
    """The row of each cluster in a batch that is least similar to its centre: (B, clusters), (B,) to (clusters here,).

    Ties: the first one.
    """
    own = logits.gather(1, targets[:, None]).squeeze(1)  # (B,)
    order = own.argsort(stable=True)
    present: Tensor = targets.unique()  # type: ignore[no-untyped-call]
    first = (targets[order] == present[:, None]).int().argmax(1)  # (clusters here,): argmax gives the first
    return order[first]
