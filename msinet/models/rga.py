"""RGA-SC (Zhang et al., CVPR 2020), in Table 3: ResNet50 with relation-aware global attention after every stage."""

import torch
from torch import Tensor, nn

from msinet.errors import WeightsError
from msinet.models.attention import ATTENTION, staged_backbone
from msinet.models.blocks import ConvBN
from msinet.models.heads import ReIDNet, assemble
from msinet.models.registry import NetworkCard, NetworkWeights, Notes, State, WeightLayout, register
from msinet.models.resnet import WEIGHTS as RESNET

#: Factor between the widths of a map and of its embeddings.
REDUCTION = 8


def reduced(size: int) -> int:
    """An eighth of `size`, at least 1: maps of small images can have fewer than eight positions."""
    return max(1, size // REDUCTION)


class Relations(nn.Module):
    """Weights of n nodes, from their features and their relations with all nodes: (B, F, n, 1) to (B, 1, n, 1).

    The relation of two nodes is the inner product of their embeddings. A node's relations in both directions are
    stacked, embedded and joined with the mean of the node's own embedding.

    Args:
        features: F, length of a node's features.
        nodes: n; the shapes of the layers depend on it.
    """

    def __init__(self, features: int, nodes: int) -> None:
        super().__init__()
        self.theta, self.phi = ConvBN(features, reduced(features)), ConvBN(features, reduced(features))
        self.own = ConvBN(features, reduced(features))
        self.stacked = ConvBN(2 * nodes, reduced(nodes))
        joint = 1 + reduced(nodes)
        self.gate = nn.Sequential(ConvBN(joint, reduced(joint)), ConvBN(reduced(joint), 1, linear=True))

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.theta(x).squeeze(3).transpose(1, 2) @ self.phi(x).squeeze(3)  # (B, n, n)
        both = torch.cat([pairs.transpose(1, 2), pairs], 1).unsqueeze(3)  # (B, 2n, n, 1): of node i in column i
        own = self.own(x).mean(1, keepdim=True)  # (B, 1, n, 1)
        weights: Tensor = self.gate(torch.cat([own, self.stacked(both)], 1)).sigmoid()
        return weights


class RelationAttention(nn.Module):
    """RGA-SC's module: a weight per position, then one per channel: (B, C, H, W) to the same shape."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.spatial = Relations(channels, height * width)
        self.channel = Relations(height * width, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.spatial(x.flatten(2).unsqueeze(3)).view(-1, 1, *x.shape[2:])
        nodes = x.flatten(2).transpose(1, 2).unsqueeze(3)  # (B, H*W, C, 1): channels are the nodes
        result: Tensor = x * self.channel(nodes).transpose(1, 2)  # (B, C, 1, 1) broadcast
        return result


def _fit_attention(network: nn.Module, state: State, notes: Notes) -> State:
    """Leave out the attention of a file that was pre-trained at another image size; the network keeps its own.

    Raises:
        WeightsError: weights of a finished training at another image size.
    """
    image = getattr(network, "image", None)  # a backbone alone has none
    if image is None or "height" not in notes or (int(notes["height"]), int(notes["width"])) == image:
        return state
    if "pretrained_on" not in notes:
        raise WeightsError(
            f"these weights are for images of {notes['height']}x{notes['width']}, but the network was built for "
            f"{image[0]}x{image[1]}; shapes of its layers depend on the size"
        )
    return {key: value for key, value in state.items() if f".{ATTENTION}." not in key}


WEIGHTS = NetworkWeights(
    "RGA-SC",
    r"backbone\.layer1\.attention\.spatial\.",
    (
        WeightLayout(
            "released RGA-SC",
            r"backbone\.rga_att1\.",
            (
                (r"^backbone\.rga_att(\d)\.", r"backbone.layer\1.attention."),
                (r"\.(theta|phi)_(spatial|channel)\.", r".\2.\1."),
                (r"\.gx_(spatial|channel)\.", r".\1.own."),
                (r"\.gg_(spatial|channel)\.", r".\1.stacked."),
                (r"\.W_(spatial|channel)\.0\.", r".\1.gate.0.conv."),
                (r"\.W_(spatial|channel)\.1\.", r".\1.gate.0.bn."),
                (r"\.W_(spatial|channel)\.3\.", r".\1.gate.1.conv."),
                (r"\.W_(spatial|channel)\.4\.", r".\1.gate.1.bn."),
                (r"\.(theta|phi|own|stacked)\.0\.", r".\1.conv."),
                (r"\.(theta|phi|own|stacked)\.1\.", r".\1.bn."),
                (r"^feat_bn\.", "head.bn."),
                (r"^cls\.", "head.classifier."),
            ),
        ),
    ),
    base=RESNET,
    adapt=_fit_attention,
)


@register(
    NetworkCard(
        name="rga_sc",
        label="RGA-SC",
        order=37,
        studies=("table3",),
        # The relations of channels cost C^3/4 multiply-adds per stage and image, whatever the image's size.
        widths=(("smoke", 0.25), ("mini", 0.25)),
        authors={
            "optimizer": "adam",
            "lr": 8e-4,
            "epochs": 600,
            "warmup": 20,
            "milestones": (80, 120, 160, 200, 240, 280, 320, 360),
            "decay": 0.5,
            "normalize_triplet": False,
        },
        authors_source="RGA-SC's training on CUHK03; pad and crop in place of its crop from 1.125 of the size, erased "
        "boxes filled with the RGB mean instead of 0",
    ),
    WEIGHTS,
)
def rga_sc(
    num_classes: int,
    *,
    width: float = 1.0,
    image: tuple[int, int] = (256, 128),
    backbone: str = "resnet50",
    neck: str = "bn",
    pam: bool = False,
) -> ReIDNet:
    """RGA-SC for one image size; `backbone` names the network whose stages get the attention.

    Raises:
        UserError: a backbone without stages of feature maps.
    """
    trunk, stages = staged_backbone(backbone, width, image)
    for stage in stages:
        stage.attach(RelationAttention(stage.channels, stage.height, stage.width))
    network = assemble(trunk, neck, num_classes, pam=pam)
    network.image = image
    return network
