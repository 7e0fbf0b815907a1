"""Re-ranking against the published algorithm written out, image by image, with dense float64 matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msinet.errors import DataError, UserError
from msinet.retrieval import evaluate, evaluate_distances, jaccard_distances, rerank, reranking


def published(query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """Zhong et al.'s procedure, step by step."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    squared = ((features[:, None] - features) ** 2).sum(2)
    d = squared / squared.max(1, keepdims=True)
    order = np.argsort(squared, axis=1, kind="stable")
    count = len(features)

    def reciprocal(i: int, k: int) -> np.ndarray:
        forward = order[i, : k + 1]
        return np.array([j for j in forward if i in order[j, : k + 1]], dtype=int)

    v = np.zeros((count, count))
    for i in range(count):
        found = reciprocal(i, k1)
        expansion = list(found)
        for candidate in found:
            theirs = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, found)) > 2 / 3 * len(theirs):
                expansion += list(theirs)
        unique = np.unique(expansion).astype(int)
        v[i, unique] = np.exp(-d[i, unique]) / np.exp(-d[i, unique]).sum()
    if k2 > 1:
        v = np.stack([v[order[i, :k2]].mean(0) for i in range(count)])
    queries = len(query)
    result = np.empty((queries, len(gallery)))
    for i in range(queries):
        for j in range(len(gallery)):
            least = np.minimum(v[i], v[queries + j]).sum()
            result[i, j] = (1 - weight) * (1 - least / (2 - least)) + weight * d[i, queries + j]
    return result


def clustered(seed: int, queries: int, items: int, identities: int, dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((identities, dim))

    def some(count: int) -> np.ndarray:
        chosen = centres[rng.integers(0, identities, count)]
        return (chosen + 0.5 * rng.standard_normal((count, dim))).astype(np.float32)

    return some(queries), some(items)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 8),
    items=st.integers(12, 40),
    k1=st.integers(1, 12),
    k2=st.integers(1, 6),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_against_the_published_algorithm(seed: int, queries: int, items: int, k1: int, k2: int, weight: float) -> None:
    query, gallery = clustered(seed, queries, items, 6)
    k2 = min(k1, k2)
    found = rerank(query, gallery, k1=k1, k2=k2, weight=weight)
    np.testing.assert_allclose(found, published(query, gallery, k1, k2, weight), atol=3e-6)


def test_the_published_settings_on_a_larger_set() -> None:
    query, gallery = clustered(0, 30, 200, 15)
    np.testing.assert_allclose(rerank(query, gallery), published(query, gallery, 20, 6, 0.3), atol=3e-6)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = clustered(1, 9, 60, 8)
    whole = rerank(query, gallery)
    monkeypatch.setattr(reranking, "CHUNK_BYTES", 1000)
    np.testing.assert_allclose(rerank(query, gallery), whole, atol=1e-6)


def test_tensors_and_lengths_make_no_difference() -> None:
    query, gallery = clustered(2, 5, 40, 6)
    again = rerank(torch.from_numpy(query) * 3, torch.from_numpy(gallery * 7))
    np.testing.assert_allclose(again, rerank(query, gallery), atol=1e-5)


def test_without_the_rest_the_features_distance_remains() -> None:
    query, gallery = clustered(3, 5, 40, 6)
    ids = np.arange(5) % 3, np.arange(40) % 3
    plain = evaluate(query, gallery, query_ids=ids[0], gallery_ids=ids[1])
    same = evaluate_distances(rerank(query, gallery, weight=1.0), query_ids=ids[0], gallery_ids=ids[1])
    np.testing.assert_allclose(same.ap, plain.ap)


def test_images_that_are_missing_among_their_own_neighbours_have_none() -> None:
    """Of 40 equal images, 30 are neighbours of all of them; the other ten lack even themselves."""
    rng = np.random.default_rng(0)
    features = np.concatenate([np.ones((40, 16)), rng.standard_normal((60, 16))]).astype(np.float32)
    found = jaccard_distances(features, k1=30, lists=30, k2=1)
    assert (found.diagonal() == 0).all()
    entries = np.diff(found.indptr)
    assert entries.min() == 1  # an image without neighbours has only itself
    assert np.isfinite(found.data).all()
    distances = rerank(features[:50], features[50:], k1=30, k2=1)
    assert np.isfinite(distances).all()


def test_neighbours_shared_bring_an_identity_together() -> None:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((30, 64))
    ids = np.arange(30), np.arange(240) % 30
    query, gallery = ((centres[one] + 1.5 * rng.standard_normal((len(one), 64))).astype(np.float32) for one in ids)
    plain = evaluate(query, gallery, query_ids=ids[0], gallery_ids=ids[1])
    shared = evaluate_distances(rerank(query, gallery, k1=8, k2=3), query_ids=ids[0], gallery_ids=ids[1])
    assert shared.ap.mean() > 1.1 * plain.ap.mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1": 45}, "k1 = 45, 45 images"),
        ({"k2": 21}, "1 <= k2 <= k1"),
        ({"k2": 0}, "1 <= k2"),
        ({"weight": 1.5}, r"\[0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, float], message: str) -> None:
    query, gallery = clustered(4, 5, 40, 6)
    with pytest.raises(UserError, match=message):
        rerank(query, gallery, **changes)  # type: ignore[arg-type]


def test_broken_features_are_named() -> None:
    query, gallery = clustered(5, 5, 40, 6)
    gallery[7, 3] = np.nan
    with pytest.raises(DataError, match="gallery features hold NaN or infinite values, the first in row 7"):
        rerank(query, gallery)
    with pytest.raises(DataError, match="NaN"):
        evaluate_distances(np.full((2, 3), np.nan), query_ids=np.zeros(2, int), gallery_ids=np.zeros(3, int))
    with pytest.raises(UserError, match="shape"):
        evaluate_distances(np.zeros((0, 3)), query_ids=np.zeros(0, int), gallery_ids=np.zeros(3, int))


def test_infinite_distances_rank_last() -> None:
    distances = np.array([[3.0, np.inf, -np.inf, np.inf, 1.0]], np.float32)
    ids, cameras = np.array([1, 2, 0, 1, 0]), np.array([0, 0, 0, 1, 1])
    found = evaluate_distances(
        distances, query_ids=[1], gallery_ids=ids, query_cameras=[0], gallery_cameras=cameras
    )  # item 0 is removed
    np.testing.assert_allclose(found.inp, 1 / 4)  # after items 2, 4 and, equally far, 1


def test_distances_rank_as_their_features_do() -> None:
    query, gallery = clustered(6, 20, 300, 10)
    ids = np.arange(20) % 10, np.arange(300) % 10
    cameras = np.arange(20) % 3, np.arange(300) % 4
    kinds = {"query_ids": ids[0], "gallery_ids": ids[1], "query_cameras": cameras[0], "gallery_cameras": cameras[1]}
    unit = [
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (query, gallery)
    ]
    distances = ((unit[0][:, None] - unit[1]) ** 2).sum(2)
    plain, found = evaluate(query, gallery, **kinds), evaluate_distances(distances, **kinds)
    np.testing.assert_allclose(found.ap, plain.ap)
    np.testing.assert_array_equal(found.first_rank, plain.first_rank)
