"""Ranking and re-ranking, each against its plain form, at a quarter of Market-1501's size."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.retrieval import Features, dense_rerank, made_up
from msinet.retrieval import evaluate, rerank

SIZE = (842, 3978, 188, 6)


def plain_ranking(features: Features) -> float:
    """Sort the gallery for every query and walk down the list: mAP."""
    labels = features.labels
    found = []
    for i, distances in enumerate((2 - 2 * features.query @ features.gallery.T).numpy()):
        order = np.argsort(distances)
        same = labels["gallery_ids"][order] == labels["query_ids"][i]
        kept = ~(same & (labels["gallery_cameras"][order] == labels["query_cameras"][i]))
        hits = np.flatnonzero(same[kept])
        if len(hits):
            found.append((np.arange(1, len(hits) + 1) / (hits + 1)).mean())
    return float(np.mean(found))


@pytest.mark.parametrize("form", ["plain", "ours", "floor"])
def test_ranking(benchmark: BenchmarkFixture, form: str) -> None:
    """CMC and mAP; the floor is the product of all features."""
    benchmark.group = "ranking"
    features = made_up(*SIZE, 512)
    work: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_ranking(features),
        "ours": lambda: evaluate(features.query, features.gallery, **features.labels),  # type: ignore[arg-type]
        "floor": lambda: torch.mm(features.query, features.gallery.T),
    }
    if form == "ours":
        result = evaluate(features.query, features.gallery, **features.labels)  # type: ignore[arg-type]
        assert np.nanmean(result.ap) == pytest.approx(plain_ranking(features), abs=1e-4)
    benchmark.pedantic(work[form], rounds=7, warmup_rounds=1)


@pytest.mark.parametrize("form", ["plain", "ours"])
def test_reranking(benchmark: BenchmarkFixture, form: str) -> None:
    """k-reciprocal re-ranking; plain uses dense matrices and a loop over images."""
    benchmark.group = "re-ranking"
    features = made_up(*SIZE, 512)
    if form == "ours":
        np.testing.assert_allclose(
            rerank(features.query, features.gallery), dense_rerank(features.query, features.gallery), atol=1e-4
        )
    work = {"plain": dense_rerank, "ours": rerank}[form]
    benchmark.pedantic(work, (features.query, features.gallery), rounds=3, warmup_rounds=1)
