"""Seeds derived from data set, network and repetition. Does not import torch."""

import hashlib


def derived_seed(dataset: str, purpose: str, seed: int) -> int:
    """A 32-bit seed that depends only on the arguments, not on the order of trainings.

    Args:
        dataset: name or fingerprint of the training set.
        purpose: "batches", which all networks share, or the name of a network for its initial weights.
        seed: number of the repetition.
    """
    return int.from_bytes(hashlib.sha256(f"{dataset} {purpose} {seed}".encode()).digest()[:4], "big")
