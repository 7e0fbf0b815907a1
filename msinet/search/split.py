"""The two sides of a search: images for the weights and for the architecture, with shared identities (Sec. 3.1)."""

from dataclasses import dataclass

import numpy as np

from msinet.data.sampler import epoch_batches
from msinet.errors import DataError
from msinet.training.recipe import Recipe


@dataclass(frozen=True)
class Side:
    """The images of one side, as positions in the training set, and their labels there."""

    positions: np.ndarray
    """(N,) int64, ascending"""
    labels: np.ndarray
    """(N,) int64 in [0, classes): the side's own numbering, in the order of the identities"""
    classes: int
    identities: np.ndarray
    """(classes,) the label in the whole training set of each label of the side"""


def block_sizes(n: int, overlap: float, side_ratio: float = 2.0, *, fifths: bool = False) -> tuple[int, int, int]:
    """Numbers of identities in training only, shared, and in validation only.

    round(overlap * n) identities are shared. Of the others, 1 in 1 + side_ratio is in training only (rounded). Overlap
    0.4 gives the proportions of the released code, which has q = n // 5 in training only and 2q shared.

    Args:
        n: identities.
        overlap: share of identities on both sides, in [0, 1].
        side_ratio: identities in validation only for each one in training only, above 0.
        fifths: count exactly as the released code does, whatever the overlap.
    """
    if fifths:
        fifth = n // 5
        return fifth, 2 * fifth, n - 3 * fifth
    shared = round(overlap * n)
    train_only = min(n - shared, round((1 - overlap) * n / (1 + side_ratio)))
    return train_only, shared, n - shared - train_only


def split_identities(
    labels: np.ndarray,
    overlap: float,
    *,
    side_ratio: float = 2.0,
    seed: int = 0,
    fifths: bool = False,
    list_order: bool = False,
) -> tuple[Side, Side]:
    """The training and the validation side of a training set.

    Identities are taken in ascending order: training only, shared, validation only. Half of the images of a
    shared identity (rounded down) are in training, the others in validation. An identity with a single image is in
    training only.

    Args:
        labels: (N,) identity of every image, in [0, n).
        overlap: share of identities on both sides, in [0, 1]. 1: every identity's images are halved; 0: the sides
            have no identity in common.
        side_ratio: identities in validation only for each one in training only.
        seed: seed of the random halves.
        fifths: block sizes exactly as in the released code.
        list_order: halves in the order of the images, as in the released code, rather than at random.

    Raises:
        DataError: a side without an identity.
    """
    rng = np.random.default_rng((seed, 2))  # also the sampler's seed in epoch 2; finished searches depend on it
    present = np.unique(labels)
    train_only, shared, _ = block_sizes(len(present), overlap, side_ratio, fifths=fifths)
    mine: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    for number, identity in enumerate(present):
        images = np.flatnonzero(labels == identity)
        if number < train_only:
            mine.append(images)
        elif number >= train_only + shared:
            theirs.append(images)
        else:
            order = images if list_order else rng.permutation(images)
            half = len(images) // 2 or len(images)  # a single image: training only
            mine.append(order[:half])
            theirs.append(order[half:])
    for name, groups in (("training", mine), ("validation", theirs)):
        if not any(len(group) for group in groups):
            raise DataError(
                f"with {len(present)} identities, overlap {overlap:g} and side ratio {side_ratio:g} the {name} side of "
                "the search is empty; take more identities or another overlap"
            )
    return _side(labels, mine), _side(labels, theirs)


def _side(labels: np.ndarray, groups: list[np.ndarray]) -> Side:
    positions = np.sort(np.concatenate(groups)).astype(np.int64)
    identities, own = np.unique(labels[positions], return_inverse=True)
    return Side(positions, own.astype(np.int64), len(identities), identities)


def side_batches(
    recipe: Recipe, labels: np.ndarray, name: str, *, seed: int, epoch: int, steps: int | None
) -> list[list[int]]:
    """The batches of an epoch of one side, as positions in it.

    Raises:
        DataError: too few identities for a batch; the message names the side.
    """
    p, k = recipe.sampler.identities, recipe.sampler.images
    try:
        return epoch_batches(labels, p, k, seed=seed, epoch=epoch, steps=steps)
    except DataError as error:
        raise DataError(f"the {name} side of the search is too small: {error}") from error
