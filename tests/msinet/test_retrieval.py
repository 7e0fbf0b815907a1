"""Retrieval against a brute-force oracle, on features whose similarities are exact and often tied."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msinet.errors import DataError, UserError
from msinet.retrieval import METRICS, Retrieval, evaluate, mean_over_draws, similarities, top_k

PER_QUERY = ("valid", "ap", "inp", "first_rank", "positives")
Case = dict[str, Any]  # the arguments of evaluate


def signs(generator: np.random.Generator, rows: int) -> np.ndarray:
    """Rows of {-1, 1}^4: of length 2, so unit rows and similarities are exact and take five values."""
    return generator.choice(np.array([-1, 1], np.float32), (rows, 4))


def make_case(seed: int, queries: int, items: int, ids: int, cameras: int = 0, dimensions: int = 0) -> Case:
    """Random labels with tied features, or with normal ones of so many dimensions."""
    generator = np.random.default_rng(seed)
    case: Case = {}
    for side, rows in (("query", queries), ("gallery", items)):
        case[side] = generator.standard_normal((rows, dimensions), np.float32) if dimensions else signs(generator, rows)
        case[f"{side}_ids"] = generator.integers(0, ids, rows)
        if cameras:
            case[f"{side}_cameras"] = generator.integers(0, cameras, rows)
    return case


def take(case: Case, side: str, rows: np.ndarray) -> Case:
    return {**case, **{key: value[rows] for key, value in case.items() if key.startswith(side)}}


def ranked_list(case: Case, i: int) -> np.ndarray:
    """The oracle's gallery indices for query i: float64, one stable sort, removed items left out."""
    unit = {
        side: case[side].astype(np.float64) / np.linalg.norm(case[side].astype(np.float64), axis=1, keepdims=True)
        for side in ("query", "gallery")
    }
    order = np.argsort(-(unit["gallery"] @ unit["query"][i]), kind="stable")
    if "query_cameras" not in case:
        return order
    own = (case["gallery_ids"] == case["query_ids"][i]) & (case["gallery_cameras"] == case["query_cameras"][i])
    return np.array([item for item in order if not own[item]], np.int64)


def oracle(case: Case) -> dict[str, list[float]]:
    results: dict[str, list[float]] = {name: [] for name in PER_QUERY}
    for i, wanted in enumerate(case["query_ids"]):
        precisions = []
        ranks = []
        for rank, item in enumerate(ranked_list(case, i), start=1):
            if case["gallery_ids"][item] == wanted:
                ranks.append(rank)
                precisions.append(len(ranks) / rank)
        results["valid"].append(bool(ranks))
        results["positives"].append(len(ranks))
        results["first_rank"].append(ranks[0] if ranks else 0)
        results["ap"].append(sum(precisions) / len(ranks) if ranks else float("nan"))
        results["inp"].append(len(ranks) / ranks[-1] if ranks else float("nan"))
    return results


def check(case: Case, **options: Any) -> Retrieval | None:
    """Compare with the oracle; None where no query has a match and evaluate says so."""
    expected = oracle(case)
    if not any(expected["valid"]):
        with pytest.raises(DataError, match="no query has a match"):
            evaluate(**case, **options)
        return None
    result = evaluate(**case, **options)
    for name in PER_QUERY:
        np.testing.assert_allclose(getattr(result, name), expected[name], rtol=1e-12, err_msg=name)
    valid = result.valid
    assert result.mAP == pytest.approx(np.nanmean(expected["ap"]))
    assert result.mINP == pytest.approx(np.nanmean(expected["inp"]))
    for k in (1, 5, 10):
        assert result.rank(k) == pytest.approx(np.mean(np.array(expected["first_rank"])[valid] <= k))
    return result


def assert_same(first: Retrieval, second: Retrieval, rows: Any = slice(None)) -> None:
    """Identical per query, the first taken at `rows`."""
    for name in PER_QUERY:
        np.testing.assert_array_equal(getattr(first, name)[rows], getattr(second, name), err_msg=name)


cases = st.builds(
    make_case,
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 6),
    items=st.integers(1, 24),
    ids=st.integers(1, 5),
    cameras=st.integers(0, 3),
)
some = settings(max_examples=60, deadline=None)


@settings(max_examples=200, deadline=None)
@given(cases)
def test_agrees_with_the_oracle(case: Case) -> None:
    check(case)


# Sizes around multiples of a cache line, and one above the number of 16-bit keys; few matches and many.
@pytest.mark.parametrize("items", [4095, 4096, 4097, 70_001])
@pytest.mark.parametrize("ids", [3, 2000])
def test_agrees_with_the_oracle_on_long_galleries(items: int, ids: int) -> None:
    assert check(make_case(items, 6, items, ids, cameras=2) | {"query_ids": np.arange(6) % ids})


def test_agrees_with_the_oracle_without_ties() -> None:
    case = make_case(0, 40, 1500, ids=30, cameras=4, dimensions=64)
    case["gallery"] += 8 * np.eye(64, dtype=np.float32)[case["gallery_ids"]]  # a good ranking
    case["query"] += 8 * np.eye(64, dtype=np.float32)[case["query_ids"]]
    result = check(case)
    assert result
    assert 0.5 < result.mAP < 1


def test_items_that_share_a_key_are_ranked_exactly() -> None:
    case = make_case(3, 5, 3000, ids=40, cameras=3, dimensions=2)
    angles = 1e-5 * np.random.default_rng(3).standard_normal(3000)
    angles[1500] = np.pi  # far away, so that the others have few of the keys
    case |= {"query": case["query"].astype(float), "gallery": np.stack([np.cos(angles), np.sin(angles)], axis=1)}
    assert check(case)


@some
@given(cases, st.randoms(use_true_random=False))
def test_permuting_queries_permutes_their_results(case: Case, random: Any) -> None:
    if result := check(case):
        order = np.array(random.sample(range(len(case["query"])), len(case["query"])))
        assert_same(result, evaluate(**take(case, "query", order)), order)


def test_permuting_a_gallery_without_ties_changes_nothing() -> None:
    case = make_case(1, 20, 300, ids=12, cameras=3, dimensions=16)
    order = np.random.default_rng(1).permutation(300)
    assert_same(evaluate(**case), evaluate(**take(case, "gallery", order)))


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 4080 * 7, 1 << 30])
def test_chunks_do_not_matter(chunk_bytes: int) -> None:
    case = make_case(2, 23, 500, ids=9, cameras=3)
    assert_same(evaluate(**case), evaluate(**case, chunk_bytes=chunk_bytes))


@some
@given(cases, st.integers(1, 12))
def test_distractors_only_lower(case: Case, distractors: int) -> None:
    if result := check(case):
        generator = np.random.default_rng(distractors)
        more = {"gallery": signs(generator, distractors), "gallery_ids": np.full(distractors, 99)}
        more["gallery_cameras"] = generator.integers(0, 3, distractors)
        # In front, where they also win every tie.
        worse = evaluate(**case | {key: np.concatenate([new, case[key]]) for key, new in more.items() if key in case})
        np.testing.assert_array_equal(result.positives, worse.positives)
        valid = result.valid
        assert (worse.ap[valid] <= result.ap[valid] + 1e-12).all()
        assert (worse.inp[valid] <= result.inp[valid]).all()
        assert (worse.first_rank[valid] >= result.first_rank[valid]).all()
        assert all(worse.metrics()[name] <= value + 1e-12 for name, value in result.metrics().items())


@some
@given(cases, st.integers(1, 40))
def test_cmc_rises_within_its_bounds(case: Case, length: int) -> None:
    if result := check(case):
        cmc = result.cmc(length)
        assert cmc.shape == (length,)
        assert (np.diff(cmc) >= 0).all()
        assert cmc.min() >= 0
        assert cmc.tolist() == pytest.approx([result.rank(k) for k in range(1, length + 1)])
        assert (cmc[len(case["gallery"]) - 1 :] == 1).all()  # past the gallery's end
        with pytest.raises(UserError, match="at least 1 rank, got 0"):
            result.cmc(0)


def test_a_perfect_ranking_scores_one() -> None:
    ids = np.arange(12) % 4
    result = evaluate(np.eye(4)[ids], np.eye(4)[ids[::-1]], query_ids=ids, gallery_ids=ids[::-1])
    assert result.metrics() == dict.fromkeys(METRICS, 1.0)
    assert (result.cmc() == 1).all()


def test_ap_by_hand() -> None:
    gallery = np.array([[4, 1], [4, 2], [4, 3], [4, 4], [4, 5]])
    result = evaluate(np.array([[1, 0]]), gallery, query_ids=[7], gallery_ids=[7, 8, 7, 9, 7])
    assert result.mAP == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert result.mINP == pytest.approx(3 / 5)
    assert result.positives.tolist() == [3]


@some
@given(cases)
def test_ap_of_a_single_match_is_its_reciprocal_rank(case: Case) -> None:
    case["gallery_ids"] = np.arange(len(case["gallery"]))  # VehicleID: one gallery image per identity
    if result := check(case):
        valid = result.valid
        np.testing.assert_array_equal(result.ap[valid], 1 / result.first_rank[valid])
        np.testing.assert_array_equal(result.inp[valid], result.ap[valid])


def test_only_the_own_camera_of_the_own_identity_is_removed() -> None:
    features = np.ones((4, 1))
    labels: Case = {"query_ids": [5], "gallery_ids": [5, 6, 6, 5], "query_cameras": [2]}
    result = evaluate(features[:1], features, **labels, gallery_cameras=[2, 2, 1, 1])
    assert result.positives.tolist() == [1]
    assert result.first_rank.tolist() == [3]  # behind both items of identity 6, camera 2 included
    assert top_k(features[:1], features, 4, **labels, gallery_cameras=[2, 2, 1, 1])[0].tolist() == [[1, 2, 3, -1]]


def test_queries_without_a_match_are_reported_and_left_out_of_the_means() -> None:
    result = evaluate(np.eye(3), np.eye(3), query_ids=[0, 1, 9], gallery_ids=[0, 2, 1])
    assert result.valid.tolist() == [True, True, False]
    assert result.first_rank.tolist() == [1, 3, 0]
    assert result.positives.tolist() == [1, 1, 0]
    assert np.isnan(result.ap[2])
    assert np.isnan(result.inp[2])
    assert result.mAP == pytest.approx((1 + 1 / 3) / 2)
    assert result.rank(1) == 0.5


def test_lengths_of_rows_do_not_matter() -> None:
    case = make_case(3, 9, 200, ids=7, cameras=2)
    scales = 2.0 ** np.random.default_rng(3).integers(-80, 80, (200, 1))
    scaled = case | {"gallery": case["gallery"] * scales.astype(np.float32), "query": case["query"] * 1e30}
    assert_same(evaluate(**case), evaluate(**scaled))


def test_rows_of_zeros_have_similarity_zero() -> None:
    gallery = np.array([[-1.0, 0], [0, 0], [1, 0]])
    labels: Case = {"query_ids": [1, 1], "gallery_ids": [0, 1, 0]}
    result = evaluate(np.array([[1.0, 0], [0, 0]]), gallery, **labels)
    assert result.first_rank.tolist() == [2, 2]  # between the two; in gallery order when all are level


def test_float64_is_kept() -> None:
    gallery = np.array([[1, 1e-4], [1, 2e-5]])  # the cosines differ by 5e-9
    labels: Case = {"query_ids": [1], "gallery_ids": [0, 1]}
    assert evaluate(np.array([[1.0, 0]]), gallery, **labels).first_rank.tolist() == [1]
    single = evaluate(np.array([[1, 0]], np.float32), gallery.astype(np.float32), **labels)
    assert single.first_rank.tolist() == [2]  # level in float32, so in gallery order


def test_takes_tensors_half_precision_reversed_and_read_only_arrays() -> None:
    case = make_case(4, 5, 60, ids=4, cameras=2)
    expected = evaluate(**case)
    tensors: Case = {key: torch.from_numpy(value) for key, value in case.items()}
    tensors["query"].requires_grad_()
    tensors["gallery"] = tensors["gallery"].half()
    assert_same(expected, evaluate(**tensors))
    reversed_twice = case | {"gallery": case["gallery"][::-1].copy()[::-1]}
    assert_same(expected, evaluate(**reversed_twice))
    case["gallery"].flags.writeable = False
    assert_same(expected, evaluate(**case))


def test_leaves_its_arguments_alone() -> None:
    case = make_case(5, 5, 60, ids=4, cameras=2)
    before = {key: value.copy() for key, value in case.items()}
    evaluate(**case)
    top_k(k=3, **case)
    for key, value in before.items():
        np.testing.assert_array_equal(case[key], value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_features_on_a_gpu_give_the_same() -> None:
    case = make_case(6, 50, 5000, ids=40, cameras=3)
    there = {side: torch.from_numpy(case[side]).cuda() for side in ("query", "gallery")}
    assert_same(evaluate(**case), evaluate(**case | there))


@some
@given(cases, st.integers(1, 30))
def test_top_k_is_the_head_of_the_ranked_list(case: Case, k: int) -> None:
    indices, distances = top_k(k=k, **case)
    assert indices.shape == distances.shape == (len(case["query"]), k)
    for i in range(len(case["query"])):
        expected = ranked_list(case, i)[:k]
        assert indices[i].tolist() == [*expected, *[-1] * (k - len(expected))]
        apart = ((case["query"][i] - case["gallery"][expected]) / 2) ** 2
        assert distances[i].tolist() == [*apart.sum(axis=1), *[np.inf] * (k - len(expected))]


def test_top_k_without_labels() -> None:
    indices, distances = top_k(np.array([[2.0, 0]]), np.array([[0, 1.0], [-3, 0], [5, 0]]), 2)
    assert indices.tolist() == [[2, 0]]
    assert distances.tolist() == [[0, 2]]


def test_mean_over_draws() -> None:
    labels: Case = {"query_ids": [0], "gallery_ids": [0, 1]}
    hit = evaluate(np.eye(2)[:1], np.eye(2), **labels)
    miss = evaluate(np.eye(2)[1:], np.eye(2), **labels)
    means, stds = mean_over_draws([hit, miss])
    assert means == {"mAP": 0.75, "R1": 0.5, "R5": 1, "R10": 1, "mINP": 0.75}
    assert stds["R1"] == pytest.approx(0.5**0.5)  # n - 1 in the denominator
    assert stds["R5"] == 0
    assert mean_over_draws([miss]) == (miss.metrics(), dict.fromkeys(METRICS, 0.0))
    with pytest.raises(UserError, match="no draws"):
        mean_over_draws([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.zeros((0, 4))}, r"query features have shape \(0, 4\)"),
        ({"gallery": np.zeros((0, 4))}, r"gallery features have shape \(0, 4\)"),
        ({"gallery": np.zeros(4)}, r"gallery features have shape \(4,\)"),
        ({"gallery": np.ones((8, 5))}, "4 dimensions and gallery features 5"),
        ({"query_ids": np.arange(4)}, r"query_ids .* shape \(4,\).* shape \(3,\)"),
        ({"gallery_ids": np.arange(7)}, r"gallery_ids .* shape \(8,\)"),
        ({"gallery_ids": np.arange(8.0)}, "gallery_ids has type float64"),
        ({"query_cameras": np.zeros((3, 1), int)}, r"query_cameras .* shape \(3, 1\)"),
        ({"gallery_cameras": None}, "gallery_cameras is missing"),
        ({"query_cameras": None}, "query_cameras is missing"),
        ({"query_ids": np.array([7, 8, 0]), "gallery_ids": np.arange(8) % 7 * 0 + 9}, "3 of 3 have an identity"),
    ],
)
def test_refuses(change: Case, message: str) -> None:
    case = make_case(7, 3, 8, ids=1, cameras=2)
    with pytest.raises(UserError, match=message):
        evaluate(**case | change)


def test_refuses_a_split_where_matches_share_their_camera() -> None:
    with pytest.raises(DataError, match="1 of 2 have an identity that none of the 1 gallery items has, 1 share"):
        evaluate(np.eye(2), np.eye(2)[:1], query_ids=[0, 1], gallery_ids=[0], query_cameras=[3, 3], gallery_cameras=[3])


@pytest.mark.parametrize("side", ["query", "gallery"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_features_that_are_not_finite(side: str, value: float) -> None:
    case = make_case(8, 10, 10, ids=2)
    case[side][[4, 7], 1] = value
    with pytest.raises(DataError, match=f"2 of 10 {side} features hold NaN or infinite values, the first in row 4"):
        evaluate(**case)


def test_refuses_wrong_ranks_and_half_given_labels() -> None:
    case = make_case(9, 3, 8, ids=1)
    with pytest.raises(UserError, match="k of at least 1, got 0"):
        evaluate(**case).rank(0)
    with pytest.raises(UserError, match="k of at least 1, got 0"):
        top_k(k=0, **case)
    with pytest.raises(UserError, match="belong together"):
        top_k(case["query"], case["gallery"], 2, query_ids=case["query_ids"])
    with pytest.raises(UserError, match="belong together"):
        top_k(case["query"], case["gallery"], 2, query_cameras=[0] * 3, gallery_cameras=[0] * 8)


MEMORY = """
import torch
from msinet.retrieval import evaluate

def status(field):  # MiB
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

torch.manual_seed(0)
query, gallery = torch.empty(3368, 512).normal_(), torch.empty(15913, 512).normal_()
labels = {"query_ids": torch.arange(3368) % 750, "gallery_ids": torch.arange(15913) % 750}
cameras = {"query_cameras": torch.arange(3368) % 6, "gallery_cameras": torch.arange(15913) % 5}
before = status("VmRSS")
evaluate(query, gallery, **labels, **cameras)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_extra_memory_at_the_size_of_market1501() -> None:
    # A process of its own, and not its ru_maxrss, which a child inherits from the test run that started it.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert 8 < float(output) < 64  # a block of similarities is 20 MiB, a copy of the gallery 31 MiB


# --- Galleries on disk ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_gallery_on_disk_is_ranked_as_one_in_memory(
    tmp_path: Path, dtype: type[np.floating], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((7, 16)).astype(np.float32), rng.standard_normal((301, 16)).astype(dtype)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    labels = {"query_ids": np.arange(7) % 5, "gallery_ids": np.arange(301) % 5}
    plain = evaluate(query, gallery.astype(np.float32), **labels)
    near = top_k(query, gallery.astype(np.float32), 9)
    monkeypatch.setattr(similarities, "SLAB_BYTES", 16 * 8 * 40)
    found = evaluate(query, mapped, **labels)
    np.testing.assert_array_equal(found.first_rank, plain.first_rank)
    np.testing.assert_allclose(found.ap, plain.ap)
    np.testing.assert_array_equal(top_k(query, mapped, 9)[0], near[0])


def test_a_broken_row_on_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = np.ones((50, 4), np.float32)
    gallery[33, 2] = np.inf
    np.save(tmp_path / "gallery.npy", gallery)
    monkeypatch.setattr(similarities, "SLAB_BYTES", 160)
    with pytest.raises(DataError, match="the first in row 33"):
        top_k(np.ones((2, 4), np.float32), np.load(tmp_path / "gallery.npy", mmap_mode="r"), 3)
