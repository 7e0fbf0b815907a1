"""A teacher: the moving average of a student's parameters."""

import torch
from torch import nn


@torch.no_grad()
def average(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the teacher's parameters towards the student's: t <- decay t + (1 - decay) s. Buffers stay unchanged.

    Args:
        teacher: of the student's architecture; changed in place.
        student: trained network.
        decay: in [0, 1]; 0 copies.
    """
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.mul_(decay).add_(theirs, alpha=1 - decay)


def frozen(network: nn.Module) -> nn.Module:
    """Turn off gradients of a network and return it."""
    return network.requires_grad_(False)
