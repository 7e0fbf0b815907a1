"""MSINet (Sec. 3.2, Table 1)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from msinet.errors import UserError, first_few, unknown_name
from msinet.models.blocks import ConvBN, Skeleton, light_convs, shortcut
from msinet.models.genotype import SEARCHED, check_genotype
from msinet.models.heads import ReIDNet, assemble
from msinet.models.interactions import INTERACTIONS, LETTERS, Make
from msinet.models.registry import NetworkCard, NetworkWeights, Notes, State, WeightLayout, register

Fusion = Literal["sum", "minus", "mul"]
FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "minus": torch.sub, "mul": torch.mul}


class MSICell(nn.Module):
    """Two branches of different receptive field that interact twice and are then fused.

    Args:
        interactions: functions that make the interaction after the first half and after the second.
        ratio: the scale ratio rho: branch b has `ratio` light convolutions per half, branch a has one.
        fusion: joins the branches after their 1x1 convolutions (Fig. 5c).
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


def operations_of(network: nn.Module) -> dict[str, str]:
    """The letter of every discrete interaction by the name of its module, first cell first."""
    return {name: LETTERS[type(module)] for name, module in network.named_modules() if type(module) in LETTERS}


def _notes(network: nn.Module) -> Notes:
    """The interactions, because exchanges have no weights."""
    letters = "".join(operations_of(network).values())
    return {"interactions": letters} if letters else {}


def _differences(network: nn.Module, state: State, notes: Notes) -> str:
    """Message about interactions that differ between file and network; empty if none."""
    letters, noted = operations_of(network), notes.get("interactions", "")
    differing = []
    for number, (name, letter) in enumerate(letters.items()):
        if len(noted) == len(letters):
            of_file = noted[number]
        elif f"{name}.gamma" in state:
            of_file = "A"
        else:
            of_file = "G" if f"{name}.gate.fc1.weight" in state else "N or E"
        if letter not in of_file:
            differing.append(f"{name.removeprefix('backbone.')} is {of_file} in the file and {letter} here")
    return f"{len(differing)} interactions differ ({first_few(differing, 4)})" if differing else ""


WEIGHTS = NetworkWeights(
    "MSINet",
    r"backbone\.stage1\.0\.entry_a\.",
    (
        WeightLayout(
            "released MSINet",
            r"cells\.0\.conv1a\.",
            (
                (r"^head\.", "head.bn."),
                (r"^(fc|classifier)\.", r"head.\1."),
                (r"^f_conv\.", "head.squeeze."),
                (r"^f_head\.", "head.local_bn."),
                (r"^f_(fc|classifier)\.", r"head.local_\1."),
                (r"^conv1\.", "backbone.stem.0."),
                (r"^cells\.0\.", "backbone.stage1.0."),
                (r"^cells\.1\.", "backbone.stage1.1."),
                (r"^cells\.2\.", "backbone.down1."),
                (r"^cells\.3\.", "backbone.stage2.0."),
                (r"^cells\.4\.", "backbone.stage2.1."),
                (r"^cells\.5\.", "backbone.down2."),
                (r"^cells\.6\.", "backbone.stage3.0."),
                (r"^cells\.7\.", "backbone.stage3.1."),
                (r"\.conv1([ab])\.", r".entry_\1."),
                (r"\.conv2a\.", ".half1_a.0."),  # one light convolution here, a stack of them in branch b
                (r"\.conv3a\.", ".half2_a.0."),
                (r"\.conv2b\.", ".half1_b."),
                (r"\.conv3b\.", ".half2_b."),
                (r"\.conv4([ab])\.", r".fuse_\1."),
                (r"(\.half._.\.\d+)\.conv1\.", r"\1.pointwise."),
                (r"(\.half._.\.\d+)\.conv2\.", r"\1.depthwise."),
                (r"\._op2\.", ".interaction1."),
                (r"\._op3\.", ".interaction2."),
                (r"\.(interaction.)\.fc", r".\1.gate.fc"),
                (r"\.downsample\.", ".shortcut."),
                (r"^align_module\.pos_pam\.(query|key)_conv\.", r"pam.\1."),
            ),
        ),
    ),
    differences=_differences,
    notes=_notes,
)


@register(
    NetworkCard(
        name="msinet",
        label="MSINet",
        order=90,
        colour="#0072B2",
        marker="o",
        studies=("table2", "table3", "table6", "calibration"),
        variants=(("pam=True", "MSINet-SAM"),),
    ),
    WEIGHTS,
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
        ratio: rho, light convolutions of branch b per one of branch a, at least 1 (Fig. 5d).
        fusion: sum, minus or mul (Fig. 5c).
        neck: fbl (as released), bn (global branch only) or another key of `heads.NECKS`.
        pam: with a position activation module, for alignment pam-self (MSINet-SAM).
    """
    genotype = check_genotype(genotype)
    makes = [INTERACTIONS[letter] for letter in genotype]
    return assemble(Skeleton(width, stages(makes, ratio, fusion)), neck, num_classes, pam=pam)


def stages(
    interactions: Sequence[Make], ratio: int, fusion: Fusion, *, mid_of_input: bool = False
) -> Callable[[int, int, int], nn.Sequential]:
    """The function that builds each stage of a `Skeleton` from cells with these interactions, two per cell.

    Args:
        interactions: constructors, cell 1 first; their number is a multiple of six.
        ratio: rho.
        fusion: sum, minus or mul.
        mid_of_input: branches have a quarter of the channels of the cell's input, not of its output, as in the released
            search code.

    Raises:
        UserError: a ratio below 1, or an unknown fusion.
    """
    if ratio < 1:
        raise UserError(f"scale ratio rho must be at least 1, got {ratio}")
    if fusion not in FUSIONS:
        raise unknown_name("fusion", fusion, FUSIONS)
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
