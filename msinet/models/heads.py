"""Necks: pooling, embeddings and classifiers that follow a backbone (docs/method.md).

Every neck takes the local map and the final map of a backbone. In training it returns an `Output`;
in evaluation one feature row per image.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet.errors import UserError, unknown_name
from msinet.models.blocks import ConvBN, init_weights
from msinet.models.sam import PositionActivation

#: Number of stripes in PCB, and of channels of a reduced part.
PARTS, REDUCED = 6, 256


class Output(NamedTuple):
    """Input of the losses in training; one entry per branch of the neck."""

    logits: tuple[Tensor, ...]  # (B, identities): for the identity loss (Eq. 5)
    embeddings: tuple[Tensor, ...]  # (B, D): for the triplet loss (Eq. 6)
    feature_map: Tensor  # (B, C, H, W): the final map, for spatial alignment (Eq. 7)
    activation: Tensor | None = None  # (B, H*W): activations of positions, if the network has a PAM


class Embedding(NamedTuple):
    """Features of images, differentiable in either mode."""

    pooled: Tensor  # (B, D): before the batch norm, for triplet losses
    feature: Tensor  # (B, D): the test feature


class ReIDNet(nn.Module):
    """A backbone and a head. In evaluation mode `net(images)` is (B, D), one feature row per image."""

    def __init__(self, backbone: nn.Module, head: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.channels = channels  # of the final map
        self.image: tuple[int, int] | None = None  # the required (height, width), if layers depend on it
        self.pam: PositionActivation | None = None  # for spatial alignment, only in training

    def forward(self, images: Tensor) -> Tensor | Output:  # (B, 3, H, W)
        if self.image is not None and images.shape[2:] != self.image:
            raise UserError(
                f"this network was built for images of {self.image[0]}x{self.image[1]}, "
                f"not {images.shape[2]}x{images.shape[3]}"
            )
        local_map, final_map = self.backbone(images)
        result: Tensor | Output = self.head(local_map, final_map)
        if self.pam is not None and isinstance(result, Output):
            result = result._replace(activation=self.pam(final_map))
        return result

    def embed(self, images: Tensor) -> Embedding:  # (B, 3, H, W)
        """Features without classification, for methods that have no classes."""
        embedding: Embedding = self.head.embed(*self.backbone(images))  # type: ignore[operator]
        return embedding

    def begin_epoch(self, share: float) -> bool:
        """Prepare an epoch; `share` of the training, in (0, 1], is complete at its end. Few heads use it.

        Returns:
            True if the forward pass is another one from now on.
        """
        prepare = getattr(self.head, "begin_epoch", None)
        return prepare is not None and bool(prepare(share))


def frozen_bias_bn(channels: int) -> nn.BatchNorm1d:
    """Batch norm whose bias stays 0, as in BNNeck."""
    bn = nn.BatchNorm1d(channels)
    bn.bias.requires_grad_(False)
    return bn


def pool(feature_map: Tensor) -> Tensor:
    """Global average pooling: (B, C, H, W) to (B, C)."""
    return feature_map.mean((2, 3))


def pool_halves(feature_map: Tensor) -> Tensor:
    """Average of the upper and of the lower half, concatenated: (B, C, H, W) to (B, 2C).

    An odd row goes to the lower half; a map of one row is both halves.
    """
    half = feature_map.shape[2] // 2
    if half == 0:
        return pool(feature_map).repeat(1, 2)
    return torch.cat([pool(feature_map[:, :, :half]), pool(feature_map[:, :, half:])], 1)


def pool_stripes(feature_map: Tensor, parts: int, kind: Literal["avg", "max"] = "avg", rows: int = 0) -> Tensor:
    """Average or maximum of equal stripes from top to bottom: (B, C, H, W) to (B, C, parts).

    Args:
        feature_map: of the backbone.
        parts: number of stripes.
        kind: avg or max.
        rows: the error asks for a multiple of this number of rows; 0: of `parts`.

    Raises:
        UserError: no feature map, or one whose rows do not divide into the stripes.
    """
    if feature_map.ndim != 4:
        raise UserError(
            f"parts are cut from a feature map (B, C, H, W), but the backbone gives {tuple(feature_map.shape)}; "
            "choose a backbone with a map, such as resnet50"
        )
    found, least = feature_map.shape[2], 16 * (rows or parts)
    if found % parts:
        raise UserError(
            f"a map of {found} rows does not divide into {parts} stripes; choose images whose height is a multiple of "
            f"{least} pixels, such as {least * -(-16 * found // least)}"
        )
    stripes: Tensor = feature_map.unflatten(2, (parts, -1))  # type: ignore[no-untyped-call]  # (B, C, parts, h, W)
    return stripes.mean((3, 4)) if kind == "avg" else stripes.amax((3, 4))


class FBLNeck(nn.Module):
    """MSINet's neck: a global and a local (two-stripe) branch. The test feature joins the pooled features of both."""

    training_only: tuple[str, ...] = ("fc", "bn", "local_fc", "local_bn")

    def __init__(self, local_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        stripe = channels // 4
        self.fc = nn.Linear(channels, channels, bias=False)
        self.bn = frozen_bias_bn(channels)
        self.classifier = nn.Linear(channels, num_classes)
        self.squeeze = nn.Conv2d(local_channels, stripe, 1)
        self.local_fc = nn.Linear(2 * stripe, 2 * stripe, bias=False)
        self.local_bn = frozen_bias_bn(2 * stripe)
        self.local_classifier = nn.Linear(2 * stripe, num_classes)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        if not self.training:
            return self.embed(local_map, final_map).feature  # (B, 768)
        v, f_v = self.branches(local_map, final_map)
        logits = self.classifier(self.bn(self.fc(v)))
        local_logits = self.local_classifier(self.local_bn(self.local_fc(f_v)))
        return Output((logits, local_logits), (v, f_v), final_map)

    def branches(self, local_map: Tensor, final_map: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features of both branches."""
        return pool(final_map), pool_halves(self.squeeze(local_map))  # (B, 512), (B, 256)

    def embed(self, local_map: Tensor, final_map: Tensor) -> Embedding:
        """The pooled features, which are the test feature."""
        feature = torch.cat(self.branches(local_map, final_map), 1)  # (B, 768)
        return Embedding(feature, feature)


class TransferNeck(FBLNeck):
    """MSINet's neck with the released code's transfer feature: both branches after their batch norms."""

    training_only = ()

    def embed(self, local_map: Tensor, final_map: Tensor) -> Embedding:
        """The features of both branches, before and after the linear layer and batch norm."""
        v, f_v = self.branches(local_map, final_map)
        normed = torch.cat([self.bn(self.fc(v)), self.local_bn(self.local_fc(f_v))], 1)  # (B, 768)
        return Embedding(torch.cat([v, f_v], 1), normed)


class CDNetNeck(nn.Module):
    """CDNet's own neck: dropout on the pooled features, then linear, batch norm and ReLU."""

    training_only = ("fc", "local_fc")

    def __init__(self, local_channels: int, channels: int, num_classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        stripe = channels // 4
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Sequential(nn.Linear(channels, channels), nn.BatchNorm1d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, num_classes)
        self.squeeze = nn.Conv2d(local_channels, stripe, 1, bias=False)
        self.local_fc = nn.Sequential(nn.Linear(2 * stripe, channels), nn.BatchNorm1d(channels), nn.ReLU())
        self.local_classifier = nn.Linear(channels, num_classes)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        v, f_v = self.branches(local_map, final_map)
        if not self.training:
            return torch.cat([v, f_v], 1)  # (B, 768)
        logits, local_logits = self.classifier(self.fc(v)), self.local_classifier(self.local_fc(f_v))
        return Output((logits, local_logits), (v, f_v), final_map)

    def branches(self, local_map: Tensor, final_map: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features of both branches."""
        return self.dropout(pool(final_map)), self.dropout(pool_halves(self.squeeze(local_map)))  # (B, 512), (B, 256)

    def embed(self, local_map: Tensor, final_map: Tensor) -> Embedding:
        """The pooled features, which are the test feature."""
        feature = torch.cat(self.branches(local_map, final_map), 1)  # (B, 768)
        return Embedding(feature, feature)


class BNNeck(nn.Module):
    """BNNeck of the strong baseline: triplet loss before the batch norm, classifier and test feature after it."""

    classifier_std = 0.001

    def __init__(self, local_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.bn = frozen_bias_bn(channels)
        self.classifier = nn.Linear(channels, num_classes, bias=False)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        v, normed = self.embed(local_map, final_map)
        if not self.training:
            return normed
        return Output((self.classifier(normed),), (v,), final_map)

    def embed(self, local_map: Tensor, final_map: Tensor) -> Embedding:
        """The pooled map before and after the batch norm."""
        v = pool(final_map)  # (B, C)
        return Embedding(v, self.bn(v))


class FCHead(nn.Module):
    """OSNet's neck: pooled map, linear, batch norm, ReLU. Classifier, triplet loss and test all use the result."""

    def __init__(self, local_channels: int, channels: int, num_classes: int, dim: int = 512) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, dim), nn.BatchNorm1d(dim), nn.ReLU())
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        v = self.embed(local_map, final_map).feature  # (B, 512)
        if not self.training:
            return v
        return Output((self.classifier(v),), (v,), final_map)

    def embed(self, local_map: Tensor, final_map: Tensor) -> Embedding:
        """The feature after the ReLU, which the triplet loss also uses."""
        v = self.fc(pool(final_map))  # (B, 512)
        return Embedding(v, v)


class TokenNeck(nn.Module):
    """A transformer's neck: BNNeck on the class token (the local map); the test feature is before the batch norm."""

    training_only = ("bn",)

    def __init__(self, local_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.bn = frozen_bias_bn(channels)
        self.classifier = nn.Linear(channels, num_classes, bias=False)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        v = pool(local_map)  # (B, C): the class token
        if not self.training:
            return v
        return Output((self.classifier(self.bn(v)),), (v,), final_map)

    def embed(self, local_map: Tensor, final_map: Tensor) -> Embedding:
        """The class token."""
        v = pool(local_map)  # (B, C)
        return Embedding(v, v)


class PartNeck(nn.Module):
    """PCB's neck (Sun et al., 2018): the map is cut into horizontal stripes, and each stripe is classified.

    All parts share one reduction. The test feature joins the pooled parts before the reduction, each of unit length.

    Args:
        local_channels: not used.
        channels: of the final map.
        num_classes: training identities.
        parts: number of stripes; must divide the number of rows of the map.

    Raises:
        UserError: fewer than two parts.
    """

    training_only: tuple[str, ...] = ("reduce",)
    classifier_std = 0.001

    def __init__(self, local_channels: int, channels: int, num_classes: int, parts: int = PARTS) -> None:
        super().__init__()
        if parts < 2:
            raise UserError(f"a part neck needs at least 2 parts, got {parts}; the authors use {PARTS}")
        self.parts = parts
        self.dropout = nn.Dropout(0.5)  # on the pooled parts
        dim = min(REDUCED, channels)
        self.reduce = ConvBN(channels, dim)
        self.classifier = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(parts))

    def pool(self, final_map: Tensor) -> Tensor:
        """The parts of a map: (B, C, H, W) to (B, C, parts)."""
        return pool_stripes(final_map, self.parts)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        pooled = self.pool(final_map)  # (B, C, parts)
        feature = F.normalize(pooled, dim=1).flatten(1)  # (B, C * parts)
        if not self.training:
            return feature
        reduced = self.reduce(self.dropout(pooled).unsqueeze(3)).squeeze(3)  # (B, 256, parts)
        logits = tuple(one(reduced[:, :, i]) for i, one in enumerate(self.classifier))
        return Output(logits, (feature,), final_map)


class RefinedPartNeck(PartNeck):
    """PCB+RPP's neck: every position belongs to all parts, with learned weights (refined part pooling).

    Training starts with stripes. After the share `FIRST_STAGE` of its epochs the learned weights replace them.
    """

    #: Share of the epochs with stripes: 20 of 50.
    FIRST_STAGE = 0.4
    #: Consecutive channels that are averaged before positions are assigned to parts.
    GROUP = 8

    def __init__(self, local_channels: int, channels: int, num_classes: int, parts: int = PARTS) -> None:
        super().__init__(local_channels, channels, num_classes, parts)
        self.assign = nn.Conv2d(channels // self.GROUP, parts, 1)
        self.refined = True

    def begin_epoch(self, share: float) -> bool:
        """Choose stripes or refined parts for the epoch; `share` of the training is complete at its end.

        Returns:
            True if the choice changed.
        """
        before, self.refined = self.refined, share > self.FIRST_STAGE
        return self.refined != before

    def pool(self, final_map: Tensor) -> Tensor:
        """The parts of a map: (B, C, H, W) to (B, C, parts)."""
        if not self.refined:
            return super().pool(final_map)
        weights = self.weights(final_map).flatten(2)  # (B, parts, N)
        return self.parts * final_map.flatten(2) @ weights.transpose(1, 2) / weights.shape[2]

    def weights(self, final_map: Tensor) -> Tensor:
        """Weight of each position in each part: (B, C, H, W) to (B, parts, H, W); the sum over the parts is 1."""
        groups = self.dropout(final_map).unflatten(1, (-1, self.GROUP)).mean(2)  # (B, C/8, H, W)
        shares: Tensor = self.assign(groups - groups.mean((2, 3), keepdim=True)).softmax(1)
        return shares


Neck = Callable[[int, int, int], nn.Module]
NECKS: dict[str, Neck] = {
    "fbl": FBLNeck,
    "transfer": TransferNeck,
    "cdnet": CDNetNeck,
    "bn": BNNeck,
    "fc": FCHead,
    "pcb": PartNeck,
    "rpp": RefinedPartNeck,
}


class Backbone(Protocol):
    """A network whose `forward` returns the local and the final map."""

    local_channels: int
    channels: int


def assemble(backbone: Backbone, neck: str | Neck, num_classes: int, *, pam: bool = False) -> ReIDNet:
    """Join a backbone and a neck (given as a class or by name), with fresh weights; with `pam`, add a PAM.

    The classifiers of a neck with an attribute `classifier_std` have weights from N(0, classifier_std), as published.

    Raises:
        UserError: unknown neck.
    """
    if isinstance(neck, str):
        if neck not in NECKS:
            raise unknown_name("neck", neck, NECKS)
        neck = NECKS[neck]
    assert isinstance(backbone, nn.Module)
    head = neck(backbone.local_channels, backbone.channels, num_classes)
    network = ReIDNet(backbone, head, backbone.channels)
    init_weights(network)
    if pam:
        with torch.random.fork_rng(devices=[]):  # all other weights are those of a network without PAM
            network.pam = PositionActivation(backbone.channels)
            init_weights(network.pam)
    std = getattr(head, "classifier_std", None)
    if std is not None:
        for module in head.get_submodule("classifier").modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
    return network
