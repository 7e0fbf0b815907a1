"""MSINet (Sec. 3.2, Table 1; SPEC A.1)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from msinet.errors import UserError
from msinet.models.blocks import ConvBN, Skeleton, light_convs, shortcut
from msinet.models.genotype import SEARCHED, check_genotype
from msinet.models.heads import ReIDNet, assemble
from msinet.models.interactions import INTERACTIONS, Make
from msinet.models.registry import NetworkCard, register

Fusion = Literal["sum", "minus", "mul"]
FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "minus": torch.sub, "mul": torch.mul}


class MSICell(nn.Module):
    """Two branches of different receptive field that interact twice and are then fused.

    Args:
        interactions: what makes the modules after the first and after the second half.
        ratio: the scale ratio rho; branch b passes `ratio` light convolutions per half, branch a one.
        fusion: how the branches are joined after their 1x1 convolutions (Fig. 5c).
        mid: channels of each branch; a quarter of the output's unless given.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        interactions: Sequence[Make],
        ratio: int = 3,
        fusion: Fusion = "sum",
        mid: int | None = None,
    ) -> None:
        super().__init__()
        mid = mid or out_channels // 4
        self.fusion = fusion
        self.entry_a, self.entry_b = ConvBN(in_channels, mid), ConvBN(in_channels, mid)
        self.half1_a, self.half1_b = light_convs(mid, 1), light_convs(mid, ratio)
        self.interaction1 = interactions[0](mid)
        self.half2_a, self.half2_b = light_convs(mid, 1), light_convs(mid, ratio)
        self.interaction2 = interactions[1](mid)
        self.fuse_a, self.fuse_b = ConvBN(mid, out_channels, linear=True), ConvBN(mid, out_channels, linear=True)
        self.shortcut = shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W) -> (B, out, H, W)
        a, b = self.entry_a(x), self.entry_b(x)  # (B, out/4, H, W) each
        a, b = self.interaction1(self.half1_a(a), self.half1_b(b))
        a, b = self.interaction2(self.half2_a(a), self.half2_b(b))
        fused = FUSIONS[self.fusion](self.fuse_a(a), self.fuse_b(b))  # (B, out, H, W)
        return torch.relu(fused + self.shortcut(x))


@register(
    NetworkCard(
        name="msinet",
        label="MSINet",
        order=90,
        colour="#0072B2",
        marker="o",
        studies=("table2", "table3", "table6", "calibration"),
        variants=(("pam=True", "MSINet-SAM"),),
    )
)
def msinet(
    num_classes: int,
    *,
    width: float = 1.0,
    genotype: str = SEARCHED,
    ratio: int = 3,
    fusion: Fusion = "sum",
    neck: str = "fbl",
    pam: bool = False,
) -> ReIDNet:
    """MSINet for any genotype, scale ratio and fusion.

    Args:
        num_classes: training identities.
        width: multiplies every channel count.
        genotype: two letters per cell; its length sets the depth (twelve letters: two cells a stage).
        ratio: rho, the light convolutions of branch b for each one of branch a (Fig. 5d).
        fusion: sum, minus or mul (Fig. 5c).
        neck: fbl (as released), cdnet, or bn (global branch only).
        pam: with a position activation module, for alignment pam-self (MSINet-SAM).
    """
    genotype = check_genotype(genotype)
    makes = [INTERACTIONS[letter] for letter in genotype]
    return assemble(Skeleton(width, stages(makes, ratio, fusion)), neck, num_classes, pam=pam)


def stages(
    interactions: Sequence[Make], ratio: int, fusion: Fusion, *, mid_of_input: bool = False
) -> Callable[[int, int, int], nn.Sequential]:
    """What builds the three stages of a `Skeleton` out of cells with these interactions, two per cell.

    Args:
        interactions: a multiple of six, cell 1 first.
        ratio: rho.
        fusion: sum, minus or mul.
        mid_of_input: branches are a quarter as wide as the cell's input rather than its output, as in the
            released search code.

    Raises:
        UserError: a ratio or fusion that does not exist.
    """
    if ratio < 1:
        raise UserError(f"scale ratio rho must be at least 1, got {ratio}")
    if fusion not in FUSIONS:
        raise UserError(f"unknown fusion {fusion!r}. Known: {', '.join(FUSIONS)}")
    per_stage = len(interactions) // 3

    def stage(number: int, in_channels: int, out_channels: int) -> nn.Sequential:
        makes = interactions[number * per_stage : (number + 1) * per_stage]
        widths = [in_channels, *[out_channels] * (per_stage // 2)]
        return nn.Sequential(
            *(
                MSICell(a, b, makes[2 * i : 2 * i + 2], ratio, fusion, a // 4 if mid_of_input else None)
                for i, (a, b) in enumerate(pairwise(widths))
            )
        )

    return stage
