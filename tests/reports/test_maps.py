"""Maps and distances against loops that follow their words, and the commands on the smallest trained networks."""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from matplotlib.figure import Figure

from ablations.engine.request import Request
from ablations.engine.store import Store
from ablations.studies import find_study
from msinet.data import Dataset, load_dataset
from msinet.errors import DataError, UserError
from msinet.models import build_model
from reports.__main__ import main
from reports.distances import STYLES, draw_distances, nearest_negatives
from reports.maps import QueryMaps, cell_maps, draw_maps, energy, final_maps, overlay, query_maps
from reports.networks import finished_networks
from reports.ranked import spread_queries
from reports.results import Results


@pytest.fixture
def asked(trained: Request) -> Request:
    """The set with cameras of the shared store."""
    return replace(trained, datasets=("market1501",))


def test_names_of_networks_are_not_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels = np.zeros((64, 32, 3), np.uint8)
    names = ("ResNet50 x0.25", "a network with quite a long name")
    seen = QueryMaps(("a.jpg", "b.jpg"), (pixels, pixels), {name: np.zeros((2, 4, 2), np.float32) for name in names})
    kept: list[Figure] = []
    monkeypatch.setattr("reports.maps.write_figure", lambda figure, *_: kept.append(figure))
    draw_maps(seen, "title", tmp_path / "maps", upright=True)
    (figure,) = kept
    figure.canvas.draw()
    labels = [axis.yaxis.label for axis in figure.axes if axis.get_ylabel()]
    assert [label.get_text().splitlines()[0] for label in labels] == ["image", *names]
    assert all(label.get_window_extent().x0 >= 0 for label in labels)
    plt.close(figure)


def test_a_map_is_the_sum_of_squares_scaled() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5, 3, 4)))
    found = energy(values)
    for image in range(2):
        sums = [[sum(float(values[image, c, y, x]) ** 2 for c in range(5)) for x in range(4)] for y in range(3)]
        low, high = min(map(min, sums)), max(map(max, sums))
        for y in range(3):
            for x in range(4):
                assert float(found[image, y, x]) == pytest.approx((sums[y][x] - low) / (high - low), abs=1e-6)
    assert energy(torch.ones(1, 3, 2, 2)).tolist() == [[[0, 0], [0, 0]]]


def test_the_maps_are_those_that_the_network_computes() -> None:
    network = build_model("msinet_x0_25", 4).eval()
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        backbone = network.get_submodule("backbone")
        x = backbone.get_submodule("stem")(images)
        after = []
        for number in (1, 2, 3):
            for cell in backbone.get_submodule(f"stage{number}").children():
                x = cell(x)
                after.append(energy(x))
            if number < 3:
                x = backbone.get_submodule(f"down{number}")(x)
    found = cell_maps(network, images)
    assert [tuple(one.shape) for one in found] == [(2, 16, 8)] * 2 + [(2, 8, 4)] * 2 + [(2, 4, 2)] * 2
    for one, expected in zip(found, after, strict=True):
        assert torch.allclose(one, expected, atol=1e-5)
    assert torch.allclose(final_maps(network, images), after[-1], atol=1e-5)
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(UserError, match="only MSINet has MSI cells"):
        cell_maps(build_model("osnet_x0_25", 4), images)
    with pytest.raises(UserError, match="no feature maps"):
        final_maps(build_model("colour_histogram", 4), images)


@pytest.mark.parametrize("name", ["market1501", "vehicleid"])
@pytest.mark.parametrize("count", [3, 1000])
def test_the_nearest_negatives_by_brute_force(data_root: Path, name: str, count: int) -> None:
    dataset = load_dataset(name, data_root)
    features = np.random.default_rng(1).normal(size=(len(dataset.test), 6)).astype(np.float32)
    found = nearest_negatives(features, dataset, count).set_index("query")
    draw, seen = dataset.draws[0], 0
    for q in draw.query:
        query = dataset.test[q]
        negatives, positives = [], []
        for g in draw.gallery:
            image = dataset.test[g]
            a, b = features[q] / np.linalg.norm(features[q]), features[g] / np.linalg.norm(features[g])
            if image.identity != query.identity:
                negatives.append(float(np.linalg.norm(a - b)))
            elif not dataset.remove_same_camera or image.camera != query.camera:
                positives.append(float(np.linalg.norm(a - b)))
        if not positives:
            continue
        seen += 1
        shown = found.loc[query.path.relative_to(dataset.root).as_posix()]
        nearest = np.mean(sorted(negatives)[:count])
        assert shown["negatives"] == pytest.approx(nearest, abs=1e-3)
        assert shown["positives"] == pytest.approx(np.mean(positives), abs=1e-3)
        assert shown["ratio"] == pytest.approx(nearest / np.mean(positives), abs=1e-2)
    assert seen == len(found) > 0


def test_a_grey_image_shines_where_its_map_does() -> None:
    pixels = np.full((8, 8, 3), 128, np.uint8)
    mixed = overlay(pixels, np.array([[0.0, 0.0], [0.0, 1.0]], np.float32))
    assert mixed.shape == (8, 8, 3)
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    assert mixed[-1, -1].sum() > mixed[0, 0].sum() + 0.5


def test_figure_1_shows_the_same_images_for_every_network(asked: Request, tmp_path: Path) -> None:
    words = [*asked.as_args(), "--out", str(tmp_path), "--images", "3", "--device", "cpu", "--no-progress"]
    assert main(["figure1", *words]) == 0
    maps = pd.read_csv(tmp_path / f"{stem(tmp_path, 'maps')}.csv")
    assert set(maps["map"]) == {"MSINet x0.25", "OSNet x0.25"}
    assert maps.groupby("map")["image"].agg(lambda images: tuple(images.unique())).nunique() == 1
    assert maps["image"].nunique() == 3
    assert maps.groupby(["map", "image"])["value"].agg(["min", "max"]).drop_duplicates().to_numpy().tolist() == [[0, 1]]
    distances = pd.read_csv(tmp_path / f"{stem(tmp_path, 'distances')}.csv")
    assert distances.groupby("row")["query"].nunique().nunique() == 1
    assert distances["negatives"].between(0, 2).all()
    drawn(tmp_path, 2)


def test_figure_4_has_a_column_per_cell(asked: Request, tmp_path: Path) -> None:
    words = [*replace(asked, models=("msinet_x0_25",)).as_args(), "--out", str(tmp_path), "--images", "2"]
    assert main(["figure4", *words, "--device", "cpu", "--no-progress"]) == 0
    (file,) = tmp_path.glob("figure4-*.csv")
    letters = ("GG", "EG", "AG", "GN", "GA", "EA")
    assert pd.read_csv(file)["map"].unique().tolist() == [f"cell {i}: {pair}" for i, pair in enumerate(letters, 1)]
    drawn(tmp_path, 1)


def test_figure_6_lists_what_the_ranking_found(asked: Request, tmp_path: Path) -> None:
    words = [*asked.as_args(), "--out", str(tmp_path), "--images", "2", "--length", "5", "--device", "cpu"]
    assert main(["figure6", *words, "--no-progress"]) == 0
    (file,) = tmp_path.glob("figure6-*.csv")
    data = pd.read_csv(file)
    dataset = load_dataset("market1501", asked.root)
    identities = {image.path.relative_to(dataset.root).as_posix(): image for image in dataset.test}
    assert data.groupby(["network", "query"]).size().tolist() == [5] * 4
    for _, row in data.iterrows():
        query, found = identities[row["query"]], identities[row["gallery"]]
        assert row["right"] == (query.identity == found.identity)
        assert not (query.identity == found.identity and query.camera == found.camera)
    assert all(part["distance"].is_monotonic_increasing for _, part in data.groupby(["network", "query"]))
    drawn(tmp_path, 1)


def test_what_is_missing_is_named_with_its_command(asked: Request, tmp_path: Path, capsys) -> None:
    words = replace(asked, models=("cdnet_x0_25", "msinet_x0_25"))
    assert main(["figure1", *words.as_args(), "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "no finished training of CDNet x0.25" in err.replace("ResNet50, ", "")
    assert "python -m ablations run figure1 --profile smoke" in err
    assert main(["figure4", *asked.as_args(), "--images", "0"]) == 2
    assert "--images must be at least 1" in capsys.readouterr().err
    with pytest.raises(DataError, match="does not exist"):
        finished_networks(Results(replace(asked, datasets=(), data_root=tmp_path / "none")), "figure1")


def test_pictures_cost_no_training_that_table_2_has_not(asked: Request) -> None:
    everything = replace(asked, models=())
    table2 = {cell.experiment for cell in find_study("table2").cells(everything, ("market1501",))}
    for name in ("figure1", "figure4", "figure6"):
        cells = find_study(name).cells(everything, ("market1501",))
        assert {cell.experiment for cell in cells} <= table2
        networks = {dict(cell.factors)["network"] for cell in cells}
        assert networks == {"msinet"} | ({"resnet50"} if name != "figure4" else set())


def test_images_are_those_that_the_network_gets(asked: Request) -> None:
    dataset: Dataset = load_dataset("market1501", asked.root)
    found, _ = finished_networks(Results(asked), "figure1")
    queries = spread_queries(dataset, 2)
    seen = query_maps(Store(asked.store), found[0].run_ids[0], dataset, queries, "one", "cpu")
    record = Store(asked.store).frame().loc[found[0].run_ids[0]]
    for path, pixels in zip(seen.paths, seen.pixels, strict=True):
        with PIL.Image.open(dataset.root / path) as image:
            size = int(record["recipe.width"]), int(record["recipe.height"])
            assert np.array_equal(pixels, np.asarray(image.convert("RGB").resize(size, PIL.Image.Resampling.BILINEAR)))


def stem(folder: Path, kind: str) -> str:
    """The name of the one figure of a kind in a folder."""
    (file,) = folder.glob(f"*-{kind}.csv")
    return file.stem


def drawn(folder: Path, number: int) -> None:
    """So many pictures lie there, none of them empty, each with its vector form and data."""
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == number
    for file in pictures:
        with PIL.Image.open(file) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
        assert "<svg" in file.with_suffix(".svg").read_text(encoding="utf-8")
        assert file.with_suffix(".csv").exists()


def test_every_network_has_its_distances_in_the_figure(tmp_path: Path) -> None:
    names = [f"network {i}" for i in range(len(STYLES) + 1)]
    rows = [
        {"row": name, "network": "", "negatives": 0.5 + i / 9, "ratio": 1.0 + i / 9} for name in names for i in (0, 1)
    ]
    draw_distances(pd.DataFrame(rows), "title", tmp_path / "distances")
    svg = (tmp_path / "distances.svg").read_text(encoding="utf-8")
    assert [svg.count(f"<!-- {name}, median") for name in names] == [2] * len(names)
