"""OSNet x1.0 (Zhou et al., ICCV 2019), a baseline of Table 2."""

import torch
from torch import Tensor, nn

from msinet.models.blocks import ChannelGate, ConvBN, Skeleton, light_convs, shortcut
from msinet.models.heads import ReIDNet, assemble
from msinet.models.registry import NetworkCard, NetworkWeights, WeightLayout, register


class OSBlock(nn.Module):
    """Four streams of 1 to 4 light convolutions, summed after a shared channel gate."""

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


def stage(number: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Two blocks; the first one changes the number of channels. All stages are built alike."""
    return nn.Sequential(OSBlock(in_channels, out_channels), OSBlock(out_channels, out_channels))


WEIGHTS = NetworkWeights(
    "OSNet",
    r"backbone\.stage1\.0\.streams\.",
    (
        WeightLayout(
            "torchreid OSNet",
            r"conv2\.0\.conv2a\.",
            (
                (r"^(fc|classifier)\.", r"head.\1."),
                (r"^conv1\.", "backbone.stem.0."),
                (r"^conv2\.2\.", "backbone.down1."),
                (r"^conv3\.2\.", "backbone.down2."),
                (r"^conv2\.", "backbone.stage1."),
                (r"^conv3\.", "backbone.stage2."),
                (r"^conv4\.", "backbone.stage3."),
                (r"^conv5\.", "backbone.conv5."),
                (r"\.conv2a\.", ".streams.0.0."),  # one light convolution here, stacks of them in b, c and d
                (r"\.conv2b\.", ".streams.1."),
                (r"\.conv2c\.", ".streams.2."),
                (r"\.conv2d\.", ".streams.3."),
                (r"(\.streams\.\d\.\d)\.conv1\.", r"\1.pointwise."),
                (r"(\.streams\.\d\.\d)\.conv2\.", r"\1.depthwise."),
                (r"(\.stage\d\.\d)\.conv1\.", r"\1.reduce."),
                (r"(\.stage\d\.\d)\.conv3\.", r"\1.expand."),
                (r"\.downsample\.", ".shortcut."),
            ),
        ),
    ),
)


@register(
    NetworkCard(
        name="osnet",
        label="OSNet",
        order=20,
        colour="#D55E00",
        marker="s",
        studies=("table2", "table3", "calibration"),
        authors={
            "sampler": "shuffled",
            "pad": 0,
            "erase": 0.0,
            "optimizer": "amsgrad",
            "lr": 0.0015,
            "epochs": 150,
            "warmup": 0,
            "milestones": (60, 120),
            "triplet": False,
        },
        authors_scratch={"sampler": "shuffled", "erase": 0.0, "warmup": 0, "triplet": False},
        authors_source="with pre-trained weights torchreid's fine-tuning, without its first ten epochs that train the "
        "classifier alone; from scratch the OSNet paper, without random patches",
    ),
    WEIGHTS,
)
def osnet(num_classes: int, *, width: float = 1.0, neck: str = "fc", pam: bool = False) -> ReIDNet:
    """OSNet with its own head (fc, 512-d) or, for a controlled comparison, MSINet's neck (fbl)."""
    return assemble(Skeleton(width, stage, conv5=True), neck, num_classes, pam=pam)
