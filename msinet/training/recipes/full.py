"""Profile full: the paper's recipes at a third of their length, on one GPU."""

from msinet.training.recipes.layers import Profile

PROFILE = Profile(
    "full",
    "paper-sized images, a third of the epochs",
    epochs={"light": 120, "transformer": 60, "search": 120, "pretraining": 60, "unsupervised": 20},
)
