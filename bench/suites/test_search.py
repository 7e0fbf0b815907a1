"""A search iteration against a plain implementation: four separate operations, every gradient in both steps."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from msinet.data.loading import train_batches
from msinet.models import build_model
from msinet.models.genotype import OPERATIONS
from msinet.models.interactions import INTERACTIONS, Pair
from msinet.models.supernet import MixedInteraction, interactions_of
from msinet.search import Memory, Side, split_identities
from msinet.search.twins import Subset, Twins, TwinsSearch
from msinet.training.fit import fit
from msinet.training.options import RunOptions
from msinet.training.recipe import Recipe, with_settings
from msinet.training.recipes import resolve_search
from msinet.training.supervised import build_optimizer

IDENTITIES, IMAGES, ITERATIONS = 100, 16, 3


class PlainInteraction(nn.Module):
    """The definition: a weighted sum of the results of four separate operations."""

    def __init__(self, mixed: MixedInteraction) -> None:
        super().__init__()
        self.alpha = mixed.alpha
        self.operations = nn.ModuleList(INTERACTIONS[letter](mixed.gate.fc2.out_channels) for letter in OPERATIONS)

    def forward(self, x1: Tensor, x2: Tensor) -> Pair:
        """Mix the four results."""
        weights = self.alpha.softmax(0)
        results = [operation(x1, x2) for operation in self.operations]
        first, second = (
            torch.stack([w * result[i] for w, result in zip(weights, results, strict=True)]).sum(0) for i in (0, 1)
        )
        return first, second


class Untouched(MixedInteraction):
    """The floor: branches pass unchanged, except for the gradient of the architecture that a search needs."""

    def forward(self, x1: Tensor, x2: Tensor) -> Pair:
        """Add a negligible value."""
        return x1 + self.alpha[0], x2 + self.alpha[0]


def plain_supernet(classes: int) -> nn.Module:
    """The supernet with plain interactions, in torch's default layout."""
    network = build_model("supernet", classes)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MixedInteraction):
                setattr(module, name, PlainInteraction(child))
    return network


def plain_search(pixels: np.ndarray, labels: np.ndarray, recipe: Recipe) -> Callable[[], None]:
    """The search of the released code: two whole backward passes, memories updated sample by sample."""
    training, validation = split_identities(labels, 0.4)
    network = plain_supernet(training.classes).train()
    alphas = [m.alpha for m in network.modules() if isinstance(m, PlainInteraction)]
    own = {id(alpha) for alpha in alphas}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) not in own)
    optimizers = build_optimizer(network, recipe), torch.optim.Adam(alphas, 0.002)
    for alpha in alphas:
        alpha.requires_grad_(True)
    memories = [F.normalize(torch.randn(side.classes, 512)) for side in (training, validation)]

    def batches(side: Side) -> Iterator[tuple[Tensor, Tensor]]:
        plan = ((0, i, recipe.sampler.batches(side.labels, seed=0, epoch=i)[0]) for i in range(ITERATIONS))
        return train_batches(Subset(pixels, side.positions), side.labels, recipe.augmentation, plan, seed=0)

    def run() -> None:
        streams = batches(training), batches(validation)
        for _ in range(ITERATIONS):
            for stream, memory, optimizer in zip(streams, memories, optimizers, strict=True):
                plain_step(network, *next(stream), memory, optimizer)

    return run


def plain_step(
    network: nn.Module, images: Tensor, targets: Tensor, memory: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    """Update the weights or the architecture: half of an iteration."""
    features = F.normalize(network(images.contiguous()).embeddings[0])
    network.zero_grad()
    F.cross_entropy(features @ memory.clone().T / 0.05, targets).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for feature, target in zip(features.detach(), targets, strict=True):
        memory[target] = F.normalize(0.2 * memory[target] + 0.8 * feature, dim=0)


@pytest.mark.parametrize("form", ["plain", "ours", "floor"])
def test_three_iterations_of_a_search_at_batch_64(benchmark: BenchmarkFixture, form: str, tmp_path: Path) -> None:
    """Plain against ours shows the gain of shared work; the floor is the network without interactions."""
    recipe = resolve_search("mini", "msmt17").recipe
    recipe = with_settings(recipe, {"epochs": 1, "steps_per_epoch": ITERATIONS, "memory_init": "zeros"})
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IDENTITIES * IMAGES, recipe.image.height, recipe.image.width, 3), np.uint8)
    labels = np.repeat(np.arange(IDENTITIES), IMAGES)
    torch.manual_seed(0)
    if form == "plain":
        benchmark.pedantic(plain_search(pixels, labels, recipe), rounds=4, warmup_rounds=1)
        return
    sides = split_identities(labels, 0.4)
    twins = Twins(build_model("supernet", sides[0].classes), *(Memory(side.classes, 512) for side in sides))  # type: ignore[arg-type]
    twins = twins.to(memory_format=torch.channels_last)
    if form == "floor":
        for interaction in interactions_of(twins):
            interaction.__class__ = Untouched

    options = RunOptions(resume=False, progress=False)

    def run() -> None:
        fit(TwinsSearch(twins, pixels, sides, recipe, seed=0), tmp_path, "bench", options)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
