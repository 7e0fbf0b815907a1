"""MMT (Ge et al., ICLR 2020): two networks learn from clusters and from each other's moving average."""

import copy
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from msinet.losses import identity_loss, triplet_loss
from msinet.models.heads import ReIDNet
from msinet.training.fit import Row, Values
from msinet.training.graphs import set_learning_rate
from msinet.training.recipe import Unsupervised, with_settings
from msinet.training.supervised import build_optimizer
from msinet.unsupervised.batches import Labelled
from msinet.unsupervised.losses import features_of
from msinet.unsupervised.pseudo_labels import OUTLIER, centroids, cluster, distances
from msinet.unsupervised.task import Conditions, PseudoLabelTask, Unlabelled
from msinet.unsupervised.teacher import average, frozen

#: Radius up to which distances are computed before the radius of DBSCAN is known; larger ones count as 1.
WIDEST = 0.99
#: The radius of DBSCAN stays at least this far below `WIDEST`.
GAP = 0.02
#: Distances up to this are those of equal encodings.
ZERO = 1e-6


class Classified(NamedTuple):
    """Output of a learner for a batch."""

    pooled: Tensor  # (B, D): before the batch norm, for triplets
    logits: Tensor  # (B, classes)


class Learner(nn.Module):
    """A network and a classifier; only the first rows of the classifier are used.

    Args:
        network: to train; it is copied.
        classes: number of rows.
    """

    def __init__(self, network: ReIDNet, classes: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.classifier = nn.Parameter(0.001 * torch.randn(classes, features_of(network)))

    def forward(self, images: Tensor, classes: int) -> Classified:  # (B, 3, H, W)
        """Pooled features, and logits of the first classes."""
        pooled, feature = self.network.embed(images)
        return Classified(pooled, feature @ self.classifier[:classes].T)


class Couple(nn.Module):
    """Two learners, and their teachers, which are their moving averages."""

    def __init__(self, network: ReIDNet, classes: int) -> None:
        super().__init__()
        self._learners = nn.ModuleList(Learner(network, classes) for _ in range(2))
        self._teachers = copy.deepcopy(self._learners)
        frozen(self._teachers)

    @property
    def learners(self) -> list[Learner]:
        """Both learners."""
        return [cast(Learner, one) for one in self._learners]

    @property
    def teachers(self) -> list[Learner]:
        """The teacher of the first and of the second learner."""
        return [cast(Learner, one) for one in self._teachers]

    def copy_to_teachers(self) -> None:
        """Make the teachers equal to the learners, statistics of batch norms included."""
        self._teachers.load_state_dict(self._learners.state_dict())

    def move_teachers(self, decay: float) -> None:
        """Move the teachers' parameters towards the learners'."""
        average(self._teachers, self._learners, decay)


class MutualMeanTeaching(PseudoLabelTask):
    """Both networks train first on the source, each with its own batches, then on the target's clusters.

    Each learns from the clusters and from the other's teacher, which sees another view of the same images. As in the
    released code, random erasing is only for the adaptation. The result is always the first teacher; the released code
    keeps the better of both on the test set. The radius of DBSCAN is the mean distance of the closest pairs at the
    start of the adaptation.

    Args:
        network: to train.
        images: of the target.
        conditions: recipe, seed, device.
        source: labelled images.
    """

    keeps_outliers = False

    def __init__(self, network: ReIDNet, images: Unlabelled, conditions: Conditions, source: Labelled) -> None:
        self.source = source
        self.couple = Couple(network, max(source.identities, len(images.pixels))).to(conditions.device)
        super().__init__(self.couple, images, conditions)
        self.source_epochs = int(self.settings.source_share * self.epochs)
        without_erasing = with_settings(self.recipe, {"erase": 0.0})
        first = self.source_batches(source, recipe=without_erasing)
        self.of_source = [first, self.source_batches(source, 2, first.resident, without_erasing)]
        self.for_norms = self.batches_of(images.pixels, 0, self.batches.resident, without_erasing)
        """images of the target that only update batch norms while the source is learned"""
        self.second_view = self.batches_of(images.pixels, 3, self.batches.resident)
        self.adapting = False
        self.taken = 0
        """steps of the adaptation"""

    @property
    def trained(self) -> nn.Module:
        """The first teacher; before the adaptation, the first learner."""
        return (self.couple.teachers if self.adapting else self.couple.learners)[0].network

    def learning_rate(self, epoch: int) -> float:
        """The learning rate: by schedule on the source, constant during the adaptation."""
        return self.recipe.learning_rate(epoch) if epoch < self.source_epochs else self.recipe.optimizer.lr

    def begin_epoch(self, epoch: int, step: int) -> Row:
        """Begin an epoch of the source or of the adaptation."""
        if epoch < self.source_epochs:
            return self.begin_source(epoch, step)
        if not self.adapting:
            self.couple.copy_to_teachers()
            self.adapting = True
        row = super().begin_epoch(epoch, step)
        self.second_view.begin(self.batches.plan, epoch, step)
        return row

    def begin_source(self, epoch: int, step: int) -> Row:
        """Plan batches of the source for each network, and random ones of the target."""
        learning_rate, longest = self.learning_rate(epoch), self.recipe.sampler.steps_per_epoch
        set_learning_rate(self.optimizer, learning_rate)
        self.network.train()
        steps = min(batches.draw(epoch, step, longest) for batches in self.of_source)
        return {"steps": self.for_norms.begin(self.random_plan(epoch, steps), epoch, step), "lr": learning_rate}

    def clustered_features(self) -> Tensor:
        """Mean of both teachers' features."""
        first, second = (self.extract_by(learner.network) for learner in self.couple.teachers)
        return F.normalize(first + second)

    def find_labels(self, features: Tensor) -> np.ndarray:
        """Cluster with DBSCAN; its radius is computed once, in the first epoch of the adaptation."""
        within = distances(features, self.settings, self.radius if self.labelled >= 0 else WIDEST)
        if self.labelled < 0:
            self.radius = first_radius(within, self.settings)
        return cluster(within, self.radius, self.settings.min_samples)

    def prepare(self, features: Tensor) -> None:
        """Set the classifiers to the clusters' centroids and reset the optimizer."""
        inside = self.targets != OUTLIER
        rows = F.normalize(centroids(features[inside], self.targets[inside], self.count))
        for learner in (*self.couple.learners, *self.couple.teachers):
            learner.classifier.data[: self.count] = rows
        self.optimizer = build_optimizer(self.couple, self.recipe)

    def step(self, epoch: int, step: int) -> Values:
        """Train both networks, on the source or on the target."""
        del epoch, step
        return self.adapt() if self.adapting else self.learn_source()

    def learn_source(self) -> Values:
        """Train each network on a batch of the source; images of the target only update batch norm statistics."""
        target, _ = self.for_norms.next()
        total, right = torch.zeros((), device=self.device), []
        for learner, batches in zip(self.couple.learners, self.of_source, strict=True):
            images, labels = batches.next()
            pooled, logits = learner(images, self.source.identities)
            total = total + self.hard_losses(pooled, logits, labels).sum()
            right.append((logits.argmax(1) == labels).float().mean())
            with torch.no_grad():
                learner.network.embed(target)
        self.optimize(total)
        return {"loss": total.detach(), "accuracy": torch.stack(right).mean()}

    def adapt(self) -> Values:
        """Train both networks by clusters and teachers, then update the teachers."""
        (images, positions), (others, _) = self.batches.next(), self.second_view.next()
        labels, views = self.targets[positions], (images, others)
        students = [learner(view, self.count) for learner, view in zip(self.couple.learners, views, strict=True)]
        with torch.no_grad():
            teachers = [teacher(view, self.count) for teacher, view in zip(self.couple.teachers, views, strict=True)]
        soft = students[0].pooled.new_tensor([self.settings.soft_identity, self.settings.soft_triplet])
        hard_part = soft_part = torch.zeros(2, device=self.device)
        for mine, theirs in zip(students, reversed(teachers), strict=True):
            hard_part = hard_part + self.hard_losses(mine.pooled, mine.logits, labels)
            soft_part = soft_part + torch.stack(
                [soft_identity_loss(mine.logits, theirs.logits), soft_triplet_loss(mine.pooled, theirs.pooled, labels)]
            )
        loss = ((1 - soft) * hard_part + soft * soft_part).sum()
        self.optimize(loss)
        decay = min(1 - 1 / (self.taken + 1), self.settings.teacher_decay)
        self.couple.move_teachers(decay)
        self.taken += 1
        accuracy = torch.stack([(mine.logits.argmax(1) == labels).float().mean() for mine in students]).mean()
        parts = {"hard": hard_part, "soft": soft_part}
        return {"loss": loss.detach(), "accuracy": accuracy} | {
            f"{kind}_{name}": values[place].detach()
            for kind, values in parts.items()
            for place, name in enumerate(("identity", "triplet"))
        }

    def hard_losses(self, pooled: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Identity and soft-margin triplet loss of pooled (B, D), logits (B, classes) and labels (B,): (2,)."""
        identity = identity_loss(logits, labels, self.recipe.losses.label_smoothing)
        return torch.stack([identity, triplet_loss(pooled, labels, None, normalize=False)])

    def state_dict(self) -> dict[str, Any]:
        """The state, with phase, steps and radius."""
        mine = {"adapting": self.adapting, "taken": self.taken, "radius": self.radius}
        return super().state_dict() | mine

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.adapting, self.taken, self.radius = state["adapting"], state["taken"], state["radius"]


def first_radius(within: sparse.csr_array, settings: Unsupervised) -> float:
    """The radius of DBSCAN: the mean distance of the closest pairs, from distances up to `WIDEST` (N, N)."""
    return min(max(closest(within, settings.closest), 1e-6), WIDEST - GAP)


def closest(within: sparse.csr_array, share: float) -> float:
    """Mean of the smallest `share` of all pairwise distances (at least one), from stored distances (N, N).

    Distances that are not stored count as 1; those of 0 are left out, as in the released code.
    """
    upper = sparse.triu(within, 1).data
    upper = np.sort(upper[upper > ZERO])
    pairs = within.shape[0] * (within.shape[0] - 1) // 2
    count = max(1, round(share * pairs))
    found = upper[:count]
    return float((found.sum() + (count - len(found))) / count)


def soft_identity_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with a teacher's probabilities, both from logits (B, classes)."""
    return -(teacher.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def soft_triplet_loss(pooled: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy between student and teacher: softmax of the distances to the hardest positive and negative.

    Args:
        pooled: (B, D) of the student, which chooses the hardest pairs.
        teacher: (B, D') of the teacher, for distances of the same pairs.
        labels: (B,).
    """
    same = labels[:, None] == labels
    distance = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
    with torch.no_grad():
        positive = distance.masked_fill(~same, -1).argmax(1)  # (B,)
        negative = distance.masked_fill(same, torch.inf).argmin(1)
        pairs = torch.stack([positive, negative], 1)  # (B, 2)
        theirs = torch.cdist(teacher, teacher, compute_mode="donot_use_mm_for_euclid_dist").gather(1, pairs)
        several = ~same.all(1)  # an anchor without a negative has loss 0
    return -((theirs.softmax(1) * distance.gather(1, pairs).log_softmax(1)).sum(1) * several).mean()
