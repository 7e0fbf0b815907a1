"""Networks: one file for each, with its card. Importing this package does not import torch."""

from typing import TYPE_CHECKING, Any

from msinet.lazy import lazy
from msinet.models.registry import CARDS, NetworkCard, build_model, card_of, label_of, split_name

if TYPE_CHECKING:
    from msinet.models.deployment import deploy
    from msinet.models.heads import Output
    from msinet.models.weights import LoadReport, load_weights, save_weights

__all__ = [
    "CARDS",
    "LoadReport",
    "NetworkCard",
    "Output",
    "build_model",
    "card_of",
    "deploy",
    "label_of",
    "load_weights",
    "save_weights",
    "split_name",
]


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, heads="Output", weights="LoadReport load_weights save_weights", deployment="deploy")
