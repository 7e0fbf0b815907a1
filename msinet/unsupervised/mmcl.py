"""MMCL (Wang and Zhang, CVPR 2020): multi-label classification by a memory of all images, without clusters.

The authors' images of generated camera styles are left out, as in their ablation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from msinet.training.fit import Row, Values
from msinet.training.graphs import set_learning_rate
from msinet.unsupervised.task import InstanceTask

#: Candidates that are checked at once.
BLOCK = 16


class MultiLabels(InstanceTask):
    """The labels of an image are itself and the images that are mutually similar to it.

    There are no clusters; the history has `positives`, the mean number of labels of an image.
    """

    def begin_epoch(self, epoch: int, step: int) -> Row:
        """Plan random batches and set learning rate and momentum of the memory, which rises from 0."""
        learning_rate = self.learning_rate(epoch)
        set_learning_rate(self.optimizer, learning_rate)
        self.rows.momentum = self.settings.memory_momentum * epoch / self.epochs
        plan = self.random_plan(epoch, self.recipe.sampler.steps_per_epoch)
        self.network.train()
        return {"steps": self.batches.begin(plan, epoch, step), "lr": learning_rate}

    def step(self, epoch: int, step: int) -> Values:
        """Train a batch on its labels and update the memory."""
        del step
        images, positions = self.batches.next()
        features = F.normalize(self.embed(self.network, images).feature)  # (B, D)
        memory = self.rows.centres.clone()  # rows change before backward
        if epoch < self.settings.single_share * self.epochs:
            positive = F.one_hot(positions, len(memory)).bool()
        else:
            positive = positives(memory, positions, self.settings.similarity)
        loss = multi_label_loss(features @ memory.T, positive, self.settings.positive_weight, self.settings.hardest)
        self.optimize(loss)
        self.rows.update(features, positions)
        return {"loss": loss.detach(), "positives": positive.sum(1).float().mean()}


@torch.no_grad()
def positives(memory: Tensor, images: Tensor, similarity: float) -> Tensor:
    """Labels by similarity and cycle consistency: memory (N, D) of unit rows and positions (B,) to (B, N) bool.

    The candidates of an image are the k rows with a cosine above `similarity`, most similar first. They are labels up
    to the first candidate whose own k most similar rows lack the image. An image is always its own label.
    """
    own = memory[images] @ memory.T  # (B, N)
    own.scatter_(1, images[:, None], torch.inf)  # first, whatever rounding does
    order = own.argsort(dim=1, descending=True, stable=True)  # (B, N)
    candidates = (own > similarity).sum(1)  # (B,): k, at least 1
    agreed, open_ = torch.ones_like(candidates), candidates > 1
    for start in range(1, len(memory), BLOCK):
        if not open_.any():
            break
        rows = open_.nonzero()[:, 0]  # (R,)
        block = order[rows, start : start + BLOCK]  # (R, b)
        theirs = memory[block] @ memory.T  # (R, b, N)
        back = theirs.gather(2, images[rows][:, None, None].expand(-1, block.shape[1], 1))  # (R, b, 1): with the image
        rank = (theirs > back).sum(2)  # (R, b): rows that are more similar to them, themselves included
        places = start + torch.arange(block.shape[1], device=memory.device)
        fits = (rank < candidates[rows, None]) & (places < candidates[rows, None])
        run = fits.long().cumprod(1).sum(1)  # (R,): before the first that does not fit
        agreed[rows] += run
        open_[rows] = run == block.shape[1]
    kept = torch.arange(len(memory), device=memory.device) < agreed[:, None]  # (B, N), along the order
    return torch.zeros_like(kept).scatter_(1, order, kept)


def multi_label_loss(cosines: Tensor, positive: Tensor, weight: float, hardest: float) -> Tensor:
    """Mean over images of weight * mean (1 - s)^2 of the positives + mean (1 + s)^2 of the hardest negatives.

    Args:
        cosines: with the memory's rows, (B, N).
        positive: labels, (B, N) bool, at least one per image.
        weight: delta of the positives.
        hardest: share of an image's negatives that count, the most similar ones; at least one if there is one.
    """
    near = ((1 - cosines).square() * positive).sum(1) / positive.sum(1)  # (B,)
    negatives = (~positive).sum(1)  # (B,)
    count = (hardest * negatives).long().clamp(min=1).minimum(negatives)  # (B,)
    ranked = cosines.masked_fill(positive, -torch.inf).sort(1, descending=True).values[:, : int(count.max())]
    chosen = torch.arange(ranked.shape[1], device=cosines.device) < count[:, None]
    far = ((1 + ranked.masked_fill(~chosen, -1)).square()).sum(1) / count.clamp(min=1)  # (B,)
    return (weight * near + far).mean()
