"""Profile full: the paper's recipes with fewer epochs, on one GPU.

Light networks and searches have a third of the epochs, transformers half, pre-training a quarter. Methods without
labels have 20 epochs, where their authors have 50 to 80.
"""

from msinet.training.recipes.layers import Profile

PROFILE = Profile(
    "full",
    "paper-sized images, fewer epochs than published: for a GPU",
    epochs={"light": 120, "transformer": 60, "search": 120, "pretraining": 60, "unsupervised": 20},
)
