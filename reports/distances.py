"""Distances of queries to their nearest negatives (Figure 1, right)."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ablations.engine.store import Store
from msinet.data import Dataset
from msinet.retrieval import top_k
from msinet.training.options import RankingOptions
from reports.drawing import STYLE, add_title, looks, write_figure
from reports.networks import FinishedNetwork
from reports.ranked import embeddings

#: Negatives whose mean distance Figure 1 shows.
NEAREST = 10
#: Line styles of the networks in one plot.
STYLES = ("-", "--", ":", "-.")


def nearest_negatives(features: NDArray[np.float32], dataset: Dataset, count: int = NEAREST) -> pd.DataFrame:
    """How far each query of the first draw is from other identities and from its own.

    Args:
        features: (N, D), a row per test image.
        dataset: the data set of the test images. It holds no junk; distractors are negatives.
        count: number of nearest negatives per query; all of them if the gallery has fewer.

    Returns:
        One row per query with a match: query (its path), negatives and positives (the mean Euclidean distance between
        unit features, in [0, 2], to the `count` nearest gallery images of other identities, and to all of the query's
        own that the protocol leaves in), and ratio, the first over the second (NaN where the second is 0).
    """
    draw = dataset.draws[0]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    identities = dataset.test_identities
    same = np.zeros(len(identities), int)  # one camera for all: everything of the query's identity is left out
    _, squares = top_k(
        unit[draw.query],
        unit[draw.gallery],
        min(count, len(draw.gallery)),
        query_ids=identities[draw.query],
        gallery_ids=identities[draw.gallery],
        query_cameras=same[draw.query],
        gallery_cameras=same[draw.gallery],
    )
    rows = []
    for query, found in zip(draw.query, np.sqrt(squares), strict=True):
        own = dataset.matches(query, draw.gallery)
        found = found[np.isfinite(found)]
        if not len(own) or not len(found):
            continue
        positives = float(np.linalg.norm(unit[own] - unit[query], axis=1).mean())
        rows.append(
            {
                "query": dataset.test[query].path.relative_to(dataset.root).as_posix(),
                "negatives": float(found.mean()),
                "positives": positives,
                "ratio": float(found.mean()) / positives if positives else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def distance_data(
    store: Store, networks: Sequence[FinishedNetwork], dataset: Dataset, run_options: RankingOptions
) -> pd.DataFrame:
    """`nearest_negatives` of every seed of some networks, with columns row (label), network (card) and seed."""
    parts = []
    for one in networks:
        for seed, run_id in zip(one.seeds, one.run_ids, strict=True):
            found = nearest_negatives(embeddings(store, run_id, dataset, run_options), dataset)
            parts.append(found.assign(row=one.label, network=one.network, seed=seed))
    data = pd.concat(parts, ignore_index=True)
    return data[["row", "network", "seed", "query", "negatives", "positives", "ratio"]]


def draw_distances(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """Distributions over the queries: the distance to the nearest negatives, and its ratio to that of the positives.

    The paper shows the first alone. The scale of distances depends on the network's neck, so the second divides them by
    the distance to the matches: it is 1 where the nearest negatives are as far as the matches, and more where they are
    farther.

    Args:
        data: from `distance_data`.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    look = looks(dict(zip(data["row"], data["network"], strict=True)))
    panels = {
        "negatives": f"mean distance to the {NEAREST} nearest negatives",
        "ratio": "the same over the mean distance to the positives",
    }
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(6.6, 2.5), layout="constrained")
        for axis, (name, label) in zip(axes, panels.items(), strict=True):
            known = data.dropna(subset=name)
            # Beyond the last bin lie the few queries whose matches are nearly the same image.
            bins = np.linspace(known[name].min(), known[name].quantile(0.99), 31)
            for style, (row, part) in zip(cycle(STYLES), known.groupby("row", sort=False), strict=False):
                colour, _ = look[str(row)]
                shown = part[name].clip(upper=bins[-1])
                weights = np.full(len(part), 100 / len(part))
                axis.hist(shown, bins, weights=weights, histtype="stepfilled", color=colour, alpha=0.2)
                axis.hist(shown, bins, weights=weights, histtype="step", color=colour, ls=style, lw=1.3)
                axis.axvline(
                    part[name].median(), color=colour, ls=style, lw=1, label=f"{row}, median {part[name].median():.2f}"
                )
            axis.set(xlabel=label, ylabel="queries, %")
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=2.2)
        axes[1].axvline(1, color="0.6", lw=0.8, zorder=0)
        add_title(figure, title)
        return write_figure(figure, data.drop(columns="network"), stem)
