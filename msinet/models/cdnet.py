"""CDNet (Li et al., CVPR 2021) with its searched cells (SPEC B.3)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from msinet.models.blocks import (
    ChannelGate,
    ConvBN,
    down_sample,
    init_weights,
    light_convs,
    scaled,
    shortcut,
    stem,
)  # fmt: skip
from msinet.models.heads import ReIDNet, build_neck
from msinet.models.registry import register

WIDTHS = (64, 256, 384, 512)
#: The published architecture: kernels of the two branches and depth of each of the six cells.
SEARCHED = ((3, 5, 1), (3, 7, 2), (5, 7, 2), (5, 9, 1), (5, 7, 2), (5, 7, 1))


class CBlock(nn.Module):
    """Two stacks of floor(k/2) light convolutions, summed after one shared gate."""

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
    """CDBlock: `depth` blocks in series, the first of which changes the width."""
    widths = [in_channels, *[out_channels] * depth]
    return nn.Sequential(*(CBlock(a, b, (kernel1, kernel2)) for a, b in pairwise(widths)))


class CDNetBackbone(nn.Module):
    """Stem and three stages of two cells. Returns the map after stage 2 and the final map."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = [scaled(base, width) for base in WIDTHS]
        self.stem = stem(channels[0])
        self.stage1, self.stage2, self.stage3 = (
            nn.Sequential(
                cell(channels[i], channels[i + 1], *SEARCHED[2 * i]),
                cell(channels[i + 1], channels[i + 1], *SEARCHED[2 * i + 1]),
            )
            for i in range(3)
        )
        self.down1, self.down2 = down_sample(channels[1]), down_sample(channels[2])
        self.local_channels, self.channels = channels[2], channels[3]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down1(self.stage1(self.stem(images)))  # (B, 256, H/8, W/8)
        local_map = self.down2(self.stage2(x))  # (B, 384, H/16, W/16)
        return local_map, self.stage3(local_map)  # (B, 512, H/16, W/16)


@register("cdnet")
def cdnet(num_classes: int, *, width: float = 1.0, neck: str = "cdnet") -> ReIDNet:
    """CDNet with its original neck, or with MSINet's (fbl)."""
    backbone = CDNetBackbone(width)
    network = ReIDNet(backbone, build_neck(neck, backbone.local_channels, backbone.channels, num_classes))
    init_weights(network)
    return network
