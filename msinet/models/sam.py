"""Parts of the spatial alignment module: correlations of images and position activation (Sec. 3.3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from msinet.precision import outside_autocast

#: Images per block of the score matrix; its scores fit in the cache of a core.
BLOCK = 4


def at_least_float(x: Tensor) -> Tensor:
    """Half precision as float32, other types unchanged. Tests compare processes exactly in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class PositionActivation(nn.Module):
    """PAM, the position activation module: (B, C, H, W) to (B, H*W).

    The activation of a position is the maximum of Q^T K over all keys. The alignment loss uses it in training; it does
    not change the features.
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
    """Largest scores of all pairs of images: keeps B^2 N of the B^2 N^2 scores.

    The scores are computed block by block, used for both directions (X_j^T X_i is the transpose of X_i^T X_j) and
    discarded; only the position of each maximum is kept. The gradient of a maximum has two positions, so the backward
    pass multiplies the features with a sparse matrix that has one entry per maximum.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # (B, N, C) -> (B, B, N)
        images, positions, channels = rows.shape
        values = rows.new_empty(images, images, positions)
        winners = torch.empty(images, images, positions, dtype=torch.int32, device=rows.device)
        flat = rows.reshape(-1, channels)  # (B*N, C)
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
        ctx.save_for_backward(rows, winners)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rows, winners = ctx.saved_tensors
        images, positions, channels = rows.shape
        flat = rows.reshape(-1, channels)  # (B*N, C)
        # Row (i, n) of the sparse matrix has an entry for every j, in the column of j's winning position.
        first = torch.arange(images, device=rows.device).view(1, -1, 1) * positions  # (1, B, 1)
        columns = (winners + first).transpose(1, 2).reshape(-1, images)  # (B*N, B)
        entries = gradient.transpose(1, 2).reshape(-1, images)  # (B*N, B)
        result = F.embedding_bag(columns, flat, per_sample_weights=entries, mode="sum")  # (B*N, C)
        # Multiply with the transpose, also row by row: entries in the order of their columns.
        ordered, order = columns.flatten().sort(stable=True)
        offsets = torch.searchsorted(ordered, torch.arange(len(flat), device=rows.device))
        result += F.embedding_bag(
            order // images, flat, offsets, per_sample_weights=entries.flatten()[order], mode="sum"
        )
        return result.view_as(rows)


@outside_autocast
def correlations(feature_map: Tensor) -> Tensor:
    """Correlations of the images of a batch: (B, C, H, W) to (B, B, H*W).

    Entry (i, j) is a(i, j) on the grid of image i: at each of its positions the largest inner product with any
    position of image j (Eq. 7). Entry (j, i) is the same on the grid of j.
    """
    values: Tensor = _Correlations.apply(at_least_float(feature_map).flatten(2).transpose(1, 2).contiguous())
    return values
