"""Ranked lists against a ranking by hand: all distances of a query, sorted, what the protocol removes taken out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ablations.catalogue import Request
from ablations.store import Store
from msinet.data import Dataset, load_dataset, open_pixels
from msinet.errors import DataError, UserError
from msinet.models import build_model, load_weights
from msinet.training import embed
from reports import ranked
from reports.ranked import ranked_lists, recorded_queries, spread_queries


def run_of(request: Request, model: str, target: str) -> tuple[Store, str, Dataset]:
    """The run of a model on a set, from scratch."""
    store = Store(request.store)
    frame = store.frame()
    found = frame[(frame["model"] == model) & (frame["target"] == target) & (frame["source"] == target)]
    return store, str(found.index[0]), load_dataset(target, request.root)


def by_hand(store: Store, run_id: str, dataset: Dataset, model: str) -> list[list[tuple[Path, float, bool]]]:
    """For every query of the first draw: path, distance and rightness of the whole gallery, nearest first."""
    record = store.frame().loc[run_id]
    height, width = int(record["recipe.image.height"]), int(record["recipe.image.width"])
    network = build_model(model, dataset.num_classes, image=(height, width))
    load_weights(network, store.run_folder(run_id) / "model.safetensors")
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


@pytest.mark.parametrize("target", ["market1501", "vehicleid"])
def test_lists_are_those_of_a_ranking_by_hand(trained: Request, target: str) -> None:
    store, run_id, dataset = run_of(trained, "msinet_x0_25", target)
    queries = range(len(dataset.draws[0].query))
    found = ranked_lists(store, run_id, dataset, queries, 7, device="cpu")
    expected = by_hand(store, run_id, dataset, "msinet_x0_25")
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
    store, run_id, dataset = run_of(trained, "osnet_x0_25", "market1501")
    gallery = len(dataset.draws[0].gallery)
    recorded = recorded_queries(store, run_id)
    for item in ranked_lists(store, run_id, dataset, [3, 0, 5], gallery, device="cpu"):
        hits = np.flatnonzero(item.right) + 1
        assert hits[0] == item.first_rank == recorded["first_rank"][item.position]
        assert (np.arange(1, len(hits) + 1) / hits).mean() == pytest.approx(item.ap)
        assert Path(recorded["query"][item.position]) == item.query.path.relative_to(dataset.root)


def test_what_learned_nothing_has_lists_as_well(trained: Request) -> None:
    store, run_id, dataset = run_of(trained, "colour_histogram", "market1501")
    (item,) = ranked_lists(store, run_id, dataset, [0], device="cpu")
    assert item.first_rank == 1 + item.right.index(True)


def test_features_are_kept_and_used_again(trained: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    store, run_id, dataset = run_of(trained, "osnet_x0_25", "vehicleid")
    first = ranked_lists(store, run_id, dataset, [0, 1], device="cpu")
    kept = store.root / "features" / f"{run_id}.npy"
    assert np.load(kept).shape[0] == len(dataset.test)
    with monkeypatch.context() as patch:
        patch.setattr(ranked, "embed", lambda *_, **__: pytest.fail("embedded again"))
        assert ranked_lists(store, run_id, dataset, [0, 1]) == first
    kept.write_bytes(kept.read_bytes()[:-100])  # a disk that was full once
    assert ranked_lists(store, run_id, dataset, [0, 1], device="cpu") == first
    assert ranked_lists(store, run_id, dataset, []) == []


def test_queries_are_spread_and_have_an_answer(trained: Request) -> None:
    for target in ("market1501", "vehicleid"):
        store, run_id, dataset = run_of(trained, "msinet_x0_25", target)
        answered = list(np.flatnonzero(recorded_queries(store, run_id)["positives"] > 0))
        assert spread_queries(dataset, 1000) == answered
        few = spread_queries(dataset, 3)
        assert len(few) == 3
        assert few[0] == answered[0]
        assert few[-1] == answered[-1]


def test_errors_name_the_run_and_the_remedy(trained: Request, world_root: Path) -> None:
    store, run_id, dataset = run_of(trained, "msinet_x0_25", "market1501")
    with pytest.raises(UserError, match="choose a finished training"):
        ranked_lists(store, "0" * 12, dataset, [0])
    with pytest.raises(UserError, match="queries 0 to 9, not 10"):
        ranked_lists(store, run_id, dataset, [10])
    with pytest.raises(DataError, match="another version of market1501"):
        ranked_lists(store, run_id, load_dataset("market1501", world_root), [0])
