"""OSNet x1.0 (Zhou et al., ICCV 2019; SPEC B.2)."""

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


class OSBlock(nn.Module):
    """Four streams of 1 to 4 light convolutions, summed after one shared channel gate."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        mid = out_channels // 4
        self.reduce = ConvBN(in_channels, mid)
        self.streams = nn.ModuleList(light_convs(mid, depth) for depth in range(1, 5))
        self.gate = ChannelGate(mid)
        self.expand = ConvBN(mid, out_channels, linear=True)
        self.shortcut = shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W) -> (B, out, H, W)
        reduced = self.reduce(x)  # (B, out/4, H, W)
        gated = [self.gate(stream(reduced)) for stream in self.streams]
        return torch.relu(self.expand(sum(gated[1:], gated[0])) + self.shortcut(x))


class OSNetBackbone(nn.Module):
    """Stem, three stages of two blocks, conv5. Returns the map after stage 2 and the final map."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = [scaled(base, width) for base in WIDTHS]
        self.stem = stem(channels[0])
        self.stage1, self.stage2, self.stage3 = (
            nn.Sequential(OSBlock(channels[i], channels[i + 1]), OSBlock(channels[i + 1], channels[i + 1]))
            for i in range(3)
        )
        self.down1, self.down2 = down_sample(channels[1]), down_sample(channels[2])
        self.conv5 = ConvBN(channels[3], channels[3])
        self.local_channels, self.channels = channels[2], channels[3]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down1(self.stage1(self.stem(images)))  # (B, 256, H/8, W/8)
        local_map = self.down2(self.stage2(x))  # (B, 384, H/16, W/16)
        return local_map, self.conv5(self.stage3(local_map))  # (B, 512, H/16, W/16)


@register("osnet")
def osnet(num_classes: int, *, width: float = 1.0, neck: str = "fc") -> ReIDNet:
    """OSNet with its own head (fc, 512-d) or, for a controlled comparison, MSINet's neck (fbl)."""
    backbone = OSNetBackbone(width)
    network = ReIDNet(backbone, build_neck(neck, backbone.local_channels, backbone.channels, num_classes))
    init_weights(network)
    return network
