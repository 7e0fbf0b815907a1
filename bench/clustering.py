"""Time and memory of pseudo-labels: Jaccard distances and clusters, with sparse and with dense matrices."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from bench.dense import KINDS, dense_jaccard
from bench.memory import EXACT, in_a_fresh_process, peak_and_seconds
from msinet.training.recipe import Unsupervised
from msinet.training.recipes import resolve_unsupervised
from msinet.unsupervised.mmt import WIDEST, first_radius
from msinet.unsupervised.pseudo_labels import cluster, distances

#: Images and identities of the paper's training sets.
SIZES = {"market1501": (12_936, 751), "msmt17": (32_621, 1041)}
#: Standard deviation of features around their identity's centre; that of the centres is 1. Some images are outliers.
NOISE = 0.8


def made_up(images: int, identities: int, dim: int, *, clustered: bool = True) -> torch.Tensor:
    """Random unit features (images, dim) around one centre per identity, or all around zero if not clustered.

    They are made in parts to save memory.
    """
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((identities, dim), np.float32) * np.float32(clustered)
    rows = np.empty((images, dim), np.float32)
    for start in range(0, images, 1000):
        part = rows[start : start + 1000]
        part[:] = centres[rng.integers(0, identities, len(part))]
        part += np.float32(NOISE) * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return torch.from_numpy(rows)


def sparse_labels(features: torch.Tensor, settings: Unsupervised) -> np.ndarray:
    """Pseudo-labels as the methods of this suite make them."""
    return cluster(distances(features, settings), settings.eps, settings.min_samples)


def first_labels_of_mmt(features: torch.Tensor, settings: Unsupervised) -> np.ndarray:
    """Pseudo-labels of MMT's first clustering, which needs distances up to a large radius."""
    within = distances(features, settings, WIDEST)
    return cluster(within, first_radius(within, settings), settings.min_samples)


def dense_labels(features: torch.Tensor, settings: Unsupervised) -> np.ndarray:
    """Pseudo-labels with N x N matrices and loops over images, as in public code."""
    from sklearn.cluster import DBSCAN

    rows, k1, k2 = features.numpy(), settings.k1, settings.k2
    squared = (2 - 2 * rows @ rows.T).clip(min=0)
    length = k1 if settings.neighbour_lists == "k1" else k1 + 1
    order = np.argsort(squared, axis=1, kind="stable")[:, :length].copy()
    jaccard = squared  # reuses its memory
    dense_jaccard(squared, order, k1, k2, jaccard)
    np.clip(jaccard, 0, None, out=jaccard)
    labels: np.ndarray = DBSCAN(eps=settings.eps, min_samples=settings.min_samples, metric="precomputed").fit_predict(
        jaccard
    )
    return labels.astype(np.int64)


#: The columns of a row of `measure`; the first three identify it.
COLUMNS = ("set", "features", "form", "seconds", "extra_mib", "clusters")
#: Forms by name.
FORMS: dict[str, Callable[[torch.Tensor, Unsupervised], np.ndarray]] = {
    "sparse": sparse_labels,
    "first of mmt": first_labels_of_mmt,
    "dense": dense_labels,
}


def _once(
    form: str, images: int, identities: int, dim: int, threads: int, clustered: bool
) -> tuple[int | None, float, int]:
    """Extra bytes, seconds and number of clusters of a form. Must run in a fresh process."""
    torch.set_num_threads(threads)
    features = made_up(images, identities, dim, clustered=clustered)
    settings = resolve_unsupervised("paper", "mmt" if "mmt" in form else "gs", "market1501").recipe.method_settings
    FORMS[form](features[:200].clone(), settings)  # loads libraries
    clusters = 0

    def work() -> None:
        nonlocal clusters
        clusters = int(FORMS[form](features, settings).max()) + 1

    return *peak_and_seconds(work), clusters


def measure(sizes: Sequence[str], *, dim: int, dense: bool, threads: int) -> Iterator[dict[str, object]]:
    """A row per size, kind of features and form: seconds, memory in MiB without the features, clusters.

    Args:
        sizes: names in `SIZES`.
        dim: length of a feature.
        dense: whether to measure dense matrices as well, at Market-1501's size; at MSMT17's they take 20 GiB.
        threads: number of threads.
    """
    for size, (kind, clustered), form in itertools.product(sizes, KINDS.items(), FORMS):
        if form == "dense" and not (dense and size == "market1501"):
            continue
        arguments = (form, *SIZES[size], dim, threads, clustered)
        what = f"{size}, {kind}, {form}"
        extra, _, clusters = in_a_fresh_process(what, _once, *arguments, tunables=EXACT)
        _, seconds, _ = in_a_fresh_process(what, _once, *arguments)
        row = {"set": size, "features": kind, "form": form, "seconds": seconds}
        yield row | {"extra_mib": None if extra is None else extra / 2**20, "clusters": clusters}


def render(table: pd.DataFrame) -> str:
    """A line per size, kind of features and form."""
    return table.to_string(index=False, na_rep="-", float_format="{:.2f}".format)
