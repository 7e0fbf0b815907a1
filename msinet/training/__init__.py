"""One training loop for every network. Importing this package does not import torch."""

from typing import TYPE_CHECKING, Any

from msinet.lazy import lazy
from msinet.training.recipe import Recipe

if TYPE_CHECKING:
    from msinet.training.evaluation import embed, evaluate_model
    from msinet.training.loop import Result, train

__all__ = ["Recipe", "Result", "embed", "evaluate_model", "train"]


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, evaluation="embed evaluate_model", loop="Result train")
