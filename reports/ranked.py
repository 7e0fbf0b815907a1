"""Ranked lists of finished runs: the nearest gallery images of a query, their distances, and which are right.

Records hold the rank of every query's first match, not the images before it, so images are ranked again with the run's
weights. Features are kept in the store, so that this needs the network only once:

STORE/features/<run_id>.npy     (N, D) float32, a row per test image in the data set's order
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ablations.engine.store import Store
from msinet.data import Dataset, open_pixels
from msinet.data.datasets import Image
from msinet.data.matches import queries_with_match
from msinet.environment import pick_device
from msinet.errors import DataError, UserError
from msinet.io import atomic_path
from msinet.models import build_model, load_weights
from msinet.retrieval import top_k
from msinet.training.evaluation import dataset_features
from msinet.training.options import RankingOptions
from reports.results import Results


@dataclass(frozen=True)
class RankedList:
    """A query and its ranked gallery images, nearest first."""

    position: int
    """position of the query in the set's first draw"""
    query: Image
    gallery: tuple[Image, ...]
    """nearest images; where the protocol asks for it, without those of the query's identity and camera"""
    distances: tuple[float, ...]
    """Euclidean distances between unit features, in [0, 2]"""
    right: tuple[bool, ...]
    """whether each is of the query's identity"""
    positives: int
    """number of right images in the whole gallery"""
    first_rank: int
    """rank of the first right image, from 1; 0 if there is none"""
    ap: float
    """average precision of the query in per cent; NaN if there is no right image"""


#: Number of right images in the gallery, rank of the first, average precision in per cent.
Scores = tuple[int, int, float]


def ranked_lists(
    results: Results, run_id: str, dataset: Dataset, queries: Sequence[int], k: int, run_options: RankingOptions
) -> list[RankedList]:
    """The k nearest gallery images of some queries, ranked as the run was (first draw of the set).

    Args:
        results: results of a request; its store holds the run.
        run_id: a finished training.
        dataset: the run's test set, `load_dataset(record["target"], root)`.
        queries: positions in `dataset.draws[0].query`; `spread_queries` chooses some.
        k: largest length of a list; a small gallery gives a shorter one.
        run_options: device that embeds the images, unless their features are in the store, and progress bars.

    Raises:
        UserError: no such run, one without weights (a search), a query or k out of range.
        DataError: not the images that the run was tested on.
    """
    draw = dataset.draws[0]
    wrong = [q for q in queries if not 0 <= q < len(draw.query)]
    if wrong:
        raise UserError(f"{dataset.name} has queries 0 to {len(draw.query) - 1}, not {wrong[0]}")
    features = embeddings(results.store, run_id, dataset, run_options)
    recorded = results.queries(run_id)
    recorded = recorded[recorded["draw"] == 0].reset_index(drop=True)
    rows = {q: recorded.iloc[q] for q in queries}
    scores = {q: (int(row["positives"]), int(row["first_rank"]), float(row["ap"])) for q, row in rows.items()}
    return lists_of(features, dataset, queries, k, scores)


def lists_of(
    features: NDArray[np.float32], dataset: Dataset, queries: Sequence[int], k: int, scores: Mapping[int, Scores]
) -> list[RankedList]:
    """The k nearest gallery images of some queries (first draw of the set).

    Args:
        features: (N, D), a row per test image.
        dataset: the test set.
        queries: positions in `dataset.draws[0].query`.
        k: length of a list.
        scores: number of right images, rank of the first and average precision in per cent, by query.
    """
    draw = dataset.draws[0]
    identities = dataset.test_identities
    chosen = draw.query[np.asarray(queries, np.int64)]
    if not len(chosen):
        return []
    labels = dataset.ranking_labels(chosen, draw.gallery)
    indices, squares = top_k(features[chosen], features[draw.gallery], k, **labels)
    lists = []
    for position, query, nearest, square in zip(queries, chosen, indices, squares, strict=True):
        found = draw.gallery[nearest[nearest >= 0]]
        lists.append(
            RankedList(
                int(position),
                dataset.test[query],
                tuple(dataset.test[i] for i in found),
                tuple(float(d) for d in np.sqrt(square[nearest >= 0])),
                tuple(bool(r) for r in identities[found] == identities[query]),
                *scores[position],
            )
        )
    return lists


def spread_queries(dataset: Dataset, number: int) -> list[int]:
    """Positions of some queries of the first draw that have a right gallery image, evenly spaced through the set.

    They depend on the data alone, so that networks can be compared on the same queries.
    """
    answered = np.flatnonzero(queries_with_match(dataset))
    places = np.linspace(0, len(answered) - 1, min(number, len(answered))).round().astype(int)
    return [int(position) for position in answered[places]]


def embeddings(store: Store, run_id: str, dataset: Dataset, run_options: RankingOptions) -> NDArray[np.float32]:
    """Features (N, D) of every test image by the run's network: from the store, or embedded and then kept there.

    Raises:
        UserError: no such run, or one without weights.
        DataError: not the images that the run was tested on.
    """
    weights = _weights(store, run_id)
    tested = store.record(run_id)["target_fingerprint"]
    if tested != dataset.fingerprint:
        raise DataError(
            f"run {run_id} was tested on another version of {dataset.name} ({tested}) than the one in {dataset.root} "
            f"({dataset.fingerprint}); pass the --data-root of the run"
        )
    kept = store.root / "features" / f"{run_id}.npy"
    newest = max(path.stat().st_mtime_ns for path in (weights, *(image.path for image in dataset.test)))
    if kept.is_file() and kept.stat().st_mtime_ns > newest:  # else an image or the training has changed since
        try:
            features: NDArray[np.float32] = np.load(kept, allow_pickle=False)
            if features.ndim == 2 and len(features) == len(dataset.test) and features.dtype == np.float32:
                return features
        except (OSError, ValueError):  # damaged file: computed again
            pass
    network, height, width = load_run(store, run_id)
    device, progress = pick_device(run_options.device), run_options.progress
    pixels = open_pixels(dataset, "test", height, width, progress=progress)
    found = dataset_features(network.to(device), dataset, pixels, device, progress=progress)
    made: NDArray[np.float32] = (found if found.ndim == 2 else found[0]).numpy()  # an oracle: in its first order
    with atomic_path(kept) as temporary, temporary.open("wb") as stream:
        np.save(stream, made)
    return made


def load_run(store: Store, run_id: str) -> tuple[nn.Module, int, int]:
    """The trained network of a finished run, and the height and width of its input images.

    Raises:
        UserError: no such run, or one without weights.
    """
    weights, record = _weights(store, run_id), store.record(run_id)
    experiment = json.loads((store.run_folder(run_id) / "experiment.json").read_text(encoding="utf-8"))
    height, width = experiment["recipe"]["height"], experiment["recipe"]["width"]
    network = build_model(
        experiment["model"], record["identities"], image=(height, width), **dict(experiment["options"])
    )
    if network.state_dict():  # the colour histogram has none
        load_weights(network, weights)
    return network, height, width


def _weights(store: Store, run_id: str) -> Path:
    weights = store.weights(run_id)
    if not weights.is_file():
        raise UserError(f"{weights} does not exist; choose a finished training, not a search")
    return weights
