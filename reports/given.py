"""Ranked lists of given weights: files, or folders of `msinet train`, which need not be in a store."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msinet.data import Dataset, open_pixels
from msinet.errors import UserError
from msinet.neighbours import load_network
from msinet.training import embed
from msinet.training.evaluation import rank
from msinet.training.options import RankingOptions
from msinet.training.run_folder import WEIGHTS
from reports.ranked import RankedList, lists_of


@dataclass(frozen=True)
class GivenLists:
    """The ranked lists of a network with given weights for some queries."""

    label: str
    """name of the run's folder, or of the file"""
    network: str
    """name of the network with its options"""
    size: tuple[int, int]
    """height and width of its images"""
    mean_ap: float
    """mAP of all queries, in per cent"""
    lists: tuple[RankedList, ...]


def given_lists(
    weights: Sequence[Path], dataset: Dataset, queries: Sequence[int], k: int, run_options: RankingOptions
) -> list[GivenLists]:
    """The ranked lists of several networks for the same queries (first draw of the set).

    Args:
        weights: files that name their network, or folders of finished runs.
        dataset: the test set.
        queries: positions in `dataset.draws[0].query`.
        k: length of a list.
        run_options: device and progress bars.

    Raises:
        UserError: weights that cannot be used.
    """
    labels = [_label(path) for path in weights]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in weights]
    return [_lists(path, label, dataset, queries, k, run_options) for path, label in zip(weights, labels, strict=True)]


def _label(path: Path) -> str:
    return path.resolve().parent.name if path.name == WEIGHTS else path.stem if path.is_file() else path.resolve().name


def _lists(
    path: Path, label: str, dataset: Dataset, queries: Sequence[int], k: int, run_options: RankingOptions
) -> GivenLists:
    file = path / WEIGHTS if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UserError(
            f"{path} holds no {WEIGHTS}; give the folder of a finished run of msinet train, or a weights file"
        )
    found = load_network(file, dataset=dataset.name, device=run_options.device)
    size = (found.height, found.width)
    pixels = open_pixels(dataset, "test", *size, cache=run_options.cache, progress=run_options.progress)
    features = embed(found.network, pixels, found.device, progress=run_options.progress).numpy()
    result = rank(features, dataset).draws[0]
    scores = {q: (int(result.positives[q]), int(result.first_rank[q]), 100 * float(result.ap[q])) for q in queries}
    lists = lists_of(features.astype(np.float32), dataset, queries, k, scores)
    return GivenLists(label, found.name, size, 100 * result.mAP, tuple(lists))
