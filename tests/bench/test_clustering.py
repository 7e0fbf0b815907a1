"""Benchmark of pseudo-labels: both forms find the same clusters, and the command writes what it measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from bench import clustering
from bench.commands import Clustering
from msinet.retrieval import jaccard_distances
from msinet.training.recipe import Unsupervised
from msinet.training.recipes import resolve_unsupervised
from msinet.unsupervised.mmt import closest
from msinet.unsupervised.pseudo_labels import cluster


@pytest.mark.parametrize("lists", ["k1", "k1+1"])
def test_dense_matrices_give_the_same_labels(lists: str) -> None:
    features = clustering.made_up(400, 25, 64)
    settings = replace(Unsupervised(), neighbour_lists=lists)
    sparse, dense = (clustering.FORMS[form](features, settings) for form in ("sparse", "dense"))
    assert np.array_equal(sparse == -1, dense == -1)
    assert adjusted_rand_score(sparse, dense) == 1
    assert 10 < sparse.max() < 60


def test_features_have_unit_length_and_as_many_centres_as_identities() -> None:
    features = clustering.made_up(2500, 3, 512).numpy()
    assert features.shape == (2500, 512)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    similar = features @ features[0] > 0.3  # two of one identity: 1 / (1 + NOISE^2) = 0.61; others: about 0
    assert 700 < similar.sum() < 970
    random = clustering.made_up(2500, 3, 512, clustered=False).numpy()
    assert (random @ random[0] > 0.3).sum() == 1  # itself


def test_the_first_labels_of_mmt_are_those_of_the_method() -> None:
    features = clustering.made_up(400, 25, 64)
    settings = resolve_unsupervised("paper", "mmt", "market1501").recipe.method_settings
    within = jaccard_distances(features, k1=30, k2=6, radius=0.99, scaled=True)
    expected = cluster(within, closest(within, 0.0016), 4)
    np.testing.assert_array_equal(clustering.first_labels_of_mmt(features, settings), expected)
    assert expected.max() > 1


def test_the_command_measures_dense_matrices_at_the_size_of_market1501_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clustering, "SIZES", {"market1501": (300, 20), "msmt17": (400, 25)})
    monkeypatch.setattr(clustering, "in_a_fresh_process", lambda _what, work, *arguments, **_: work(*arguments))
    Clustering(dim=32, dense=True, threads=1, out=tmp_path / "clustering.csv")()
    table = pd.read_csv(tmp_path / "clustering.csv")
    assert list(zip(table["set"], table["features"], table["form"], strict=True)) == [
        ("market1501", "clustered", "sparse"),
        ("market1501", "clustered", "first of mmt"),
        ("market1501", "clustered", "dense"),
        ("market1501", "random", "sparse"),
        ("market1501", "random", "first of mmt"),
        ("market1501", "random", "dense"),
        ("msmt17", "clustered", "sparse"),
        ("msmt17", "clustered", "first of mmt"),
        ("msmt17", "random", "sparse"),
        ("msmt17", "random", "first of mmt"),
    ]
    found = table.set_index(["set", "features", "form"])["clusters"]["market1501"]
    assert all(found[kind, "sparse"] == found[kind, "dense"] for kind in clustering.KINDS)
    assert found["clustered", "sparse"] > 5
    assert (table["seconds"] > 0).all()
    assert "msmt17" in capsys.readouterr().out
