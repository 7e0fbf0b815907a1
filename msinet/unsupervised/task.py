"""Base classes of tasks that alternate between pseudo-labels and training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet.data.loading import PixelSource
from msinet.data.resident import ResidentImages
from msinet.models.heads import Embedding
from msinet.search.memory import Memory
from msinet.training.evaluation import embed
from msinet.training.fit import Row, Task, Values, is_due
from msinet.training.graphs import set_learning_rate
from msinet.training.recipe import Recipe
from msinet.training.supervised import build_optimizer
from msinet.unsupervised.batches import Labelled, PlannedBatches, SourceBatches
from msinet.unsupervised.losses import contrast, mean_similarities
from msinet.unsupervised.pseudo_labels import OUTLIER, check_clusters, cluster, distances, quality, singletons
from msinet.unsupervised.samplers import gallery_batches, group_batches


@dataclass(frozen=True)
class Unlabelled:
    """Images to learn from without their identities."""

    pixels: PixelSource
    cameras: np.ndarray
    """(N,); all equal where they are not known"""
    hidden: np.ndarray | None = None
    """(N,) identities, which are compared with the clusters and otherwise not used; None: not known"""


@dataclass(frozen=True)
class Conditions:
    """Settings of a task: recipe, seed, device and evaluation."""

    recipe: Recipe
    seed: int
    """derived seed of batches and augmentation"""
    device: torch.device
    workers: int = 0
    evaluate: Callable[[nn.Module], Row] | None = None
    """metrics of a network on the test set, for curves"""
    evaluate_every: int = 0
    """epochs between evaluations; 0: never"""
    progress: bool = False
    """show a bar while features are extracted"""


class PseudoLabelTask(Task):
    """In each epoch, images are clustered and the network is trained with the clusters as labels.

    The clusters, the memory and the optimizer are part of the state: an epoch that is resumed keeps its labels.

    Args:
        network: with `embed`, on the conditions' device; its evaluation output is the feature.
        images: to cluster.
        conditions: recipe, seed, device.
    """

    keeps_outliers: ClassVar[bool] = True
    """whether images in no cluster are trained as clusters of their own"""

    def __init__(self, network: nn.Module, images: Unlabelled, conditions: Conditions) -> None:
        self.network, self.images, self.conditions = network, images, conditions
        self.recipe, self.settings = conditions.recipe, conditions.recipe.method_settings
        self.epochs, self.seed, self.device = self.recipe.schedule.epochs, conditions.seed, conditions.device
        self.radius = self.settings.eps
        """of DBSCAN; mmt computes its own"""
        self.batches = self.batches_of(images.pixels)
        self.optimizer = build_optimizer(network, self.recipe)
        self.labels = np.full(len(images.pixels), OUTLIER)
        """of the current epoch, (N,), outliers as `OUTLIER`"""
        self.labelled = -1
        """epoch of the labels"""
        self.memory: Memory | None = None

    # --- Methods override these ---

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        return self.recipe.learning_rate(epoch)

    def clustered_features(self) -> Tensor:
        """Features (N, D) that are clustered at the start of an epoch."""
        return self.extract()

    def find_labels(self, features: Tensor) -> np.ndarray:
        """Pseudo-labels (N,) of features (N, D)."""
        return cluster(distances(features, self.settings), self.radius, self.settings.min_samples)

    def prepare(self, features: Tensor) -> None:
        """Prepare memories for the epoch's labels."""

    def plan(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch: P clusters with K images each."""
        sampler = self.recipe.sampler
        return gallery_batches(
            self.targets.cpu().numpy(),
            self.images.cameras,
            (sampler.identities, sampler.images),
            seed=self.seed,
            epoch=epoch,
            steps=sampler.steps_per_epoch,
        )

    # --- Shared by all methods ---

    def source_batches(
        self, source: Labelled, stream: int = 1, resident: ResidentImages | None = None, recipe: Recipe | None = None
    ) -> SourceBatches:
        """Batches of a source; arguments as in `batches_of`."""
        seed, workers = self.seed + stream, self.conditions.workers
        return SourceBatches(source, recipe or self.recipe, seed, self.device, workers, resident=resident)

    def batches_of(
        self, pixels: PixelSource, stream: int = 0, resident: ResidentImages | None = None, recipe: Recipe | None = None
    ) -> PlannedBatches:
        """Batches of images.

        Args:
            pixels: the images.
            stream: different streams have different augmentation.
            resident: of other batches of the same images, to share their copy on the device.
            recipe: with the augmentation; None: that of the task.
        """
        seed, workers = self.seed + stream, self.conditions.workers
        return PlannedBatches(pixels, recipe or self.recipe, seed, self.device, workers, resident=resident)

    def random_plan(self, epoch: int, steps: int | None) -> list[list[int]]:
        """Batches of images in random order, without regard to clusters; `steps` None: one pass."""
        return group_batches(self.labels, 0, self.recipe.sampler.batch, seed=self.seed, epoch=epoch, steps=steps)

    def extract(self, pixels: PixelSource | None = None) -> Tensor:
        """Unit features (N, D) of images (None: all to cluster) by the trained network, on the device."""
        return self.extract_by(self.trained, pixels)

    def extract_by(self, network: nn.Module, pixels: PixelSource | None = None) -> Tensor:
        """Unit features of another network."""
        chosen = self.images.pixels if pixels is None else pixels
        found = embed(network, chosen, self.device, progress=self.conditions.progress)
        return F.normalize(found.to(self.device).clone())  # a clone: inference tensors cannot be used in training

    def begin_epoch(self, epoch: int, step: int) -> Row:
        """Cluster, unless an interrupted epoch continues; then plan the batches and set the learning rate.

        Raises:
            DataError: no cluster or a single one, or NaN or infinite features.
            UserError: fewer images than neighbours.
        """
        if self.labelled != epoch:
            features = self.clustered_features()
            labels = self.find_labels(features.cpu())
            check_clusters(labels, self.settings, self.radius, keeps_outliers=self.keeps_outliers)
            self.set_labels(labels, epoch)
            self.prepare(features)
        learning_rate = self.learning_rate(epoch)
        set_learning_rate(self.optimizer, learning_rate)
        self.network.train()
        return {"steps": self.batches.begin(self.plan(epoch), epoch, step), "lr": learning_rate, **self.cluster_row()}

    def set_labels(self, labels: np.ndarray, epoch: int) -> None:
        """Set the labels of an epoch."""
        self.labels, self.labelled = labels, epoch
        trained = singletons(labels) if self.keeps_outliers else labels
        self.targets = torch.from_numpy(trained).to(self.device)
        """trained label of each image, (N,); `OUTLIER` for those left out"""
        self.count = int(trained.max()) + 1
        """number of trained labels"""

    def cluster_row(self) -> Row:
        """Number of clusters and outliers, and their agreement with the hidden identities, if those are known."""
        row: Row = {"clusters": int(self.labels.max()) + 1, "outliers": int((self.labels == OUTLIER).sum())}
        return row if self.images.hidden is None else row | quality(self.labels, self.images.hidden)._asdict()

    def end_epoch(self, epoch: int) -> Row:
        """Evaluate every `evaluate_every` epochs."""
        if self.conditions.evaluate is None or not is_due(epoch, self.conditions.evaluate_every):
            return {}
        row = self.conditions.evaluate(self.trained)
        self.network.train()
        return row

    def embed(self, network: nn.Module, images: Tensor) -> Embedding:
        """Features of images in training, differentiable: (B, 3, H, W) to (B, D) before and after the batch norm."""
        return cast(Embedding, network.embed(images))  # type: ignore[operator]

    def optimize(self, loss: Tensor) -> None:
        """Backward pass and step of the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """State of network, optimizer, memory and pseudo-labels."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "labels": torch.from_numpy(self.labels),
            "labelled": self.labelled,
            "memory": None if self.memory is None else self.memory.centres,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["labelled"] >= 0:
            self.set_labels(state["labels"].numpy(), state["labelled"])
        if state["memory"] is not None:
            self.new_memory(*state["memory"].shape).centres.copy_(state["memory"])

    def new_memory(self, rows: int, channels: int) -> Memory:
        """Start an empty memory with that many rows."""
        memory = Memory(rows, channels, self.settings.memory_temperature, self.settings.memory_momentum)
        self.memory = memory.to(self.device)
        return self.memory


class InstanceTask(PseudoLabelTask):
    """Methods with a memory of all images, which is clustered at the start of each epoch."""

    def initialize(self) -> None:
        """Fill the memory with the features of the initial network."""
        features = self.extract()
        self.new_memory(*features.shape).centres.copy_(features)

    @property
    def rows(self) -> Memory:
        """The memory; one row per image."""
        assert self.memory is not None
        return self.memory

    def clustered_features(self) -> Tensor:
        """The memory's rows."""
        return self.rows.centres.clone()

    def step(self, epoch: int, step: int) -> Values:
        """Compare a batch with the memory, train, and update the memory's rows of its images."""
        del epoch, step
        images, positions = self.batches.next()
        features = F.normalize(self.embed(self.network, images).feature)  # (B, D)
        targets = self.targets[positions]  # (B,)
        logits = self.logits(features, targets)
        loss = contrast(logits, targets)
        self.optimize(loss)
        self.rows.update(features, positions)
        return {"loss": loss.detach(), "accuracy": (logits.argmax(1) == targets).float().mean()}

    def logits(self, features: Tensor, own: Tensor) -> Tensor:
        """Mean cosine with each label's rows over the temperature: (B, D) and own labels (B,) to (B, labels)."""
        del own
        return mean_similarities(features, self.rows.centres, self.targets, self.count) / self.rows.temperature
