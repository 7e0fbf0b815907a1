"""Seeds that are derived from what is trained. Does not import torch."""

import hashlib


def derived_seed(dataset: str, model: str, seed: int) -> int:
    """A seed that depends on what is trained, never on the order in which things are trained."""
    return int.from_bytes(hashlib.sha256(f"{dataset} {model} {seed}".encode()).digest()[:4], "big")
