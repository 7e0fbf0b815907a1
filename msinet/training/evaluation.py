"""Evaluation of a network on a data set: CMC, mAP and mINP (Sec. 4.1)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from msinet import distributed
from msinet.data.datasets import Dataset, Draw
from msinet.data.factors import ORDERS, families, oracle_features, read_factors
from msinet.data.loading import PixelSource, test_batches
from msinet.data.matches import QueryCounts, count_queries
from msinet.models.oracle import Oracle
from msinet.progress import bar
from msinet.retrieval import Retrieval, evaluate, evaluate_distances, evaluate_within, mean_over_draws

#: Computes distances (Q, G) from features of queries (Q, D) and gallery (G, D).
Distances = Callable[[Tensor, Tensor], NDArray[np.float32]]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a network on a data set, averaged over rankings: one per draw or per order of an oracle."""

    metrics: dict[str, float]
    """mAP, R1, R5, R10, mINP in [0, 1]"""
    std: dict[str, float]
    """their sample standard deviation over the rankings; 0 for a single one"""
    draws: tuple[Retrieval, ...]
    """per-query results of each ranking; number i is of draw i modulo the number of draws"""
    counts: QueryCounts
    """numbers of ranked and unranked queries of the first draw"""


@torch.inference_mode()
def embed(
    model: nn.Module, pixels: PixelSource, device: torch.device, *, batch_size: int = 64, progress: bool = False
) -> Tensor:
    """One feature row per image, in order: (N, D) float32 on the CPU, as the network gives them.

    Several processes share the batches. Each gets all rows, bit-identical to those of one process.
    """
    was_training = model.training
    model.eval()
    features = []
    batches = bar(
        iterable=test_batches(pixels, batch_size),
        desc="features",
        total=-(-len(pixels) // (batch_size * distributed.world())),
        disable=not progress,
    )
    for images in batches:
        images = images.to(device, memory_format=torch.channels_last)
        features.append(distributed.gather_batch(model(images).float(), batch_size).cpu())  # (world * B, D)
    model.train(was_training)
    return torch.cat(features)[: len(pixels)]


def rank(features: Tensor | np.ndarray, dataset: Dataset, *, distances: Distances | None = None) -> Evaluation:
    """Rank the test features of a data set by its protocol, once per draw.

    Args:
        features: of the test images, in their order: (N, D), or (T, N, D) for T versions of them, such as the random
            orders of an oracle. Each version is ranked; several draws and several versions go through both in turn.
        dataset: with the draws.
        distances: re-ranking, such as `msinet.retrieval.rerank` or `blur`; None: distances of the features.
    """
    draws = []
    for draw, query, gallery in _rankings(features, dataset):
        labels = dataset.ranking_labels(draw.query, draw.gallery)
        if distances is None:
            draws.append(evaluate(query, gallery, **labels))
        else:
            draws.append(evaluate_distances(distances(query, gallery), **labels))
    means, stds = mean_over_draws(draws)
    return Evaluation(means, stds, tuple(draws), count_queries(dataset))


def rank_within_families(features: Tensor | np.ndarray, dataset: Dataset) -> Evaluation:
    """Rank the test features of a rendered set, as `rank` does; each query against gallery images of its own family.

    Raises:
        UserError: the set was not rendered.
    """
    family = families(dataset)
    draws = []
    for draw, query, gallery in _rankings(features, dataset):
        groups = {"query_groups": family[draw.query], "gallery_groups": family[draw.gallery]}
        draws.append(evaluate_within(query, gallery, **groups, **dataset.ranking_labels(draw.query, draw.gallery)))
    means, stds = mean_over_draws(draws)
    return Evaluation(means, stds, tuple(draws), count_queries(dataset))


def within_family_metrics(features: Tensor | np.ndarray, dataset: Dataset) -> dict[str, float]:
    """R1 and mAP of `rank_within_families` in [0, 1], as records name them; none for photographs."""
    if not read_factors(dataset):
        return {}
    metrics = rank_within_families(features, dataset).metrics
    return {f"within_family_{name}": metrics[name] for name in ("R1", "mAP")}


def _rankings(features: Tensor | np.ndarray, dataset: Dataset) -> Iterator[tuple[Draw, Tensor, Tensor]]:
    """The draw, the features of its queries (Q, D) and those of its gallery (G, D), for each ranking of `rank`."""
    features = torch.as_tensor(features)
    versions = features[None] if features.ndim == 2 else features  # (T, N, D)
    for i in range(max(len(dataset.draws), len(versions)) if dataset.draws else 0):
        draw, one = dataset.draws[i % len(dataset.draws)], versions[i % len(versions)]
        yield draw, one[torch.from_numpy(draw.query)], one[torch.from_numpy(draw.gallery)]


def dataset_features(
    model: nn.Module, dataset: Dataset, pixels: PixelSource, device: torch.device, *, progress: bool = False
) -> Tensor:
    """Features of every test image of a data set, as `rank` takes them.

    Those of a network are (N, D). An oracle sees no pixels; its features are (ORDERS, N, D), which differ in the order
    of images with equal factors.

    Raises:
        UserError: an oracle and a set that was not rendered.
    """
    if isinstance(model, Oracle):
        return torch.from_numpy(np.stack([oracle_features(dataset, model.knows, i) for i in range(ORDERS)]))
    return embed(model, pixels, device, progress=progress)


def evaluate_model(
    model: nn.Module,
    dataset: Dataset,
    pixels: PixelSource,
    device: torch.device,
    *,
    progress: bool = False,
    distances: Distances | None = None,
) -> Evaluation:
    """Embed all test images of a data set and rank them by its protocol; `distances` as in `rank`."""
    return rank(dataset_features(model, dataset, pixels, device, progress=progress), dataset, distances=distances)
