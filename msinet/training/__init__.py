"""One training loop for every network."""

from msinet.training.evaluation import embed, evaluate_model
from msinet.training.loop import Result, train
from msinet.training.recipe import Recipe

__all__ = ["Recipe", "Result", "embed", "evaluate_model", "train"]
