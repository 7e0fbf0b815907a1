"""P x K batches: P identities with K images each (Sec. 4.3). Classifiers get shuffled batches."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from msinet.data.datasets import positions_by_identity
from msinet.errors import DataError


def pk_batches(labels: ArrayLike, p: int, k: int, seed: Sequence[int]) -> list[list[int]]:
    """One pass over the images in batches of `p` identities with `k` images each.

    Each identity's images are shuffled and cut into chunks of `k`. An identity with fewer than `k` images gives one
    chunk, drawn with replacement. Incomplete chunks are left out. A batch takes one chunk of each of `p` identities.
    The pass ends when fewer than `p` identities have chunks left.

    Args:
        labels: identity of each image.
        p: identities per batch, at least 1.
        k: images per identity, at least 1.
        seed: non-negative integers; the same seed gives the same batches.

    Returns:
        Lists of p * k positions in `labels`, the images of one identity next to each other.

    Raises:
        DataError: fewer than `p` identities.
    """
    rng = np.random.default_rng(list(seed))
    groups = positions_by_identity(labels)
    if len(groups) < p:
        raise DataError(
            f"a batch needs {p} identities, but the training set has {len(groups)}; "
            f"take fewer per batch (--recipe identities={max(1, len(groups))}) or more data"
        )
    chunks: list[list[np.ndarray]] = []
    for group in groups:
        drawn = rng.permutation(group) if len(group) >= k else rng.choice(group, k)
        chunks.append([drawn[i : i + k] for i in range(0, len(drawn) - k + 1, k)])
    batches = []
    left = list(range(len(groups)))  # identities with chunks left
    while len(left) >= p:
        positions = rng.choice(len(left), p, replace=False)
        batches.append([int(i) for position in positions for i in chunks[left[position]].pop()])
        for position in sorted(positions, reverse=True):  # from the back, so that earlier positions stay valid
            if not chunks[left[position]]:
                left[position] = left[-1]
                left.pop()
    return batches


def epoch_batches(
    labels: ArrayLike, p: int, k: int, *, seed: int, epoch: int, steps: int | None = None
) -> list[list[int]]:
    """The batches of one epoch. A pure function of its arguments, so that training can resume at any step.

    Args:
        labels: identity of each image.
        p: identities per batch.
        k: images per identity.
        seed: of the run.
        epoch: counted from 0.
        steps: batches in the epoch, from as many passes as needed; None for exactly one pass.
    """
    return passes(lambda number: pk_batches(labels, p, k, (seed, epoch, number)), steps)


def shuffled_batches(count: int, size: int, *, seed: int, epoch: int, steps: int | None = None) -> list[list[int]]:
    """The batches of one epoch of a classifier: all images in random order, a last incomplete batch left out.

    Args:
        count: images.
        size: of a batch.
        seed: of the run.
        epoch: counted from 0.
        steps: batches in the epoch, from as many passes as needed; None for exactly one pass.

    Raises:
        DataError: fewer images than a batch takes.
    """
    if count < size:
        raise DataError(
            f"a batch needs {size} images, but the training set has {count}; "
            "take fewer images per batch (identities times images of the recipe) or more data"
        )

    def batches(number: int) -> list[list[int]]:
        order = np.random.default_rng((seed, epoch, number)).permutation(count)
        return order[: count // size * size].reshape(-1, size).tolist()

    return passes(batches, steps)


def passes(batches_of: Callable[[int], list[list[int]]], steps: int | None) -> list[list[int]]:
    """`steps` batches from as many passes as needed; None for exactly one pass."""
    batches = batches_of(0)
    if steps is None:
        return batches
    number = 1
    while len(batches) < steps:
        batches += batches_of(number)
        number += 1
    return batches[:steps]
