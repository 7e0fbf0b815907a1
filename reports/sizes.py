"""Costs of networks at full image size."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class FullSizeCost:
    """The cost of a network for one image of 256x128, or taller if its parts need it (`bench.cost.Cost`)."""

    parameters_without_classifier: int
    parameters_at_inference: int
    macs: int


@cache
def known_costs() -> dict[str, FullSizeCost]:
    """Costs in `sizes.csv` by network, so that a report of these networks does not import torch. A test checks them."""
    with files("reports").joinpath("sizes.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {row.pop("network"): FullSizeCost(**{name: int(value) for name, value in row.items()}) for row in rows}


@cache
def full_size_cost(text: str) -> FullSizeCost:
    """The cost of a network for one image of 256x128.

    Args:
        text: its name with options, such as `msinet pam=True`.
    """
    return known_costs().get(text) or counted(text)


def counted(text: str) -> FullSizeCost:
    """Count the cost of a network, with torch."""
    from bench.cost import count  # both import torch
    from bench.networks import build
    from msinet.models.registry import card_of

    height = card_of(text.split()[0]).height(256)
    cost = count(build(text, 1, (height, 128)), height, 128)
    return FullSizeCost(cost.parameters_without_classifier, cost.parameters_at_inference, cost.macs)
