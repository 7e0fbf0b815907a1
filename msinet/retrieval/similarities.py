"""Similarities of queries and gallery, a block of queries at a time.

Similarities are inner products of unit rows. They order the gallery as Euclidean distances do, but float32 distances
2 - 2s merge different similarities, so rankings use similarities.
"""

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msinet.errors import DataError, UserError

Features = Tensor | NDArray[Any]
Mapped = np.memmap[Any, Any]

CHUNK_BYTES = 20 << 20  # similarities in memory at a time, which fit in a cache
QUERIES = 256  # smallest number of queries in a block if it fits in MOST_BYTES; products with fewer are slow
MOST_BYTES = 128 << 20
SLAB_BYTES = 64 << 20  # of a gallery on disk, read at a time
LINE = 16  # rows of a block start at multiples of this many numbers; unaligned products take up to 1.4 times as long


def as_features(query: Features, gallery: Features) -> tuple[Tensor, Tensor]:
    """Both as tensors (Q, D) and (G, D) of one floating type, float64 only if both are; memory maps are read.

    Raises:
        UserError: a shape that is not (images, dimensions), or different dimensions.
    """
    pair: list[Tensor] = []
    for name, features in (("query", query), ("gallery", gallery)):
        if isinstance(features, np.ndarray):
            # a copy of reversed arrays, which torch refuses, and of read-only ones, about which it warns
            features = torch.from_numpy(np.require(features, requirements=["C", "W"]))
        if features.ndim != 2 or 0 in features.shape:
            raise UserError(
                f"{name} features have shape {tuple(features.shape)}; expected (images, dimensions), none 0"
            )
        pair.append(features.detach())
    if pair[0].shape[1] != pair[1].shape[1]:
        raise UserError(
            f"query features have {pair[0].shape[1]} dimensions and gallery features {pair[1].shape[1]}:"
            " extract both with the same network"
        )
    dtype = torch.float64 if pair[0].dtype == pair[1].dtype == torch.float64 else torch.float32
    return pair[0].to(dtype), pair[1].to(dtype)


def streamed(query: Features, gallery: Features) -> tuple[Tensor, Tensor | Mapped]:
    """The result of `as_features`, except that a memory-mapped gallery is not read.

    Raises:
        UserError: as `as_features`.
    """
    if not isinstance(gallery, np.memmap) or gallery.ndim != 2:
        return as_features(query, gallery)
    return as_features(query, gallery[:1])[0], gallery


@torch.no_grad()
def blocks(query: Tensor, gallery: Tensor | Mapped, chunk_bytes: int | None) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of the first query and similarities (r, G) on the CPU, block by block.

    The caller may change a block. The next one overwrites it.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features; a memory map is read slab by slab, once per block.
        chunk_bytes: memory for one block; None: 20 MiB, or what 256 queries need up to 128 MiB.

    Raises:
        DataError: NaN or infinite features.
    """
    items = len(gallery)
    query_lengths = _lengths("query", query)
    lengths = np.concatenate([_lengths("gallery", slab, start) for start, slab in _slabs(gallery)])
    # Dividing similarities instead of the gallery avoids a copy; unit rows need no division.
    divide = bool(np.abs(lengths - 1).max() > 4 * torch.finfo(query.dtype).eps)
    scale = torch.from_numpy(lengths).to(query.dtype)
    width = -(-items // LINE) * LINE
    row_bytes = width * query.element_size()
    if chunk_bytes is None:
        chunk_bytes = min(max(CHUNK_BYTES, QUERIES * row_bytes), MOST_BYTES)
    rows = max(1, min(len(query), chunk_bytes // row_bytes))
    similarities = torch.empty(rows, width, dtype=query.dtype)[:, :items]
    for start in range(0, len(query), rows):
        chunk = query[start : start + rows]
        unit = chunk / torch.from_numpy(query_lengths[start : start + rows, None]).to(chunk)
        for first, slab in _slabs(gallery):
            part = similarities[: len(chunk), first : first + len(slab)]
            if slab.device.type == "cpu":
                torch.mm(unit, slab.to(unit.dtype).T, out=part)
            else:
                part.copy_(unit @ slab.T)
        if divide:
            similarities[: len(chunk)] /= scale
        yield start, similarities[: len(chunk)]


def unit_rows(name: str, features: Tensor) -> Tensor:
    """The rows of a tensor (N, D), scaled to length 1; rows of zeros are unchanged.

    Raises:
        DataError: NaN or infinite features, by `name` and row.
    """
    return features / torch.from_numpy(_lengths(name, features)[:, None]).to(features)


def _lengths(name: str, features: Tensor, first: int = 0) -> NDArray[np.float64]:
    """Euclidean length of every row (N,); 1 for rows of zeros, so that division leaves them unchanged.

    Errors count rows from `first`.
    """
    lengths = torch.linalg.vector_norm(features, dim=1).double()
    extreme = ~((lengths > 1e-15) & (lengths < 1e15))  # the squares may have left the range of float32
    lengths[extreme] = torch.linalg.vector_norm(features[extreme].double(), dim=1)
    lengths = lengths.cpu().numpy()
    broken = np.flatnonzero(~np.isfinite(lengths))
    if len(broken):
        raise DataError(
            f"{len(broken)} of {len(lengths)} {name} features hold NaN or infinite values, the first in row"
            f" {first + broken[0]}; check the weights and the images behind them"
        )
    return np.where(lengths == 0, 1.0, lengths)


def _slabs(gallery: Tensor | Mapped) -> Iterator[tuple[int, Tensor]]:
    """Yield the gallery in pieces with the index of their first row: a tensor as a whole, a memory map slab by slab."""
    if isinstance(gallery, Tensor):
        yield 0, gallery
        return
    dtype = np.float64 if gallery.dtype == np.float64 else np.float32
    step = max(1, SLAB_BYTES // (gallery.shape[1] * np.dtype(dtype).itemsize))
    for start in range(0, len(gallery), step):
        slab = np.array(gallery[start : start + step], dtype)  # a copy: maps are read-only
        if isinstance(gallery.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            gallery.base.madvise(mmap.MADV_DONTNEED)  # otherwise pages that were read stay in memory
        yield start, torch.from_numpy(slab)
