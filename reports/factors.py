"""Accuracy by level of each factor of the rendered world: occlusion, view change, light."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ablations.engine.study import group_label
from msinet.errors import UserError
from msinet.io import write_text
from reports.curves import by_group
from reports.drawing import STYLE, add_legend, add_title, finish_axes, looks, write_figure
from reports.layout import build_table
from reports.markdown import markdown_table
from reports.results import Results, file_name
from reports.statistics import resampled_counts
from reports.tables import Column, network_of, random_weights

#: Upper bounds of the levels and their names.
LEVELS: dict[str, tuple[tuple[float, str], ...]] = {
    "occlusion": ((0.0, "none hidden"), (0.25, "up to a quarter"), (1.0, "more than a quarter")),
    "view_change": ((15.0, "up to 15°"), (45.0, "15 to 45°"), (180.0, "more than 45°")),
    "light": ((0.8, "dark, up to 0.8"), (1.05, "0.8 to 1.05"), (float("inf"), "bright, above 1.05")),
}
#: Fewest queries of a level that the figure shows.
FEWEST = 30


def by_factor(results: Results, name: str) -> pd.DataFrame:
    """R1 and mAP of every row of a study on the queries of each level, without networks of random weights.

    Columns: group, row, network, column, factor, level, queries (of all draws), R1 and mAP in per cent, means over
    seeds and draws; low and high, the 95 % confidence interval of mAP (`interval`). Queries without a match are left
    out.

    Raises:
        UserError: no finished run was ranked on rendered images.
    """
    table = build_table(results, name)
    found: list[tuple[dict[str, str], Column, pd.DataFrame, int]] = []
    fewest: dict[Column, int] = {}
    for row in table.rows:
        about = {"group": group_label(row.group), "row": table.label(row.factors), "network": network_of(row)}
        if random_weights(row):
            continue
        for column, cell in row.cells.items():
            frames = [results.queries(run_id) for run_id in cell.run_ids]
            if frames and all(factor in frame for frame in frames for factor in LEVELS):
                queries = pd.concat(frames)
                rankings = queries["draw"].nunique()  # of an oracle: several, also where the set has one draw
                fewest[column] = min(rankings, fewest.get(column, rankings))
                found.append((about, column, queries[queries["positives"] > 0], len(frames) * rankings))
    rows = [
        about | {"column": column.label} | level
        for about, column, queries, rankings in found
        for level in _levels(queries, rankings // fewest[column])
    ]
    if not rows:
        raise UserError(f"no finished run of {name} in {results.store.root} was ranked on rendered images")
    return pd.DataFrame(rows)


def _levels(queries: pd.DataFrame, repetitions: int) -> Iterator[dict[str, object]]:
    """The queries of some runs at each level of each factor, if there are any; each query is in them several times."""
    for factor, levels in LEVELS.items():
        bounds = (-math.inf, *(high for high, _ in levels))
        for low, (high, level) in zip(bounds, levels, strict=False):
            part = queries[(queries[factor] > low) & (queries[factor] <= high)]
            if part.empty:
                continue
            families = "family" in part and bool(part["family"].notna().all())  # unknown to runs of earlier versions
            below, above = interval(part["ap"].to_numpy(), part["family" if families else "identity"].to_numpy())
            yield {
                "factor": factor,
                "level": level,
                "queries": len(part) // repetitions,
                "R1": part["R1"].mean(),
                "mAP": part["ap"].mean(),
                "low": below,
                "high": above,
            }


def interval(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of a mean by the bootstrap over clusters of test images, from percentiles.

    Clusters are drawn with all their queries, because queries of one identity or family are hard or easy together; runs
    of several seeds count as more queries of the same clusters. The interval covers the choice of identities, not the
    variance of training. The same input gives the same interval; it is NaN for a single cluster.

    Args:
        values: (Q,) value of each query.
        clusters: (Q,) family of similar identities of each query, in rendered sets, else its identity.
    """
    _, which = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(which, values), np.bincount(which)
    if len(counts) < 2:
        return float("nan"), float("nan")
    drawn = resampled_counts(len(counts))
    means = (drawn @ sums) / (drawn @ counts)  # (resamples,)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def draw_study_factors(data: pd.DataFrame, results: Results, name: str, folder: Path) -> list[Path]:
    """A figure of `by_factor` for each group of a study."""
    request = results.request
    stem = folder / f"{file_name(name, request)}-factors-mAP"
    written: list[Path] = []
    repetitions = results.repetitions_of(name)
    for group, part, one in by_group(data, stem):
        title = (
            f"mAP by factor of the query, {group}, profile {request.profile}, {repetitions}; "
            "bars: 95 % bootstrap interval over identities, similar ones together; n: queries of all draws; "
            f"levels with fewer than {FEWEST} queries are not drawn"
        )
        written += draw_factors(part, title, one)
    return written


def draw_factors(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """mAP by level of each factor: a row of panels per column of the table, a line per network with its interval.

    Args:
        data: from `by_factor`, of one trained group and the untrained one.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    look = looks(dict(zip(data["row"], data["network"], strict=True)))
    columns = list(dict.fromkeys(data["column"]))
    size = (7.1, 0.8 + 1.45 * len(columns))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(columns), len(LEVELS), figsize=size, squeeze=False, sharey="row", layout="constrained"
        )
        for line, column in zip(axes, columns, strict=True):
            for axis, factor in zip(line, LEVELS, strict=True):
                part = data[(data["column"] == column) & (data["factor"] == factor)]
                _factor_panel(axis, part, factor, look)
            line[0].set_ylim(0, None)  # of the whole row, now that all of it is drawn
            line[0].set_ylabel(f"{column}: mAP, %")
        for axis, factor in zip(axes[0], LEVELS, strict=True):
            axis.set_title(factor.replace("_", " "))
        add_legend(figure, dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True)))
        add_title(figure, title)
        return write_figure(figure, data.drop(columns="network"), stem)


def _factor_panel(axis: Axes, part: pd.DataFrame, factor: str, look: dict[str, tuple[str, str]]) -> None:
    levels = [level for _, level in LEVELS[factor]]
    queries = part.groupby("level")["queries"].max()
    for number, (label, (colour, marker)) in enumerate(look.items()):
        one = part[(part["row"] == label) & (part["queries"] >= FEWEST)]
        x = one["level"].map(levels.index).astype(float) + 0.09 * (number - (len(look) - 1) / 2)
        bars = [(one["mAP"] - one["low"]).clip(lower=0), (one["high"] - one["mAP"]).clip(lower=0)]
        axis.errorbar(x, one["mAP"], yerr=bars, color=colour, marker=marker, ms=3.5, lw=1, elinewidth=0.8, label=label)
    ticks = [f"{textwrap.fill(level, 13)}\nn={queries.get(level, 0)}" for level in levels]
    axis.set_xticks(range(len(levels)), ticks, fontsize=6.5)
    axis.set_xlim(-0.45, len(levels) - 0.55)
    finish_axes(axis)


def as_markdown(data: pd.DataFrame) -> str:
    """One table per column: a line per factor and level, a column per row of the study."""
    out = []
    for column, part in data.groupby("column", sort=False):
        rows = list(dict.fromkeys(zip(part["group"], part["row"], strict=True)))
        several = Counter(label for _, label in rows)
        names = [label if several[label] == 1 else f"{label}, {group}" for group, label in rows]
        lines = []
        for (factor, level), cells in part.groupby(["factor", "level"], sort=False):
            found = {(c["group"], c["row"]): f"{c['R1']:.1f} / {c['mAP']:.1f}" for _, c in cells.iterrows()}
            about = [str(factor).replace("_", " "), str(level), str(cells["queries"].iloc[0])]
            lines.append([*about, *(found.get(row, "-") for row in rows)])
        out += [f"**{column}**, R1 / mAP", "", *markdown_table(["factor", "level", "queries", *names], lines), ""]
    return "\n".join(out)


def write_factors(data: pd.DataFrame, stem: Path) -> list[Path]:
    """Write STEM.md and STEM.csv; returns the files."""
    write_text(stem.with_suffix(".md"), as_markdown(data))
    write_text(stem.with_suffix(".csv"), data.to_csv(index=False, float_format="%.3f"))
    return [stem.with_suffix(".md"), stem.with_suffix(".csv")]
