"""Ranked lists against a ranking by hand: all distances of a query, sorted, what the protocol removes taken out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ablations.engine.request import Request
from msinet.data import Dataset, load_dataset, open_pixels
from msinet.errors import DataError, UserError
from msinet.models import build_model, load_weights
from msinet.training import embed
from msinet.training.options import RunOptions
from reports import ranked
from reports.ranked import ranked_lists, spread_queries
from reports.results import Results

CPU = RunOptions(device="cpu", progress=False)


def run_of(request: Request, model: str, target: str) -> tuple[Results, str, Dataset]:
    """The run of a model on a set, from scratch."""
    results = Results(request)
    frame = results.records
    found = frame[(frame["model"] == model) & (frame["target"] == target) & (frame["source"] == target)]
    return results, str(found.index[0]), load_dataset(target, request.root)


def by_hand(results: Results, run_id: str, dataset: Dataset, model: str) -> list[list[tuple[Path, float, bool]]]:
    """For every query of the first draw: path, distance and rightness of the whole gallery, nearest first."""
    record = results.records.loc[run_id]
    height, width = int(record["recipe.height"]), int(record["recipe.width"])
    network = build_model(model, dataset.num_classes, image=(height, width))
    load_weights(network, results.store.run_folder(run_id) / "model.safetensors")
    pixels = open_pixels(dataset, "test", height, width, progress=False)
    features = torch.nn.functional.normalize(embed(network, pixels, torch.device("cpu")).double(), dim=1)
    lists = []
    for q in dataset.draws[0].query:
        query = dataset.test[q]
        entries = []
        for g in dataset.draws[0].gallery:
            image = dataset.test[g]
            same = image.identity == query.identity
            if not (dataset.remove_same_camera and same and image.camera == query.camera):
                entries.append((image.path, float((features[q] - features[g]).norm()), same))
        lists.append(sorted(entries, key=lambda entry: entry[1]))
    return lists


def recorded_queries(results: Results, run_id: str) -> pd.DataFrame:
    """What the run recorded of the queries of its first draw."""
    queries = results.queries(run_id)
    return queries[queries["draw"] == 0].reset_index(drop=True)


@pytest.mark.parametrize("target", ["market1501", "vehicleid"])
def test_lists_are_those_of_a_ranking_by_hand(trained: Request, target: str) -> None:
    results, run_id, dataset = run_of(trained, "msinet_x0_25", target)
    queries = range(len(dataset.draws[0].query))
    found = ranked_lists(results, run_id, dataset, queries, 7, CPU)
    expected = by_hand(results, run_id, dataset, "msinet_x0_25")
    assert [item.position for item in found] == list(queries)
    for item, whole in zip(found, expected, strict=True):
        wanted = whole[:7]
        assert item.query == dataset.test[dataset.draws[0].query[item.position]]
        assert len(item.gallery) == len(wanted)
        # sorted by fp32 similarities here, by float64 distances there: as far apart, image for image
        assert np.allclose(item.distances, [d for _, d, _ in wanted], atol=1e-3)
        table = {path: (distance, right) for path, distance, right in whole}
        for image, distance, right in zip(item.gallery, item.distances, item.right, strict=True):
            assert table[image.path] == (pytest.approx(distance, abs=1e-3), right)
        assert item.positives == sum(right for _, _, right in whole)


def test_lists_agree_with_what_the_run_recorded(trained: Request) -> None:
    results, run_id, dataset = run_of(trained, "osnet_x0_25", "market1501")
    gallery = len(dataset.draws[0].gallery)
    recorded = recorded_queries(results, run_id)
    for item in ranked_lists(results, run_id, dataset, [3, 0, 5], gallery, CPU):
        hits = np.flatnonzero(item.right) + 1
        assert hits[0] == item.first_rank == recorded["first_rank"][item.position]
        assert (np.arange(1, len(hits) + 1) / hits).mean() == pytest.approx(item.ap / 100)
        assert Path(recorded["query"][item.position]) == item.query.path.relative_to(dataset.root)


def test_what_learned_nothing_has_lists_as_well(trained: Request) -> None:
    results, run_id, dataset = run_of(trained, "colour_histogram", "market1501")
    (item,) = ranked_lists(results, run_id, dataset, [0], 15, CPU)
    assert item.first_rank == 1 + item.right.index(True)


def test_features_are_kept_and_used_again(trained: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    results, run_id, dataset = run_of(trained, "osnet_x0_25", "vehicleid")
    first = ranked_lists(results, run_id, dataset, [0, 1], 15, CPU)
    kept = results.store.root / "features" / f"{run_id}.npy"
    assert np.load(kept).shape[0] == len(dataset.test)
    with monkeypatch.context() as patch:
        patch.setattr(ranked, "dataset_features", lambda *_, **__: pytest.fail("embedded again"))
        assert ranked_lists(results, run_id, dataset, [0, 1], 15, CPU) == first
    kept.write_bytes(kept.read_bytes()[:-100])  # a disk that was full once
    assert ranked_lists(results, run_id, dataset, [0, 1], 15, CPU) == first
    assert ranked_lists(results, run_id, dataset, [], 15, CPU) == []


def test_queries_are_spread_and_have_an_answer(trained: Request) -> None:
    for target in ("market1501", "vehicleid"):
        results, run_id, dataset = run_of(trained, "msinet_x0_25", target)
        answered = list(np.flatnonzero(recorded_queries(results, run_id)["positives"] > 0))
        assert spread_queries(dataset, 1000) == answered
        few = spread_queries(dataset, 3)
        assert len(few) == 3
        assert few[0] == answered[0]
        assert few[-1] == answered[-1]


def test_errors_name_the_run_and_the_remedy(trained: Request, world_root: Path) -> None:
    results, run_id, dataset = run_of(trained, "msinet_x0_25", "market1501")
    with pytest.raises(UserError, match="choose a finished training"):
        ranked_lists(results, "0" * 12, dataset, [0], 15, CPU)
    with pytest.raises(UserError, match="queries 0 to 9, not 10"):
        ranked_lists(results, run_id, dataset, [10], 15, CPU)
    with pytest.raises(DataError, match="another version of market1501"):
        ranked_lists(results, run_id, load_dataset("market1501", world_root), [0], 15, CPU)
