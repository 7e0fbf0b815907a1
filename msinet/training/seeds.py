"""Seeds that are derived from what is trained. Does not import torch."""

import hashlib


def derived_seed(dataset: str, purpose: str, seed: int) -> int:
    """A seed that depends on what it is for, never on the order in which things are trained.

    Args:
        dataset: name or fingerprint of the training set.
        purpose: "batches", which all networks share, or the name of a network for its initial weights.
        seed: repetition.
    """
    return int.from_bytes(hashlib.sha256(f"{dataset} {purpose} {seed}".encode()).digest()[:4], "big")
