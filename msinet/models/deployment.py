"""Networks for inference: layers that only training needs are removed, and layers are merged.

Batch norms are folded into the convolutions before them. Linear convolutions whose results are summed become one
convolution over the concatenated inputs. In a cell of MSINet these are the fusion convolutions of both branches and the
shortcut's, if it has one; in OSNet and CDNet the block's last and the shortcut's. The two entry convolutions of a cell
are not merged: copying the strided halves costs more than reading the input twice (MSINet at batch 32 took 3 % longer).
Features do not change, except for rounding.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from msinet.models.blocks import ConvBN
from msinet.models.cdnet import CBlock
from msinet.models.heads import ReIDNet
from msinet.models.msinet import FUSIONS, MSICell
from msinet.models.osnet import OSBlock


def deploy(model: nn.Module) -> nn.Module:
    """A copy for inference: (B, 3, H, W) to the (B, D) features of `model.eval()`, except for rounding.

    The copy is in evaluation mode, without gradients, and in channels-last layout; pass images in that layout.
    Classifiers, training-only layers and the position activation module are dropped.

    Args:
        model: any registered network; it is not changed.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(network, ReIDNet):
        network.pam = None
    drop_unused(network)
    fold(network)
    merge(network)
    return network.to(memory_format=torch.channels_last)


def drop_unused(network: nn.Module) -> None:
    """Remove layers that no feature depends on: classifiers and embeddings that only training uses."""
    for name in ("classifier", "local_classifier"):
        for module in network.modules():
            if hasattr(module, name):
                setattr(module, name, None)
    head = getattr(network, "head", None)
    for name in getattr(head, "training_only", ()):
        setattr(head, name, None)


def fold(module: nn.Module) -> None:
    """Fold every batch norm into the convolution or linear layer that is registered right before it."""
    children = list(module.named_children())
    for (name, layer), (following, norm) in pairwise(children):
        if not isinstance(norm, _BatchNorm):  # the base of batch norms that processes share
            continue
        if isinstance(layer, nn.Conv2d):
            setattr(module, name, fuse_conv_bn_eval(layer, norm))
            setattr(module, following, nn.Identity())
        elif isinstance(layer, nn.Linear):
            setattr(module, name, fuse_linear_bn_eval(layer, norm))
            setattr(module, following, nn.Identity())
    for _, child in children:
        fold(child)


def merge(module: nn.Module) -> None:
    """Replace cells and blocks by their merged versions."""
    for name, child in module.named_children():
        if isinstance(child, MSICell):
            setattr(module, name, MergedCell(child))
        elif isinstance(child, OSBlock | CBlock):
            setattr(module, name, MergedBlock(child))
        else:
            merge(child)


class Joined(nn.Module):
    """One 1x1 convolution over concatenated inputs, in place of several whose results are summed."""

    def __init__(self, convolutions: list[nn.Conv2d], signs: list[float]) -> None:
        super().__init__()
        weight = torch.cat([sign * one.weight for one, sign in zip(convolutions, signs, strict=True)], 1)
        biases = [sign * one.bias for one, sign in zip(convolutions, signs, strict=True) if one.bias is not None]
        self.convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        self.convolution.weight = nn.Parameter(weight, requires_grad=False)
        self.convolution.bias = nn.Parameter(torch.stack(biases).sum(0), requires_grad=False)

    def forward(self, *maps: Tensor) -> Tensor:
        result: Tensor = self.convolution(torch.cat(maps, 1))
        return result


def _convolution(block: nn.Module) -> nn.Conv2d:
    """The convolution of a folded `ConvBN`."""
    assert isinstance(block, ConvBN)
    return block.conv


class MergedCell(nn.Module):
    """A folded cell of MSINet."""

    def __init__(self, cell: MSICell) -> None:
        super().__init__()
        self.entry_a, self.entry_b = cell.entry_a, cell.entry_b
        self.half1_a, self.half1_b, self.interaction1 = cell.half1_a, cell.half1_b, cell.interaction1
        self.half2_a, self.half2_b, self.interaction2 = cell.half2_a, cell.half2_b, cell.interaction2
        self.fusion = cell.fusion
        last = [_convolution(cell.fuse_a), _convolution(cell.fuse_b)]
        signs = [1.0, -1.0 if cell.fusion == "minus" else 1.0]
        self.shortcut: nn.Module | None = None
        if self.fusion == "mul":  # a product of sums cannot be merged
            self.fuse_a, self.fuse_b, self.shortcut = cell.fuse_a, cell.fuse_b, cell.shortcut
            return
        self.widens = isinstance(cell.shortcut, ConvBN)
        if self.widens:
            last.append(_convolution(cell.shortcut))
            signs.append(1.0)
        self.fuse = Joined(last, signs)

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W) -> (B, out, H, W)
        a, b = self.entry_a(x), self.entry_b(x)  # (B, out/4, H, W) each
        a, b = self.interaction1(self.half1_a(a), self.half1_b(b))
        a, b = self.interaction2(self.half2_a(a), self.half2_b(b))
        if self.shortcut is not None:
            return torch.relu_(FUSIONS[self.fusion](self.fuse_a(a), self.fuse_b(b)) + self.shortcut(x))
        return torch.relu_(self.fuse(a, b, x) if self.widens else self.fuse(a, b).add_(x))


class MergedBlock(nn.Module):
    """A folded block of OSNet or CDNet: reduced, gated streams, summed."""

    def __init__(self, block: OSBlock | CBlock) -> None:
        super().__init__()
        self.reduce, self.gate = block.reduce, block.gate
        self.streams = block.streams if isinstance(block, OSBlock) else nn.ModuleList([block.branch1, block.branch2])
        last = [_convolution(block.expand)]
        self.widens = isinstance(block.shortcut, ConvBN)
        if self.widens:
            last.append(_convolution(block.shortcut))
        self.expand = Joined(last, [1.0] * len(last))

    def forward(self, x: Tensor) -> Tensor:  # (B, in, H, W) -> (B, out, H, W)
        reduced = self.reduce(x)  # (B, out/4, H, W)
        gated = self.gate(self.streams[0](reduced))
        for stream in self.streams[1:]:
            gated = gated.add_(self.gate(stream(reduced)))
        return torch.relu_(self.expand(gated, x) if self.widens else self.expand(gated).add_(x))
