"""The supernet of the search: every interaction is a mixture of all four operations (Sec. 3.2)."""

from typing import Literal

import torch
from torch import Tensor, nn

from msinet.errors import UserError
from msinet.models.blocks import ChannelGate, Skeleton
from msinet.models.genotype import OPERATIONS, SEARCHED
from msinet.models.heads import ReIDNet, assemble
from msinet.models.interactions import Pair
from msinet.models.msinet import Fusion, stages
from msinet.models.registry import NetworkCard, register
from msinet.precision import no_autocast


class MixedInteraction(nn.Module):
    """All four operations at once, mixed by softmax(alpha): N, G, A and E of `interactions`, with shared work.

    With weights n, g, a, e the mixture of the first branch is
    n x1 + g gate(x1) x1 + a (gamma mask1 X1 + x1) + e x2. The factors of x1 are summed before they multiply the map.
    Both branches share one pass of the gate, and both energies share one product X1 X2^T. The row maximum that inverts
    the energies cancels in their softmax. `gate` and `gamma` have the names and shapes of the discrete
    operations' parameters.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(OPERATIONS)))
        self.gate = ChannelGate(channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x1: Tensor, x2: Tensor) -> Pair:  # both (B, C, H, W)
        none, gate, attention, exchange = self.alpha.softmax(0)
        pooled = torch.cat([x1.mean((2, 3), keepdim=True), x2.mean((2, 3), keepdim=True)])  # (2B, C, 1, 1)
        own1, own2 = (none + attention + gate * self.gate.weights(pooled)).chunk(2)  # (B, C, 1, 1) each
        # Energies grow with H*W; half precision would saturate the softmax.
        with no_autocast(x1):
            dtype = torch.promote_types(x1.dtype, torch.float32)
            rows1, rows2 = (x.to(dtype).flatten(2).transpose(1, 2) for x in (x1, x2))  # (B, N, C)
            energy = -rows1.transpose(1, 2) @ rows2  # (B, C, C), inverted
            share = attention * self.gamma
            seen1 = share * (rows1 @ energy.softmax(2).transpose(1, 2))  # (B, N, C)
            seen2 = share * (rows2 @ energy.softmax(1))
        out1 = own1 * x1 + exchange * x2 + seen1.transpose(1, 2).view_as(x1).to(x1.dtype)
        out2 = own2 * x2 + exchange * x1 + seen2.transpose(1, 2).view_as(x2).to(x2.dtype)
        return out1, out2


def interactions_of(supernet: nn.Module) -> list[MixedInteraction]:
    """The mixed interactions of a supernet, in the order of the cells."""
    return [module for module in supernet.modules() if isinstance(module, MixedInteraction)]


def alphas_of(supernet: nn.Module) -> Tensor:
    """A copy of the architecture parameters (interactions, 4); columns as in `OPERATIONS`."""
    return torch.stack([one.alpha.detach().cpu() for one in interactions_of(supernet)])


def genotype_of(alphas: Tensor) -> str:
    """The strongest operation of each row of (interactions, 4): the searched architecture (Table 1)."""
    return "".join(OPERATIONS[column] for column in alphas.argmax(1))


@register(NetworkCard(name="supernet", label="supernet", order=99))
def supernet(
    num_classes: int,
    *,
    width: float = 1.0,
    ratio: int = 3,
    fusion: Fusion = "sum",
    mid: Literal["out", "in"] = "out",
    interactions: int = len(SEARCHED),
) -> ReIDNet:
    """MSINet with mixed interactions and the neck bn (pooled feature, batch norm, linear classifier).

    Args:
        num_classes: training identities.
        width: multiplies every channel count.
        ratio: rho of the cells.
        fusion: sum, minus or mul.
        mid: channels of a branch. out: a quarter of its cell's output, as in the final network; in: a quarter of its
            input, as in the released search code.
        interactions: a multiple of six (two per cell, three stages).
    """
    if interactions < 6 or interactions % 6:
        raise UserError(f"a supernet has a multiple of six interactions, not {interactions}")
    if mid not in ("out", "in"):
        raise UserError(f"mid of a supernet must be out or in, got {mid!r}")
    make = stages([MixedInteraction] * interactions, ratio, fusion, mid_of_input=mid == "in")
    return assemble(Skeleton(width, make), "bn", num_classes)
