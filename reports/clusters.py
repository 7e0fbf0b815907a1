"""Figures of methods without labels: number of clusters and outliers, and their agreement with the identities."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

from msinet.models.registry import label_of, with_width
from reports.drawing import STYLE, add_legend, add_title, finish_axes, looks, write_figure
from reports.layout import build_table
from reports.results import Results, file_name

#: Columns of a history that are drawn, and names of their axes.
QUALITY = {"clusters": "clusters", "outliers": "images in\nno cluster", "nmi": "NMI", "ari": "ARI"}


def draw_clusters(results: Results, name: str, folder: Path) -> list[Path]:
    """The clusters of a study's finished runs over their epochs: a line per run, panels per task and network.

    Raises:
        UserError: no finished run has clusters.
    """
    data = cluster_data(results, name)
    request = results.request
    stem = folder / f"{file_name(name, request)}-clusters"
    return draw(data, f"Clusters at the start of each epoch, profile {request.profile}", stem)


def cluster_data(results: Results, name: str) -> pd.DataFrame:
    """One row per run and epoch: row, method, network, column, seed, run_id, epoch, clusters, outliers, nmi, ari.

    NMI and ARI count each outlier as a cluster of its own; they are empty where the identities are not known.

    Raises:
        UserError: no finished run has clusters.
    """
    table = build_table(results, name)
    parts = []
    for column in table.columns:
        for row in table.rows:
            for _, run in row.cells[column].runs.iterrows():
                history = results.history(run["run_id"]) if run["steps"] else pd.DataFrame()
                if "clusters" in history:
                    factors = dict(row.factors)
                    about = {
                        "row": table.label(row.factors),
                        "method": str(factors["method"]).partition("+")[0],
                        "network": label_of(with_width(str(factors["backbone"]), float(factors["width"]))),
                        "column": column.label,
                        "seed": run["seed"],
                    }
                    found = history.reindex(columns=["epoch", *QUALITY])
                    parts.append(found.assign(**about, run_id=run["run_id"]))
    if not parts:
        raise results.missing(name, "run with clusters")
    return pd.concat(parts, ignore_index=True)


def draw(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """Draw and write the figure.

    Args:
        data: from `cluster_data`.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    networks = [*dict.fromkeys(data["network"])]
    panels = sorted(data.groupby(["column", "network"], sort=False), key=lambda panel: networks.index(panel[0][1]))
    panels.sort(key=lambda panel: [*data["column"]].index(panel[0][0]))
    look = looks(dict.fromkeys(data["method"], ""))
    size = (1.2 + 2.6 * len(panels), 1.2 + 1.2 * len(QUALITY))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(QUALITY), len(panels), figsize=size, squeeze=False, sharex="col", sharey="row", layout="constrained"
        )
        handles = {}
        for place, ((column, network), part) in enumerate(panels):
            for axis, name in zip(axes[:, place], QUALITY, strict=True):
                for _, run in part.groupby("run_id", sort=False):
                    method = str(run["method"].iloc[0])
                    colour, marker = look[method]
                    style = {"marker": marker, "markevery": max(1, len(run) // 6), "ms": 3, "lw": 1.1}
                    (handles[method],) = axis.plot(run["epoch"], run[name], color=colour, **style)
                finish_axes(axis)
            axes[0, place].set_title(f"{column}, {network}")
            axes[-1, place].set_xlabel("epoch")
        for axis, (name, label) in zip(axes[:, 0], QUALITY.items(), strict=True):
            axis.set_ylabel(label)
            axis.set_ylim(0, 1.05 * max(1e-3, data[name].max(skipna=True)))
        figure.align_ylabels(axes[:, 0])
        add_legend(figure, handles)
        add_title(figure, title)
        return write_figure(figure, data, stem)
