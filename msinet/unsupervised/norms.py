"""Domain-specific batch norms: separate statistics and parameters for source, target and mixed features."""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Position of the target among the domains of a batch: source, target, mixed.
TARGET = 1


class DomainNorm(nn.Module):
    """A batch norm per domain. In training a batch holds equal parts of all domains, in evaluation only the target.

    Args:
        norm: batch norm that is copied for every domain.
        domains: 2 for source and target, 3 with mixed features as well.
    """

    def __init__(self, norm: nn.Module, domains: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(domains))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, ...)
        """Normalise each part of the batch by itself."""
        if not self.training:
            target: Tensor = self.norms[TARGET](x)
            return target
        parts = x.chunk(len(self.norms))
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)])


def split_norms(module: nn.Module, domains: int) -> None:
    """Replace every batch norm inside a module, in place, by one per domain."""
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            setattr(module, name, DomainNorm(child, domains))
        elif not isinstance(child, DomainNorm):
            split_norms(child, domains)


def join_norms(module: nn.Module) -> None:
    """Replace every `DomainNorm` inside a module, in place, by the target's batch norm."""
    for name, child in list(module.named_children()):
        if isinstance(child, DomainNorm):
            setattr(module, name, cast(_BatchNorm, child.norms[TARGET]))
        else:
            join_norms(child)
