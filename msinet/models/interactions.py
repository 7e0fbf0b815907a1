"""The four interaction operations of the search space (Sec. 3.2).

Each takes the two branches of a cell, both (B, C, H, W), and returns two maps of that shape.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from msinet.models.blocks import ChannelGate
from msinet.precision import no_autocast

Pair = tuple[Tensor, Tensor]


class NoInteraction(nn.Module):
    """N: none, (x1, x2)."""

    def forward(self, x1: Tensor, x2: Tensor) -> Pair:
        return x1, x2


class Exchange(nn.Module):
    """E: exchange, (x2, x1); the strongest interaction."""

    def forward(self, x1: Tensor, x2: Tensor) -> Pair:
        return x2, x1


class Gate(nn.Module):
    """G: one gate MLP for both branches (Eq. 4); sharing its weights is the interaction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = ChannelGate(channels)

    def forward(self, x1: Tensor, x2: Tensor) -> Pair:
        return self.gate(x1), self.gate(x2)


class CrossAttention(nn.Module):
    """A: channel attention whose keys are exchanged between the branches.

    With X1, X2 of shape (C, N): the energy E1 = X1 X2^T is inverted (row maximum minus energy,
    as in DANet), softmax over its rows gives the mask, and out_k = gamma * mask_k X_k + x_k.
    gamma starts at 0, so that the operation starts as the identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x1: Tensor, x2: Tensor) -> Pair:
        # Energies grow with H*W; half precision would saturate the softmax.
        with no_autocast(x1):
            dtype = torch.promote_types(x1.dtype, torch.float32)
            flat1, flat2 = x1.to(dtype).flatten(2), x2.to(dtype).flatten(2)  # (B, C, N)
            energy = flat1 @ flat2.transpose(1, 2)  # (B, C, C)
            out1 = self._attend(energy, flat1).view_as(x1)
            out2 = self._attend(energy.transpose(1, 2), flat2).view_as(x2)
        return out1.to(x1.dtype) + x1, out2.to(x2.dtype) + x2

    def _attend(self, energy: Tensor, value: Tensor) -> Tensor:
        inverted = energy.amax(-1, keepdim=True) - energy
        return self.gamma * (inverted.softmax(-1) @ value)  # (B, C, N)


#: Makes an interaction for branches with a number of channels.
Make = Callable[[int], nn.Module]
#: The search space (Table 1).
INTERACTIONS: dict[str, Make] = {
    "N": lambda channels: NoInteraction(),
    "E": lambda channels: Exchange(),
    "G": Gate,
    "A": lambda channels: CrossAttention(),
}
LETTERS: dict[type[nn.Module], str] = {NoInteraction: "N", Exchange: "E", Gate: "G", CrossAttention: "A"}
