"""CDNet (Li et al., CVPR 2021) with its searched cells, a baseline of Table 2."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from msinet.models.blocks import ChannelGate, ConvBN, Skeleton, light_convs, shortcut
from msinet.models.heads import ReIDNet, assemble
from msinet.models.registry import NetworkCard, NetworkWeights, register

#: The published architecture: kernels of the two branches and depth of each of the six cells.
SEARCHED = ((3, 5, 1), (3, 7, 2), (5, 7, 2), (5, 9, 1), (5, 7, 2), (5, 7, 1))


class CBlock(nn.Module):
    """Two branches of floor(k/2) light convolutions, summed after a shared channel gate."""

    def __init__(self, in_channels: int, out_channels: int, kernels: tuple[int, int]) -> None:
        super().__init__()
        mid = out_channels // 4
        self.reduce = ConvBN(in_channels, mid)
        self.branch1, self.branch2 = (light_convs(mid, kernel // 2) for kernel in kernels)
        self.gate = ChannelGate(mid, reduction=4)
        self.expand = ConvBN(mid, out_channels, linear=True)
        self.shortcut = shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W) -> (B, out, H, W)
        reduced = self.reduce(x)  # (B, out/4, H, W)
        gated = self.gate(self.branch1(reduced)) + self.gate(self.branch2(reduced))
        return torch.relu(self.expand(gated) + self.shortcut(x))


def cell(in_channels: int, out_channels: int, kernel1: int, kernel2: int, depth: int) -> nn.Sequential:
    """CDBlock: `depth` blocks in series; the first one changes the number of channels."""
    widths = [in_channels, *[out_channels] * depth]
    return nn.Sequential(*(CBlock(a, b, (kernel1, kernel2)) for a, b in pairwise(widths)))


def stage(number: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Two searched cells."""
    first, second = SEARCHED[2 * number : 2 * number + 2]
    return nn.Sequential(cell(in_channels, out_channels, *first), cell(out_channels, out_channels, *second))


@register(
    NetworkCard(
        name="cdnet",
        label="CDNet",
        order=30,
        colour="#009E73",
        marker="^",
        studies=("table2", "table3"),
        authors={"erase": 0.0, "warmup": 0, "label_smoothing": 0.0, "normalize_triplet": False},
        authors_source="CDNet's training from scratch, whose random erasing erases nothing",
    ),
    NetworkWeights("CDNet", r"backbone\.stage1\.0\.0\.branch1\."),
)
def cdnet(num_classes: int, *, width: float = 1.0, neck: str = "cdnet", pam: bool = False) -> ReIDNet:
    """CDNet with its original neck, or with MSINet's (fbl)."""
    return assemble(Skeleton(width, stage), neck, num_classes, pam=pam)
