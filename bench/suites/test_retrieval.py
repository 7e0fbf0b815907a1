"""Ranking and re-ranking, each against its plain form, at a quarter of Market-1501's size."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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


def ranks_by_keys(block: np.ndarray, _: np.ndarray) -> object:
    """Sort 16-bit keys, as `msinet.retrieval` does."""
    highest = block.max(axis=1, keepdims=True)
    scale = (2**16 - 1) / (highest - block.min(axis=1, keepdims=True))
    return np.argsort(((highest - block) * scale).astype(np.uint16), axis=1, kind="stable")


def ranks_by_similarities(block: np.ndarray, _: np.ndarray) -> object:
    """Sort the similarities; a binary search would then give the ranks."""
    return np.sort(block, axis=1)


def ranks_by_comparisons(block: np.ndarray, matches: np.ndarray) -> object:
    """Compare each match with all similarities."""
    return [[np.count_nonzero(row > row[match]) for match in own] for row, own in zip(block, matches, strict=True)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", [ranks_by_keys, ranks_by_similarities, ranks_by_comparisons])
def test_ranks_of_18_matches(
    benchmark: BenchmarkFixture, way: Callable[[np.ndarray, np.ndarray], object], threads: int
) -> None:
    """Ranks of 18 matches per query at Market-1501's size, in blocks of 64 queries per thread."""
    benchmark.group = "ranks in a block"
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((64, 15_913)).astype(np.float32) for _ in range(threads)]
    matches = [rng.integers(15_913, size=(64, 18)) for _ in range(threads)]  # positions in the gallery
    benchmark.extra_info["similarities per thread"] = blocks[0].size
    with ThreadPoolExecutor(threads) as pool:
        benchmark.pedantic(lambda: list(pool.map(way, blocks, matches)), rounds=31, warmup_rounds=3)


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
