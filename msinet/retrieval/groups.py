"""Ranking within groups, such as the families of rendered identities."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from msinet.errors import DataError
from msinet.retrieval.matches import Split, as_labels
from msinet.retrieval.metrics import Retrieval
from msinet.retrieval.ranking import evaluate
from msinet.retrieval.similarities import Features


def evaluate_within(
    query: Features,
    gallery: Features,
    *,
    query_groups: ArrayLike,
    gallery_groups: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike | None = None,
    gallery_cameras: ArrayLike | None = None,
) -> Retrieval:
    """Rank every query against the gallery items of its own group only; otherwise as `evaluate`.

    Args:
        query: (Q, D) features.
        gallery: (G, D) features.
        query_groups: (Q,) integers.
        gallery_groups: (G,) integers.
        query_ids: (Q,) integers.
        gallery_ids: (G,) integers.
        query_cameras: (Q,) integers, given together with `gallery_cameras` or not at all.
        gallery_cameras: (G,) integers.

    Raises:
        UserError: as `evaluate`.
        DataError: as `evaluate`.
    """
    Split(query_ids, gallery_ids, query_cameras, gallery_cameras, len(query), len(gallery))  # refuses invalid labels
    of_query = as_labels("query_groups", query_groups, len(query))
    of_gallery = as_labels("gallery_groups", gallery_groups, len(gallery))
    count = len(of_query)
    valid, ap, inp = np.zeros(count, bool), np.full(count, np.nan), np.full(count, np.nan)
    first_rank, positives = np.zeros(count, np.int64), np.zeros(count, np.int64)
    labels = {"ids": (query_ids, gallery_ids)}
    if query_cameras is not None and gallery_cameras is not None:
        labels["cameras"] = query_cameras, gallery_cameras
    for group in np.unique(of_query):
        mine, items = np.flatnonzero(of_query == group), np.flatnonzero(of_gallery == group)
        chosen = {name: (np.asarray(left)[mine], np.asarray(right)[items]) for name, (left, right) in labels.items()}
        if not _any_match(**chosen):
            continue
        parts: dict[str, Any] = {
            f"{side}_{name}": pair[i] for name, pair in chosen.items() for i, side in enumerate(("query", "gallery"))
        }
        result = evaluate(query[mine], gallery[items], **parts)
        valid[mine], ap[mine], inp[mine] = result.valid, result.ap, result.inp
        first_rank[mine], positives[mine] = result.first_rank, result.positives
    if not valid.any():
        raise DataError("no query has a match in its group")
    return Retrieval(valid, ap, inp, first_rank, positives)


def _any_match(ids: tuple[np.ndarray, np.ndarray], cameras: tuple[np.ndarray, np.ndarray] | None = None) -> bool:
    """True if any query has a match in the gallery, under another camera if cameras are given."""
    same = ids[0][:, None] == ids[1]
    return bool((same if cameras is None else same & (cameras[0][:, None] != cameras[1])).any())
