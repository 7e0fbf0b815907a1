"""The spatial alignment module's parts: where images agree, and where one image is active (Sec. 3.3; SPEC A.6)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Images of a block of the score matrix: small enough that its scores stay in a core's cache.
BLOCK = 4


def at_least_float(x: Tensor) -> Tensor:
    """Half precision as float32, all else as it is: float64 stays, by which processes are compared exactly."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class PositionActivation(nn.Module):
    """PAM: how much each position of an image is asked for by its other positions.

    (B, C, H, W) to (B, H*W): the maximum over the keys of Q^T K at each query position. It sets a target and does
    not touch the features; it is used in training alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        query, key = self.query(feature_map).flatten(2), self.key(feature_map).flatten(2)  # (B, C/8, N) each
        energy: Tensor = query.transpose(1, 2) @ key  # (B, N, N)
        return energy.amax(2)


class _Correlations(torch.autograd.Function):
    """Largest scores of all pairs of images, which need B^2 N numbers where the scores themselves are B^2 N^2.

    The scores are made block by block, used for both directions (X_j^T X_i is the transpose of X_i^T X_j), and thrown
    away; what is kept is which position was the largest. The gradient of a maximum touches two positions, so
    the backward pass is a sparse matrix with one entry per maximum times the features.
    """

    @staticmethod
    def forward(ctx: Any, places: Tensor) -> Tensor:  # (B, N, C) -> (B, B, N)
        images, positions, channels = places.shape
        values = places.new_empty(images, images, positions)
        winners = torch.empty(images, images, positions, dtype=torch.int32, device=places.device)
        flat = places.reshape(-1, channels)  # (B*N, C)
        for i in range(0, images, BLOCK):
            mine = flat[i * positions : (i + BLOCK) * positions]
            for j in range(i, images, BLOCK):
                theirs = flat[j * positions : (j + BLOCK) * positions]
                scores = (mine @ theirs.T).view(-1, positions, len(theirs) // positions, positions)  # (b, N, b', N)
                best = scores.max(3)  # over j's positions, on i's grid: (b, N, b')
                values[i : i + BLOCK, j : j + BLOCK] = best.values.transpose(1, 2)
                winners[i : i + BLOCK, j : j + BLOCK] = best.indices.transpose(1, 2)
                if j > i:
                    best = scores.max(1)  # over i's positions, on j's grid: (b, b', N)
                    values[j : j + BLOCK, i : i + BLOCK] = best.values.transpose(0, 1)
                    winners[j : j + BLOCK, i : i + BLOCK] = best.indices.transpose(0, 1)
        ctx.save_for_backward(places, winners)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        places, winners = ctx.saved_tensors
        images, positions, channels = places.shape
        flat = places.reshape(-1, channels)  # (B*N, C)
        # Row (i, n) of the sparse matrix has an entry for every j, in the column of j's winning position.
        first = torch.arange(images, device=places.device).view(1, -1, 1) * positions  # (1, B, 1)
        columns = (winners + first).transpose(1, 2).reshape(-1, images)  # (B*N, B)
        entries = gradient.transpose(1, 2).reshape(-1, images)  # (B*N, B)
        result = F.embedding_bag(columns, flat, per_sample_weights=entries, mode="sum")  # (B*N, C)
        # Its transpose, row by row as well: entries in the order of their columns.
        ordered, order = columns.flatten().sort(stable=True)
        offsets = torch.searchsorted(ordered, torch.arange(len(flat), device=places.device))
        result += F.embedding_bag(
            order // images, flat, offsets, per_sample_weights=entries.flatten()[order], mode="sum"
        )
        return result.view_as(places)


def correlations(feature_map: Tensor) -> Tensor:
    """Where the images of a batch agree: (B, C, H, W) to (B, B, H*W).

    Entry (i, j) is a(i, j) on the grid of image i: at each of its positions the largest inner product with any
    position of image j (Eq. 7 as its sentence reads). Entry (j, i) is the same on the grid of j.
    """
    values: Tensor = _Correlations.apply(at_least_float(feature_map).flatten(2).transpose(1, 2).contiguous())
    return values
