"""IDM (Dai et al., ICCV 2021): source, target and intermediate domains, whose features are mixed after the stem."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from msinet.errors import UserError
from msinet.losses import identity_loss, triplet_loss
from msinet.models.heads import ReIDNet
from msinet.training.fit import Row, Values
from msinet.unsupervised.batches import Labelled
from msinet.unsupervised.losses import features_of
from msinet.unsupervised.norms import join_norms, split_norms
from msinet.unsupervised.pseudo_labels import OUTLIER, centroids
from msinet.unsupervised.task import Conditions, PseudoLabelTask, Unlabelled


class Mixer(nn.Module):
    """Mixes the maps of source and target images pair by pair, with weights that depend on both; only in training.

    The weights come from the detached maps: pooled descriptors (mean and maximum), a linear layer for each, their sum,
    two more linear layers, and a softmax. `weights` keeps those of the last batch, (B, 2), with their gradient.

    Args:
        channels: C of the maps (2B, C, H, W): B of the source, then B of the target.
    """

    fresh = True
    """inside the backbone, but not pre-trained: it has the learning rate of the other new layers"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.describe = nn.Linear(2 * channels, channels)
        self.reduce = nn.Linear(channels, channels // 2)
        self.weigh = nn.Linear(channels // 2, 2)
        self.weights: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:  # (2B, C, H, W) -> (3B, C, H, W)
        """Append the mixed maps."""
        if not self.training:
            return x
        source, target = x.chunk(2)
        maps = x.detach()
        pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)  # (2B, 2C)
        first, second = self.describe(pooled).chunk(2)
        weights = self.weigh(self.reduce(first + second)).softmax(1)  # (B, 2)
        self.weights = weights
        of_source, of_target = weights[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1) each
        return torch.cat([x, of_source * source + of_target * target])


class Bridged(nn.Module):
    """A network with domain-specific batch norms and a mixer after its stem, and the classifier of all domains.

    Args:
        network: a network with a convolutional stem; it is copied.
        classes: rows of the classifier: identities of the source and images of the target.

    Raises:
        UserError: the network has no convolutional stem.
    """

    def __init__(self, network: ReIDNet, classes: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        backbone = self.network.backbone
        stem = {"stem": ("stem",), "maxpool": ("bn1", "maxpool")}
        self.last = next((name for name in stem if hasattr(backbone, name)), "")
        if not self.last:
            raise UserError("idm mixes the maps after a convolutional stem, which this network does not have")
        for name in stem[self.last]:  # before the mixer there are two domains
            holder = nn.ModuleDict({name: getattr(backbone, name)})
            split_norms(holder, 2)
            setattr(backbone, name, holder[name])
        split_norms(self.network, 3)
        norms = [one for one in getattr(backbone, stem[self.last][0]).modules() if isinstance(one, _BatchNorm)]
        setattr(backbone, self.last, nn.Sequential(getattr(backbone, self.last), Mixer(norms[-1].num_features)))
        self.classifier = nn.Parameter(torch.zeros(classes, features_of(network)))

    @property
    def mixer(self) -> Mixer:
        """The mixer."""
        found: Mixer = getattr(self.network.backbone, self.last)[1]
        return found

    def target_network(self) -> ReIDNet:
        """A copy of the network for the target, with the target's batch norms and without mixer."""
        self.mixer.weights = None  # part of a graph, which cannot be copied
        network = copy.deepcopy(self.network)
        setattr(network.backbone, self.last, getattr(network.backbone, self.last)[0])
        join_norms(network)
        return network


class CrossBatchMemory:
    """The newest features of earlier batches, first in, first out (XBM).

    A row has a key in place of a label, because the labels of the target change in each epoch.

    Args:
        rows: capacity.
        channels: length of a feature.
        device: of the rows.
    """

    def __init__(self, rows: int, channels: int, device: torch.device) -> None:
        self.features = torch.zeros(rows, channels, device=device)
        self.keys = torch.zeros(rows, dtype=torch.long, device=device)
        self.filled = self.place = 0

    def add(self, features: Tensor, keys: Tensor) -> None:
        """Replace the oldest rows by features (B, D) with keys (B,); by the last ones if not all fit."""
        features, keys = features[-len(self.keys) :], keys[-len(self.keys) :]
        rows = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.features[rows], self.keys[rows] = features.detach(), keys
        self.place = (self.place + len(keys)) % len(self.keys)
        self.filled = min(self.filled + len(keys), len(self.keys))

    def triplet(self, features: Tensor, labels: Tensor, of_keys: Tensor, margin: float) -> Tensor:
        """Mean batch-hard triplet loss of anchors against the memory.

        Args:
            features: of the anchors, (B, D).
            labels: of the anchors, (B,).
            of_keys: current label of each key, (keys,); a row with `OUTLIER` is neither positive nor negative.
            margin: least difference of the distances to negative and positive.
        """
        distance = torch.cdist(features, self.features[: self.filled])  # (B, filled)
        theirs = of_keys[self.keys[: self.filled]]
        same = labels[:, None] == theirs
        positive = distance.masked_fill(~same, 0.0).amax(1)
        negative = distance.masked_fill(same | (theirs == OUTLIER), torch.inf).amin(1)
        return F.relu(positive - negative + margin).mean()

    def state_dict(self) -> dict[str, Any]:
        """The filled rows and the position of the next one."""
        rows = slice(self.filled)
        # Clones: a checkpoint would store the whole memory behind a view.
        return {"features": self.features[rows].clone(), "keys": self.keys[rows].clone(), "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.filled, self.place = len(state["keys"]), state["place"]
        self.features[: self.filled], self.keys[: self.filled] = state["features"], state["keys"]


class IntermediateDomains(PseudoLabelTask):
    """Trains on a labelled source and the clusters of a target, and on mixtures of their images.

    The keys of the memory of earlier batches are the identities of the source, then the images of the target.

    Args:
        network: to train.
        images: of the target.
        conditions: recipe, seed, device.
        source: labelled images.
    """

    keeps_outliers = False

    def __init__(self, network: ReIDNet, images: Unlabelled, conditions: Conditions, source: Labelled) -> None:
        self.source = source
        self.bridged = Bridged(network, source.identities + len(images.pixels)).to(conditions.device)
        super().__init__(self.bridged, images, conditions)
        self.of_source = self.source_batches(source)
        rows = len(source.pixels) + len(images.pixels)
        self.past = CrossBatchMemory(rows, self.bridged.classifier.shape[1], self.device)

    @property
    def trained(self) -> nn.Module:
        """The network for the target."""
        return self.bridged.target_network()

    def initialize(self) -> None:
        """Set the source's rows of the classifier to its class centroids."""
        features = self.extract(self.source.pixels)
        labels = torch.from_numpy(self.source.labels).to(self.device)
        rows = F.normalize(centroids(features, labels, self.source.identities))
        self.bridged.classifier.data[: self.source.identities] = rows

    def prepare(self, features: Tensor) -> None:
        """Set the target's rows of the classifier to the clusters' centroids."""
        inside = self.targets != OUTLIER
        rows = F.normalize(centroids(features[inside], self.targets[inside], self.count))
        first = self.source.identities
        self.bridged.classifier.data[first : first + self.count] = rows

    def begin_epoch(self, epoch: int, step: int) -> Row:
        """Begin the batches of both domains."""
        row = super().begin_epoch(epoch, step)
        self.of_source.draw(epoch, step, int(row["steps"]))
        return row

    def step(self, epoch: int, step: int) -> Values:
        """Train on one batch of each domain and on their mixtures."""
        del epoch, step
        (source, own), (target, positions) = self.of_source.next(), self.batches.next()
        keys = torch.cat([own, positions + self.source.identities])  # (2B,)
        pooled, feature = self.embed(self.bridged.network, torch.cat([source, target]))  # (3B, D) each
        logits = feature @ self.bridged.classifier[: self.source.identities + self.count].T  # (3B, classes)
        mixtures = self.bridged.mixer.weights
        assert mixtures is not None
        parts = self.losses(pooled, logits, keys, mixtures)
        self.optimize(parts["loss"])
        accuracy = (logits[: len(keys)].argmax(1) == self.label_of_key[keys]).float().mean()
        return {name: value.detach() for name, value in parts.items()} | {"accuracy": accuracy}

    @property
    def label_of_key(self) -> Tensor:
        """Current labels of the source's identities, then of the target's images: (identities + N,)."""
        first = self.source.identities
        of_target = torch.where(self.targets == OUTLIER, OUTLIER, self.targets + first)
        return torch.cat([torch.arange(first, device=self.device), of_target])

    def losses(self, pooled: Tensor, logits: Tensor, keys: Tensor, mixtures: Tensor) -> dict[str, Tensor]:
        """The total loss and its parts; pooled features of source and target enter the memory of earlier batches.

        Args:
            pooled: (3B, D) of source, target and mixed images.
            logits: (3B, classes).
            keys: (2B,) of source and target.
            mixtures: (B, 2), weights of source and target.
        """
        settings, losses, both = self.settings, self.recipe.losses, len(keys)
        labels = self.label_of_key[keys]  # (2B,)
        parts = {
            "identity": identity_loss(logits[:both], labels, losses.label_smoothing),
            "triplet": triplet_loss(pooled[:both], labels, losses.margin, normalize=False),
            "bridge_prob": mixed_identity_loss(logits[both:], labels, mixtures.detach()[:, 0], losses.label_smoothing),
            "bridge_feat": bridge(pooled, mixtures),
            "diversity": -mixtures.std(0, correction=0).sum(),
        }
        total = settings.identity_weight * parts["identity"] + parts["triplet"]
        total = total + settings.bridge_prob * parts["bridge_prob"] + settings.bridge_feat * parts["bridge_feat"]
        total = total + settings.diversity * parts["diversity"]
        if settings.cross_batch:
            self.past.add(pooled[:both], keys)
            parts["cross_batch"] = self.past.triplet(pooled[:both], labels, self.label_of_key, losses.margin)
            total = total + parts["cross_batch"]
        return {"loss": total, **parts}

    def state_dict(self) -> dict[str, Any]:
        """The state, with the memory of earlier batches."""
        return super().state_dict() | {"past": self.past.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.past.load_state_dict(state["past"])


def mixed_identity_loss(logits: Tensor, labels: Tensor, share: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of mixed images with both labels, weighted by the mixture and smoothed.

    Args:
        logits: (B, classes).
        labels: (2B,), of the sources and of the targets that were mixed.
        share: (B,), weight of the source; the target has the rest.
        smoothing: epsilon in [0, 1].
    """
    first, second = labels.chunk(2)
    logs = logits.log_softmax(1)
    own = share * logs.gather(1, first[:, None])[:, 0] + (1 - share) * logs.gather(1, second[:, None])[:, 0]
    return -((1 - smoothing) * own + smoothing * logs.mean(1)).mean()


def bridge(pooled: Tensor, mixtures: Tensor) -> Tensor:
    """Mean distance of mixed features to source and target, weighted by the mixture: (3B, D), (B, 2) to a scalar."""
    source, target, mixed = pooled.chunk(3)
    distance = torch.stack([(mixed - source).norm(dim=1), (mixed - target).norm(dim=1)], 1)  # (B, 2)
    return (mixtures * distance).sum(1).mean()
