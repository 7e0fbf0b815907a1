"""Ranking within families and oracles of factors, against rankings made by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msinet.data import load_dataset
from msinet.data.factors import ORACLES, ORDERS, Oracle, families, one_hot, oracle_features, read_factors
from msinet.errors import DataError, UserError
from msinet.models import build_model
from msinet.retrieval import evaluate, evaluate_within
from msinet.training.evaluation import rank, rank_within_families, within_family_metrics
from msinet.training.options import RunOptions
from msinet.training.recipe import ImageSize, Recipe, Schedule
from msinet.training.run import Training, run

SETS = ("market1501", "msmt17", "veri776", "vehicleid")


def by_hand(similarity: np.ndarray, matches: np.ndarray, kept: np.ndarray) -> tuple[float, int]:
    """Average precision and rank of the first match of one query, among the items that are kept."""
    order = [i for i in np.argsort(-similarity, kind="stable") if kept[i]]
    ranks = [rank for rank, i in enumerate(order, 1) if matches[i]]
    return float(np.mean([n / rank for n, rank in enumerate(ranks, 1)])), ranks[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_ranking_within_groups_by_brute_force(seed: int, with_cameras: bool) -> None:
    rng = np.random.default_rng(seed)
    query, gallery = (rng.standard_normal((n, 4)).astype(np.float32) for n in (12, 40))
    query_ids, gallery_ids = rng.integers(0, 12, 12), rng.integers(0, 12, 40)
    cameras = rng.integers(0, 2, 12), rng.integers(0, 2, 40)
    labels = {"query_cameras": cameras[0], "gallery_cameras": cameras[1]} if with_cameras else {}
    same = query_ids[:, None] == gallery_ids
    removed = same & (cameras[0][:, None] == cameras[1]) if with_cameras else np.zeros_like(same)
    kept = (query_ids[:, None] // 3 == gallery_ids // 3) & ~removed
    if not (same & kept).any():
        return
    found = evaluate_within(
        query,
        gallery,
        query_groups=query_ids // 3,
        gallery_groups=gallery_ids // 3,
        query_ids=query_ids,
        gallery_ids=gallery_ids,
        **labels,
    )
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]
    similarity = unit[0] @ unit[1].T
    first = []
    for i in range(12):
        matches = same[i] & kept[i]
        assert found.valid[i] == matches.any()
        assert found.positives[i] == matches.sum()
        if matches.any():
            ap, rank_of_first = by_hand(similarity[i], matches, kept[i])
            assert found.ap[i] == pytest.approx(ap)
            assert found.first_rank[i] == rank_of_first
            first.append(rank_of_first)
    assert found.cmc(5).tolist() == pytest.approx([np.mean([rank <= k for rank in first]) for k in range(1, 6)])


def test_one_group_of_all_is_the_ordinary_ranking() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((9, 5)), rng.standard_normal((30, 5))
    labels = {"query_ids": np.arange(9) % 4, "gallery_ids": np.arange(30) % 4}
    groups = {"query_groups": np.zeros(9, int), "gallery_groups": np.zeros(30, int)}
    found, expected = evaluate_within(query, gallery, **groups, **labels), evaluate(query, gallery, **labels)
    assert found.metrics() == expected.metrics()
    assert found.first_rank.tolist() == expected.first_rank.tolist()


def test_broken_features_and_groups_without_matches_are_errors() -> None:
    query, gallery = np.ones((2, 3)), np.ones((2, 3))
    labels = {"query_ids": [1, 2], "gallery_ids": [1, 2]}
    with pytest.raises(DataError, match="no query has a match in its group"):
        evaluate_within(query, gallery, query_groups=[0, 1], gallery_groups=[1, 0], **labels)
    query[1, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        evaluate_within(query, gallery, query_groups=[0, 1], gallery_groups=[0, 1], **labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_cameras": [1, 1]}, "gallery_cameras is missing"),
        ({"gallery_cameras": [1, 1, 1]}, "query_cameras is missing"),
        ({"query_groups": [0]}, r"query_groups has type int64 and shape \(1,\); expected .* shape \(2,\)"),
        ({"gallery_groups": [0, 0]}, r"gallery_groups has .* shape \(2,\); expected .* shape \(3,\)"),
        ({"gallery_groups": [0.0, 0.0, 0.0]}, "gallery_groups has type float64"),
        ({"gallery_ids": [0, 1]}, "gallery_ids has"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change: dict[str, list[int]], message: str) -> None:
    labels = {"query_groups": [0, 0], "gallery_groups": [0, 0, 0], "query_ids": [0, 1], "gallery_ids": [0, 1, 1]}
    with pytest.raises(UserError, match=message):
        evaluate_within(np.eye(3)[:2], np.eye(3), **{**labels, **change})


@pytest.mark.parametrize("name", SETS)
def test_families_are_those_of_the_factors(world_root: Path, name: str) -> None:
    dataset = load_dataset(name, world_root)
    family = families(dataset)
    rows = read_factors(dataset)
    assert family.tolist() == [int(rows[i.path.relative_to(dataset.root).as_posix()]["family"]) for i in dataset.test]
    of_identity: dict[int, set[int]] = {}
    for image, number in zip(dataset.test, family, strict=True):
        of_identity.setdefault(image.identity, set()).add(int(number))
    distractors = of_identity.pop(0) if name == "market1501" else set()
    assert {len(numbers) for numbers in of_identity.values()} == {1}
    assert not distractors & set().union(*of_identity.values())


@pytest.mark.parametrize("name", SETS)
def test_a_ranking_within_families_is_one_per_draw(world_root: Path, name: str) -> None:
    dataset = load_dataset(name, world_root)
    features = np.random.default_rng(0).standard_normal((len(dataset.test), 8)).astype(np.float32)
    found = rank_within_families(features, dataset)
    assert len(found.draws) == len(dataset.draws)
    plain = rank(features, dataset)
    for within, whole in zip(found.draws, plain.draws, strict=True):
        assert (within.valid == whole.valid).all()
        assert (within.positives == whole.positives).all()
        assert (within.first_rank <= whole.first_rank).all()
    assert found.metrics["mAP"] > plain.metrics["mAP"]
    knowing = np.eye(10**4, dtype=np.float32)[[image.identity for image in dataset.test]]
    assert rank_within_families(knowing, dataset).metrics["mAP"] == 1


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("which", ORACLES)
def test_an_oracle_ranks_by_the_number_of_equal_factors(world_root: Path, name: str, which: str) -> None:
    dataset = load_dataset(name, world_root)
    features = oracle_features(dataset, which)
    assert features.shape[0] == len(dataset.test)
    assert features.dtype == np.float32
    kind = "person" if name in ("market1501", "msmt17") else "vehicle"
    rows = read_factors(dataset)
    table = [rows[image.path.relative_to(dataset.root).as_posix()] for image in dataset.test]
    equal = np.array([[sum(a[c] == b[c] for c in ORACLES[which][kind]) for b in table] for a in table])
    assert np.abs(features @ features.T - equal).max() < 0.02
    assert oracle_features(dataset, which).tobytes() == features.tobytes()


def test_a_set_without_draws_is_an_error(world_root: Path) -> None:
    dataset = replace(load_dataset("market1501", world_root), draws=())
    with pytest.raises(UserError, match="no draws to average"):
        rank(np.ones((len(dataset.test), 2)), dataset)


def test_equal_factors_are_ranked_in_a_random_order() -> None:
    """First places are shared as if they were drawn by lot."""
    features = one_hot([{"colour": "red"}] * 4000, ["colour"])
    result = evaluate(features[:2000], features[2000:], query_ids=np.zeros(2000, int), gallery_ids=np.arange(2000) % 4)
    assert result.rank(1) == pytest.approx(0.25, abs=0.05)
    assert result.mAP == pytest.approx(0.25, abs=0.01)


def test_photographs_have_neither_oracles_nor_families(data_root: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    for use in (families, lambda d: oracle_features(d, "coarse"), lambda d: rank_within_families(np.ones((1, 1)), d)):
        with pytest.raises(UserError, match=r"has no factors\.csv: only rendered sets have factors"):
            use(dataset)


@pytest.mark.parametrize("which", ORACLES)
def test_an_oracle_is_a_row_like_a_network(world_root: Path, tmp_path: Path, which: Oracle) -> None:
    dataset = load_dataset("vehicleid", world_root)
    recipe = Recipe(image=ImageSize(16, 16), schedule=Schedule(epochs=0))
    training = Training(f"oracle_{which}", {}, dataset, dataset, recipe)
    record = run(tmp_path / "run", training, RunOptions(device="cpu", progress=False))
    # One ranking per random order of images with equal factors; VehicleID has as many draws, and they take turns.
    orders = [(oracle_features(dataset, which, i), replace(dataset, draws=(dataset.draws[i],))) for i in range(ORDERS)]
    ranked = [rank(*one).metrics for one in orders]
    inside = [rank_within_families(*one).metrics for one in orders]
    for name in ranked[0]:
        assert record[name] == pytest.approx(np.mean([one[name] for one in ranked]), abs=1e-12)
        assert record[f"{name}_std_draws"] == pytest.approx(np.std([one[name] for one in ranked], ddof=1), abs=1e-12)
    for name in ("R1", "mAP"):
        assert record[f"within_family_{name}"] == pytest.approx(np.mean([one[name] for one in inside]), abs=1e-12)


def test_orders_of_an_oracle_are_ranked_in_turn(world_root: Path, tmp_path: Path) -> None:
    """A set with one draw is ranked once per order, and the run keeps the scores of each."""
    dataset = load_dataset("market1501", world_root)
    training = Training(
        "oracle_colours", {}, dataset, dataset, Recipe(image=ImageSize(16, 16), schedule=Schedule(epochs=0))
    )
    record = run(tmp_path / "run", training, RunOptions(device="cpu", progress=False))
    ranked = [rank(oracle_features(dataset, "colours", i), dataset) for i in range(ORDERS)]
    assert len({one.metrics["mAP"] for one in ranked}) > 1
    assert record["draws"] == ORDERS
    queries = pd.read_csv(tmp_path / "run" / "queries.csv")
    assert [len(part) for _, part in queries.groupby("draw")] == [len(dataset.draws[0].query)] * ORDERS
    assert len(set(queries["query"])) == len(dataset.draws[0].query)
    for (_, part), one in zip(queries.groupby("draw"), ranked, strict=True):
        np.testing.assert_allclose(part["ap"], one.draws[0].ap)


def test_oracles_see_neither_photographs_nor_pixels(data_root: Path, tmp_path: Path) -> None:
    dataset = load_dataset("market1501", data_root)
    oracle = build_model("oracle_colours", 3)
    with pytest.raises(UserError, match=r"oracle_colours sees no pixels: .* on a rendered set"):
        oracle(torch.zeros(1, 3, 16, 16))
    training = Training("oracle_colours", {}, dataset, dataset, Recipe(schedule=Schedule(epochs=0)))
    with pytest.raises(UserError, match=r"has no factors\.csv: only rendered sets have factors"):
        run(tmp_path, training, RunOptions(device="cpu", progress=False))
    assert within_family_metrics(np.ones((len(dataset.test), 2)), dataset) == {}
    with pytest.raises(UserError, match=r"oracle_coarse has no width to multiply by 0\.5"):
        build_model("oracle_coarse_x0_5", 3)
