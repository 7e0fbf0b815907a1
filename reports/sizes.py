"""Costs of networks at full image size."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.cost import Cost


@cache
def full_size_cost(text: str) -> "Cost":
    """The cost of a network for one image of 256x128.

    Args:
        text: its name with options, as `msinet pam=True`.
    """
    from bench.cost import count  # both import torch
    from bench.networks import build

    return count(build(text, 1, (256, 128)), 256, 128)
