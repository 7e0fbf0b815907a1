"""Ranked lists of given weights, as a figure and as a page, against a ranking by hand."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from msinet.data import Dataset, load_dataset
from msinet.models import build_model, save_weights
from msinet.neighbours import load_network
from reports.__main__ import main

QUIET = ("--device", "cpu", "--no-progress")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders with weights of two small untrained networks. Shared: do not change them."""
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("runs") / f"run-{seed}"
        notes = {"model": "resnet18_x0_25", "num_classes": "3", "height": "32", "width": "16"}
        save_weights(build_model("resnet18_x0_25", 3), folder / "model.safetensors", notes)
        folders.append(folder)
    return folders


def by_hand(folder: Path, dataset: Dataset, query: int) -> list[tuple[str, float]]:
    """File names and distances of all gallery images that a query is ranked against, nearest first."""
    network = load_network(folder / "model.safetensors", device="cpu")
    features = network.embed([image.path for image in dataset.test]).astype(np.float64)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    asked = dataset.test[query]
    found = [
        (dataset.test[g].path.name, float(np.linalg.norm(units[query] - units[g])))
        for g in dataset.draws[0].gallery
        if (dataset.test[g].identity, dataset.test[g].camera) != (asked.identity, asked.camera)
    ]
    return sorted(found, key=lambda one: one[1])


def test_the_browser_shows_what_given_weights_find(runs: list[Path], data_root: Path, tmp_path: Path) -> None:
    words = ["ranked", "--weights", *map(str, runs), "--data-root", str(data_root), "--datasets", "market1501"]
    assert main([*words, "--queries", "2", "--out", str(tmp_path / "page.html"), *QUIET]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data-ranked">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    (shown,) = json.loads(found[1])["sets"]
    assert [network["name"] for network in shown["networks"]] == ["run-0", "run-1"]
    dataset = load_dataset("market1501", data_root)
    names = {dataset.test[q].path.name: int(q) for q in dataset.draws[0].query}
    for folder, network in zip(runs, shown["networks"], strict=True):
        for query, one in zip(shown["queries"], network["lists"], strict=True):
            expected = by_hand(folder, dataset, names[query[3]])
            np.testing.assert_allclose([item[1] for item in one["items"]], [d for _, d in expected[:15]], atol=0.011)
            assert one["items"][0][5] == expected[0][0]
            right = [name.startswith(query[3][:4]) for name, _ in expected]
            assert one["first"] == right.index(True) + 1
            hits = np.flatnonzero(right) + 1
            assert one["ap"] == pytest.approx(100 * np.mean(np.arange(1, len(hits) + 1) / hits))


def test_figure_6_of_given_weights(runs: list[Path], data_root: Path, tmp_path: Path) -> None:
    words = ["figure6", "--weights", str(runs[0]), str(runs[1] / "model.safetensors"), "--data-root", str(data_root)]
    words += ["--datasets", "market1501", "--images", "1", "--length", "3", "--out", str(tmp_path), *QUIET]
    assert main(words) == 0
    with (tmp_path / "figure6-market1501.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    dataset = load_dataset("market1501", data_root)
    names = {dataset.test[q].path.name: int(q) for q in dataset.draws[0].query}
    expected = by_hand(runs[1], dataset, names[Path(rows[0]["query"]).name])[:3]
    assert [Path(row["gallery"]).name for row in rows if row["network"] == "run-1"] == [name for name, _ in expected]
    assert (tmp_path / "figure6-market1501.png").stat().st_size > 0


def test_what_cannot_be_shown_is_said(runs: list[Path], data_root: Path, tmp_path: Path, capsys) -> None:
    words = ["ranked", "--weights", str(tmp_path), "--data-root", str(data_root)]
    assert main(words) == 2
    assert "choose one with --datasets" in capsys.readouterr().err
    assert main([*words, "--datasets", "market1501", *QUIET]) == 2
    assert "holds no model.safetensors" in capsys.readouterr().err
