"""IANet (Hou et al., CVPR 2019), in Table 3: ResNet50 with interaction-aggregation after its second and third stage."""

import torch
from torch import Tensor, nn

from msinet.models.attention import staged_backbone
from msinet.models.heads import Output, ReIDNet, assemble, pool
from msinet.models.registry import NetworkCard, NetworkWeights, WeightLayout, register
from msinet.models.resnet import WEIGHTS as RESNET
from msinet.models.sam import at_least_float
from msinet.precision import no_autocast

#: Deviation of the location's Gaussian as a share of the map's height and width: 20 of 32 rows, 10 of 16 columns, and
#: half of both one stage later.
SPREAD = 0.625


def nearness(count: int, like: Tensor) -> Tensor:
    """Exponents of the Gaussian between the positions of one axis: (count, count), at most 0."""
    # 0 to count - 1. arange would fix the device of a traced network; sums of floats are not deterministic on a GPU.
    places = like.new_ones(count, dtype=torch.int64).cumsum(0).to(like.dtype) - 1
    steps = (places[:, None] - places) / (SPREAD * count)
    return -0.5 * (steps * steps)


def location_affinity(height: int, width: int, like: Tensor) -> Tensor:
    """Affinity of positions by distance, fixed and normalised by rows: (H*W, H*W), of the type of `like`."""
    rows, columns = nearness(height, like), nearness(width, like)
    exponents = rows[:, None, :, None] + columns[None, :, None, :]  # (H, W, H, W)
    return exponents.reshape(height * width, height * width).softmax(1)


class InteractionAggregation(nn.Module):
    """Spatial, then channel interaction-aggregation, each added to the map: (B, C, H, W) to the same shape.

    Positions are mixed by appearance and location, channels by their inner products. The batch norms start at zero,
    so that the module starts as the identity; they are its only parameters.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.spatial_bn, self.channel_bn = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.reset()

    def reset(self) -> None:
        """Zero the batch norms' weights, so that the module is the identity."""
        nn.init.zeros_(self.spatial_bn.weight)
        nn.init.zeros_(self.channel_bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        # Inner products grow with C and H*W; half precision would saturate the softmax.
        with no_autocast(x):
            wide: Tensor = at_least_float(x)
            wide = wide + _normalised(self._mix_positions(wide), self.spatial_bn)
            wide = wide + _normalised(_mix_channels(wide), self.channel_bn)
        return wide.to(x.dtype)

    def _mix_positions(self, x: Tensor) -> Tensor:
        flat, (height, width) = x.flatten(2), x.shape[2:]  # (B, C, N)
        alike: Tensor = (self.scale * flat.transpose(1, 2) @ flat).softmax(2)  # (B, N, N)
        weights = (alike * location_affinity(height, width, alike)).softmax(2)
        return (flat @ weights.transpose(1, 2)).view_as(x)


def _normalised(x: Tensor, norm: nn.Module) -> Tensor:
    """The batch norm, or one per domain, in the precision of its weights, which may be half."""
    result: Tensor = norm(x.to(next(norm.parameters()).dtype))
    return result.to(x.dtype)


def _mix_channels(x: Tensor) -> Tensor:
    flat = x.flatten(2)  # (B, C, N)
    weights = (flat @ flat.transpose(1, 2)).softmax(2)  # (B, C, C)
    return (weights @ flat).view_as(x)


class IAHead(nn.Module):
    """Batch norm of the pooled map. Classifier, triplet loss and test all use the result."""

    def __init__(self, local_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, local_map: Tensor, final_map: Tensor) -> Tensor | Output:
        v: Tensor = self.bn(pool(final_map))  # (B, C)
        if not self.training:
            return v
        return Output((self.classifier(v),), (v,), final_map)


WEIGHTS = NetworkWeights(
    "IANet",
    r"backbone\.layer2\.attention\.spatial_bn\.",
    (
        WeightLayout(
            "released IANet",
            r"layer2\.4\.W1\.",
            (
                (r"^layer2\.4\.", "layer2.attention."),  # after the last of 4 and of 6 blocks
                (r"^layer3\.6\.", "layer3.attention."),
                (r"\.attention\.W1\.", ".attention.spatial_bn."),
                (r"\.attention\.W2\.", ".attention.channel_bn."),
                (r"^(conv1|bn1|layer\d)\.", r"backbone.\1."),
                (r"^(bn|classifier)\.", r"head.\1."),
            ),
        ),
    ),
    base=RESNET,
)


@register(
    NetworkCard(
        name="ianet",
        label="IANet",
        order=25,
        studies=("table3",),
        authors={"pad": 0, "optimizer": "adam", "lr": 3.5e-4, "epochs": 60, "warmup": 0, "milestones": (20, 40)},
        authors_source="IAUnet's training, the successor's; without its loss on masks of body parts, triplets by "
        "Euclidean distance instead of cosine, bilinear instead of bicubic resizing",
    ),
    WEIGHTS,
)
def ianet(
    num_classes: int, *, width: float = 1.0, backbone: str = "resnet50", neck: str = "", pam: bool = False
) -> ReIDNet:
    """IANet; `backbone` and `neck` can name others. The modules are added to the second and third stage.

    Raises:
        UserError: a backbone without stages of feature maps, or an unknown neck.
    """
    trunk, stages = staged_backbone(backbone, width, (256, 128))  # the modules fit maps of any size
    for stage in stages[1:3]:
        stage.attach(InteractionAggregation(stage.channels))
    network = assemble(trunk, neck or IAHead, num_classes, pam=pam)
    for module in network.modules():
        if isinstance(module, InteractionAggregation):
            module.reset()
    return network
