"""MSINet (Sec. 3.2, Table 1; SPEC A.1)."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from msinet.errors import UserError
from msinet.models.blocks import ConvBN, down_sample, init_weights, light_convs, scaled, shortcut, stem
from msinet.models.heads import ReIDNet, build_neck
from msinet.models.interactions import INTERACTIONS
from msinet.models.registry import register

#: Table 1: the interactions found on MSMT17, two per cell, cell 1 first.
SEARCHED = "GGEGAGGNGAEA"
#: Channels of the stem and of the three stages at full width.
WIDTHS = (64, 256, 384, 512)

Fusion = Literal["sum", "minus", "mul"]
FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "minus": torch.sub, "mul": torch.mul}


class MSICell(nn.Module):
    """Two branches of different receptive field that interact twice and are then fused.

    Args:
        interactions: two letters of N, E, G, A: after the first and the second half.
        ratio: the scale ratio rho; branch b passes `ratio` light convolutions per half, branch a one.
        fusion: how the branches are joined after their 1x1 convolutions (Fig. 5c).
    """

    def __init__(
        self, in_channels: int, out_channels: int, interactions: str, ratio: int = 3, fusion: Fusion = "sum"
    ) -> None:
        super().__init__()
        mid = out_channels // 4
        self.fusion = fusion
        self.entry_a, self.entry_b = ConvBN(in_channels, mid), ConvBN(in_channels, mid)
        self.half1_a, self.half1_b = light_convs(mid, 1), light_convs(mid, ratio)
        self.interaction1 = INTERACTIONS[interactions[0]](mid)
        self.half2_a, self.half2_b = light_convs(mid, 1), light_convs(mid, ratio)
        self.interaction2 = INTERACTIONS[interactions[1]](mid)
        self.fuse_a, self.fuse_b = ConvBN(mid, out_channels, linear=True), ConvBN(mid, out_channels, linear=True)
        self.shortcut = shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W) -> (B, out, H, W)
        a, b = self.entry_a(x), self.entry_b(x)  # (B, out/4, H, W) each
        a, b = self.interaction1(self.half1_a(a), self.half1_b(b))
        a, b = self.interaction2(self.half2_a(a), self.half2_b(b))
        fused = FUSIONS[self.fusion](self.fuse_a(a), self.fuse_b(b))  # (B, out, H, W)
        return torch.relu(fused + self.shortcut(x))


class MSINetBackbone(nn.Module):
    """Stem, three stages of cells, down-sampling after the first two; total stride 16.

    `forward` returns the map that feeds the local branch of the neck, (B, 384, H/16, W/16),
    and the final map, (B, 512, H/16, W/16).
    """

    def __init__(self, genotype: str, ratio: int, fusion: Fusion, width: float) -> None:
        super().__init__()
        channels = [scaled(base, width) for base in WIDTHS]
        per_stage = len(genotype) // 3
        self.stem = stem(channels[0])
        stages: list[nn.Sequential] = []
        for number, (in_channels, out_channels) in enumerate(pairwise(channels)):
            letters = genotype[number * per_stage : (number + 1) * per_stage]
            stages.append(nn.Sequential(*(
                MSICell(in_channels if i == 0 else out_channels, out_channels, letters[i : i + 2], ratio, fusion)
                for i in range(0, per_stage, 2)
            )))  # fmt: skip
        self.stage1, self.stage2, self.stage3 = stages
        self.down1, self.down2 = down_sample(channels[1]), down_sample(channels[2])
        self.local_channels, self.channels = channels[2], channels[3]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images)  # (B, 64, H/4, W/4)
        x = self.down1(self.stage1(x))  # (B, 256, H/8, W/8)
        local_map = self.down2(self.stage2(x))  # (B, 384, H/16, W/16)
        return local_map, self.stage3(local_map)  # (B, 512, H/16, W/16)


def check_genotype(genotype: str) -> str:
    """The genotype in upper case.

    Raises:
        UserError: a letter other than N, E, G, A, or a length that three stages of cells with two
            interactions each cannot share.
    """
    letters = genotype.upper().replace(" ", "")
    if not letters or len(letters) % 6 or set(letters) - set(INTERACTIONS):
        raise UserError(
            f"genotype {genotype!r} is not valid: it needs a multiple of six letters out of "
            f"{', '.join(INTERACTIONS)} (two per cell, three stages), such as {SEARCHED!r}"
        )
    return letters


@register("msinet")
def msinet(
    num_classes: int, *, width: float = 1.0, genotype: str = SEARCHED, ratio: int = 3,
    fusion: Fusion = "sum", neck: str = "fbl",
) -> ReIDNet:  # fmt: skip
    """MSINet for any genotype, scale ratio and fusion.

    Args:
        num_classes: training identities.
        width: multiplies every channel count.
        genotype: two letters per cell; its length sets the depth (twelve letters: two cells a stage).
        ratio: rho, the light convolutions of branch b for each one of branch a (Fig. 5d).
        fusion: sum, minus or mul (Fig. 5c).
        neck: fbl (as released), cdnet, or bn (global branch only).
    """
    if ratio < 1:
        raise UserError(f"scale ratio rho must be at least 1, got {ratio}")
    if fusion not in FUSIONS:
        raise UserError(f"unknown fusion {fusion!r}. Known: {', '.join(FUSIONS)}")
    backbone = MSINetBackbone(check_genotype(genotype), ratio, fusion, width)
    network = ReIDNet(backbone, build_neck(neck, backbone.local_channels, backbone.channels, num_classes))
    init_weights(network)
    return network
