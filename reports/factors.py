"""Accuracy by level of each factor of the rendered world: occlusion, view change, light."""

import textwrap
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ablations.catalogue import Catalogue, Request
from ablations.store import Store
from msinet.errors import UserError
from msinet.io import write_text
from reports.figures import STYLE, add_title, looks, write_figure
from reports.tables import build_table

#: Resamples behind a confidence interval.
RESAMPLES = 1000
#: Upper bounds of the levels and their names.
LEVELS: dict[str, tuple[tuple[float, str], ...]] = {
    "occlusion": ((0.0, "none hidden"), (0.25, "up to a quarter"), (1.0, "more than a quarter")),
    "view_change": ((15.0, "up to 15°"), (45.0, "15 to 45°"), (180.0, "more than 45°")),
    "light": ((0.8, "dark, up to 0.8"), (1.05, "0.8 to 1.05"), (float("inf"), "bright, above 1.05")),
}


def by_factor(catalogue: Catalogue, request: Request) -> pd.DataFrame:
    """R1 and mAP of every network on the queries of each level.

    Columns: group, method, column (of the table), factor, level, queries, R1 and mAP in per cent, means over
    seeds and draws; low and high, the 95 % confidence interval of mAP (`interval`). Queries without a match are
    left out, as everywhere.

    Raises:
        UserError: no finished run of the request was ranked on rendered images.
    """
    store = Store(request.store)
    rows = []
    for row in build_table(catalogue, request).rows:
        for column, place in row.places.items():
            frames = [pd.read_csv(store.run_folder(run_id) / "queries.csv") for run_id in place.run_ids]
            if not frames or not all(factor in frame for frame in frames for factor in LEVELS):
                continue
            queries = pd.concat(frames)
            queries = queries[queries["positives"] > 0]
            for factor, levels in LEVELS.items():
                low = -float("inf")
                for high, name in levels:
                    part = queries[(queries[factor] > low) & (queries[factor] <= high)]
                    low = high
                    if len(part):
                        below, above = interval(part["ap"].to_numpy(), part["identity"].to_numpy())
                        rows.append(
                            {
                                "group": row.group,
                                "method": row.label,
                                "column": column,
                                "factor": factor,
                                "level": name,
                                "queries": len(part) // len(frames),
                                "R1": 100 * (part["first_rank"] == 1).mean(),
                                "mAP": 100 * part["ap"].mean(),
                                "low": 100 * below,
                                "high": 100 * above,
                            }
                        )
    if not rows:
        raise UserError(f"no finished run of {catalogue.name} in {request.store} was ranked on rendered images")
    return pd.DataFrame(rows)


def interval(values: np.ndarray, identities: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of a mean by the bootstrap over identities (percentiles of 1000 resamples).

    Identities are drawn with all their queries, because queries of one identity are hard or easy together; runs of
    several seeds count as more queries of the same identities. It says how far other identities could move the mean,
    not how far another training could. The same input gives the same interval; of a single identity it is NaN.

    Args:
        values: (Q,) of the queries.
        identities: (Q,) whose they are.
    """
    _, which = np.unique(identities, return_inverse=True)
    sums, counts = np.bincount(which, values), np.bincount(which)
    if len(counts) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    means = (drawn @ sums) / (drawn @ counts)  # (resamples,)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def draw_factors(data: pd.DataFrame, title: str, stem: Path) -> list[Path]:
    """mAP by level of each factor: a row of panels per column of the table, a line per network with its interval.

    Args:
        data: of `by_factor`, of one group of initial weights and what learned nothing.
        title: of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    names = data["method"]
    look = looks(names)
    columns = list(dict.fromkeys(data["column"]))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(columns),
            len(LEVELS),
            figsize=(7.1, 0.8 + 1.45 * len(columns)),
            squeeze=False,
            sharey="row",
            layout="constrained",
        )
        for line, column in zip(axes, columns, strict=True):
            for axis, (factor, levels) in zip(line, LEVELS.items(), strict=True):
                part = data[(data["column"] == column) & (data["factor"] == factor)]
                order = {name: place for place, (_, name) in enumerate(levels)}
                queries = part.groupby("level")["queries"].max()
                for number, (label, (colour, marker)) in enumerate(look.items()):
                    one = part[names[part.index] == label]
                    x = one["level"].map(order).astype(float) + 0.09 * (number - (len(look) - 1) / 2)
                    bars = [(one["mAP"] - one["low"]).clip(lower=0), (one["high"] - one["mAP"]).clip(lower=0)]
                    axis.errorbar(
                        x, one["mAP"], yerr=bars, color=colour, marker=marker, ms=3.5, lw=1, elinewidth=0.8, label=label
                    )
                ticks = [f"{textwrap.fill(name, 13)}\nn={queries.get(name, 0)}" for _, name in levels]
                axis.set_xticks(range(len(levels)), ticks, fontsize=6.5)
                axis.set_xlim(-0.45, len(levels) - 0.55)
                axis.grid(axis="y")
                axis.set_axisbelow(True)
            line[0].set_ylim(0, None)  # of the whole row, now that all of it is drawn
            line[0].set_ylabel(f"{column}: mAP, %")
        for axis, factor in zip(axes[0], LEVELS, strict=True):
            axis.set_title(factor.replace("_", " "))
        handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)))
        add_title(figure, title)
        return write_figure(figure, data, stem)


def as_markdown(data: pd.DataFrame) -> str:
    """One table per column: a line per factor and level, a column per network."""
    out = []
    for column, part in data.groupby("column", sort=False):
        methods = list(dict.fromkeys(zip(part["group"], part["method"], strict=True)))
        groups = defaultdict(list)
        for group, method in methods:
            groups[method].append(group)
        names = [method if len(groups[method]) == 1 else f"{method}, {group}" for group, method in methods]
        out += [
            f"**{column}**, R1 / mAP",
            "",
            f"| factor | level | queries | {' | '.join(names)} |",
            "|" + "---|" * (3 + len(names)),
        ]
        for (factor, level), cells in part.groupby(["factor", "level"], sort=False):
            found = {(c["group"], c["method"]): f"{c['R1']:.1f} / {c['mAP']:.1f}" for _, c in cells.iterrows()}
            values = " | ".join(found.get(method, "-") for method in methods)
            out.append(f"| {str(factor).replace('_', ' ')} | {level} | {cells['queries'].iloc[0]} | {values} |")
        out.append("")
    return "\n".join(out)


def write_factors(data: pd.DataFrame, stem: Path) -> list[Path]:
    """Write STEM.md and STEM.csv; returns the files."""
    write_text(stem.with_suffix(".md"), as_markdown(data))
    write_text(stem.with_suffix(".csv"), data.to_csv(index=False, float_format="%.3f"))
    return [stem.with_suffix(".md"), stem.with_suffix(".csv")]
