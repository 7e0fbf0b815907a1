"""One training loop for every task. Importing this package does not import torch."""

from typing import TYPE_CHECKING, Any

from msinet.lazy import lazy
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe

if TYPE_CHECKING:
    from msinet.training.evaluation import embed, evaluate_model

__all__ = ["Recipe", "RunOptions", "embed", "evaluate_model"]


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, evaluation="embed evaluate_model")
