"""Figures of a study's rows and of sweeps, each a PNG and an SVG with the CSV that it shows."""

import json
import math
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ablations.engine.study import group_label
from ablations.engine.sweep import summary_path
from reports.comparisons import Comparisons
from reports.drawing import COLOURS, STYLE, add_legend, add_title, finish_axes, title_lines, write_figure
from reports.layout import build_table, comparisons_of
from reports.notes import baseline_pairs
from reports.results import Factors, Results, file_name, in_percent
from reports.tables import Column, Table

#: Factors that are drawn as a numeric axis: name of the axis, unit after its numbers, and whether the factor changes
#: the network's size, which is then drawn as well.
AXES = {
    "overlap": ("share of identities on both sides (overlap)", "", False),
    "ratio": ("scale ratio of the branches", ":1", True),
    "weight": ("weight of spatial alignment", "", False),
}
#: Style of the error bars.
BARS: dict[str, Any] = {"fmt": "none", "color": "0.35", "lw": 0.9, "capsize": 2, "zorder": 1}
#: Sizes of a network: name of the axis and unit.
SIZES = {"parameters": ("parameters, M", 1e6), "macs": ("multiply-adds, $10^9$", 1e9)}


def run_data(table: Table, compared: Comparisons) -> pd.DataFrame:
    """One row per finished run of a table, for figures.

    Columns: group, factors, row (its label), column, seed, run_id, metric (the one that decides the column), R1 and
    mAP in per cent, parameters (without classifiers), macs, and low, high and scope: the 95 % interval of the
    difference to the baseline row, added to that row's mean, and its scope; NaN and empty without one.
    """
    names = ["group", "factors", "row", "column", "seed", "run_id", "metric", "R1", "mAP", "parameters", "macs"]
    names += ["low", "high", "scope"]
    intervals = _intervals(table, compared)
    parts = []
    for row in table.rows:
        for column, cell in row.cells.items():
            if cell.done:
                about: dict[str, Any] = {"group": group_label(row.group), "row": table.label(row.factors)}
                size = cell.runs["parameters_without_classifier"]
                low, high, scope = intervals.get((row.group, row.factors, column), (math.nan, math.nan, ""))
                about |= {"column": column.label, "metric": column.headline, "low": low, "high": high, "scope": scope}
                parts.append(cell.runs.assign(**about, parameters=size)[names])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def _intervals(table: Table, compared: Comparisons) -> dict[tuple[str, Factors, Column], tuple[float, float, str]]:
    """Intervals of the differences to the baseline, on the axis of the metric, by group, factors and column."""
    found = {}
    for group in dict.fromkeys(row.group for row in table.rows):
        for column in table.columns:
            for row, base in baseline_pairs(table, [r for r in table.rows if r.group == group], column):
                effect = compared.effect(row, base, column, column.headline)
                if not effect.has_interval:
                    continue
                start = base.cells[column].mean(column.headline)
                low, high = effect.interval
                found[group, row.factors, column] = start + low, start + high, effect.scope
    return found


def baseline_name(table: Table, data: pd.DataFrame) -> str:
    """Label of the baseline row of `run_data`, or "the baseline row" of several; empty without any."""
    rows = list(dict.fromkeys(data["factors"]))
    bases = {base for factors in rows if (base := table.baseline_of(factors, rows))}
    return table.label(bases.pop()) if len(bases) == 1 else "the baseline row" if bases else ""


def interval_caption(data: pd.DataFrame, base: str) -> str:
    """The meaning of the error bars of `run_data`, for captions; empty without any.

    Args:
        data: from `run_data`.
        base: from `baseline_name`.
    """
    scopes = [scope for scope in data["scope"].unique() if scope]
    return f"; error bar: 95 % interval of the difference to {base}, {' or '.join(scopes)}" if scopes else ""


def error_bars(data: pd.DataFrame, means: "pd.Series[float]", name: str) -> tuple[list[Any], list["pd.Series[float]"]]:
    """Rows or levels that have an interval in `run_data`, and its lengths below and above their means."""
    bounds = data.dropna(subset="low").groupby(name, sort=False)[["low", "high"]].first()
    centres = means[bounds.index]
    return list(bounds.index), [(centres - bounds["low"]).clip(lower=0), (bounds["high"] - centres).clip(lower=0)]


def draw_study(results: Results, name: str, folder: Path) -> list[Path]:
    """The figure of an ablation's rows, and of its sweep if it has one; nothing without finished runs."""
    table = build_table(results, name)
    assert table.study is not None
    if not table.study.baseline:
        return []
    stem = folder / file_name(name, results.request)
    data = run_data(table, comparisons_of(results, name))
    title = f"{table.title}, profile {results.request.profile}, {results.repetitions_of(name)}"
    written: list[Path] = []
    if len(data):
        draw = draw_levels if table.study.axis in AXES else draw_rows
        written += draw(data, table, title, stem.with_name(f"{stem.name}-rows"))
    outcome = summary_path(results.request, name.removeprefix("sweep_"))
    if name.startswith("sweep_") and outcome.exists():
        written += draw_sweep(outcome, stem.with_name(f"{stem.name}-trials"))
    return written


def panels_of(data: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Runs by group and column; runs with different initial weights are not averaged."""
    return [
        ((str(group), str(column)), part) for (group, column), part in data.groupby(["group", "column"], sort=False)
    ]


# --- Rows ----------------------------------------------------------------------------------------


def draw_rows(data: pd.DataFrame, table: Table, title: str, stem: Path) -> list[Path]:
    """Accuracy of every row of an ablation: a panel for each group and column, a line to each row from its baseline.

    A dot is a run; the bar and the number on the right are the mean of a row's runs. The metric is the column's
    headline metric.

    Args:
        data: from `run_data`, not empty.
        table: the table of these rows.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    rows = list(dict.fromkeys(data["factors"]))
    labels = [table.label(factors) for factors in rows]
    panels = panels_of(data)
    repeated = bool(data.groupby(["group", "column", "row"]).size().max() > 1)
    width = 1 + 0.055 * max(map(len, labels)) + 2.3 * len(panels)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(width, 1.3 + 0.21 * len(rows)), squeeze=False, sharey=True, layout="constrained"
        )
        for axis, ((group, column), part) in zip(axes[0], panels, strict=True):
            _rows_panel(axis, part, table, labels, repeated=repeated)
            several = data["group"].nunique() > 1
            axis.set_title(textwrap.fill(f"{column}, {group}", 26) if several else column)
        mark = "dot: a run; bar and number: mean" if repeated else "one run per row, no variance estimate"
        base = baseline_name(table, data)
        mark += f"; grey: difference to {base}" if base else ""
        mark += interval_caption(data, base)
        figure.supxlabel("\n".join(title_lines(mark, 1.15 * width)), fontsize=7, color="0.35")
        add_title(figure, title)
        return write_figure(figure, data.drop(columns="factors"), stem)


def _rows_panel(axis: Axes, part: pd.DataFrame, table: Table, labels: list[str], *, repeated: bool) -> None:
    metric = str(part["metric"].iloc[0])
    means = part.groupby("row", sort=False)[metric].mean().reindex(labels)
    ours: dict[Factors, str] = dict(zip(part["factors"], part["row"], strict=True))
    bases = {label: table.baseline_of(factors, ours) for factors, label in ours.items()}
    starts = {label: means[ours[base]] for label, base in bases.items() if base is not None}
    if len(set(starts.values())) == 1:
        axis.axvline(next(iter(starts.values())), color="0.6", lw=0.8, ls="--", zorder=0)
    for label, start in starts.items():
        axis.hlines(labels.index(label), start, means[label], color="0.8", lw=2, zorder=0)
    rows, bars = error_bars(part, means, "row")
    if rows:
        axis.errorbar(means[rows], [labels.index(row) for row in rows], xerr=np.asarray(bars, dtype=float), **BARS)
    alpha = 0.55 if repeated else 1
    sns.stripplot(part, x=metric, y="row", order=labels, color=COLOURS[0], size=4.5, jitter=False, alpha=alpha, ax=axis)
    if repeated:
        axis.plot(means, range(len(labels)), "|", ms=11, mew=2, color=COLOURS[1])
    for line, mean in enumerate(means):
        text = "-" if pd.isna(mean) else f"{mean:.1f}"
        axis.text(1.02, line, text, va="center", fontsize=7.5, transform=axis.get_yaxis_transform())
    axis.margins(x=0.12)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set(xlabel=f"{metric}, %", ylabel="", ylim=(len(labels) - 0.4, -0.6))
    finish_axes(axis)
    axis.tick_params(axis="y", length=0)


# --- Levels --------------------------------------------------------------------------------------


def draw_levels(data: pd.DataFrame, table: Table, title: str, stem: Path) -> list[Path]:
    """Accuracy against the factor that a study draws as an axis, one panel per group and column.

    Rows that differ in that factor alone form a line through their means. Rows without such siblings are dashed
    lines. A dot is a run. If the factor changes the size of the network, two more panels show the size.

    Args:
        data: from `run_data`, not empty.
        table: the table of these rows.
        title: title of the figure.
        stem: path without suffix for the .png, .svg and .csv.
    """
    assert table.study is not None
    factor = table.study.axis
    rows = {*data["factors"], *(row.factors for row in table.rows)}
    siblings = Counter(without(factors, factor) for factors in rows)
    data = data.assign(
        level=[
            float(dict(factors)[factor]) if siblings[without(factors, factor)] > 1 else math.nan
            for factors in data["factors"]
        ]
    )
    panels = panels_of(data)
    name, unit, sized = AXES[factor]
    sizes = SIZES if sized and data["level"].notna().any() else {}
    wide = len(panels) + len(sizes)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, wide, figsize=(0.9 + 2.4 * wide, 2.5), squeeze=False, layout="constrained")
        for axis, ((group, column), part) in zip(axes[0], panels, strict=False):
            _levels_panel(axis, part, column)
            if data["group"].nunique() > 1:
                axis.set_title(group)
        once = data.dropna(subset="level").drop_duplicates("level").sort_values("level")
        for axis, (size, (label, one)) in zip(axes[0][len(panels) :], sizes.items(), strict=True):
            values = once[size] / one
            axis.plot(once["level"], values, "s-", ms=4, color="0.35")
            axis.set(ylabel=label, xticks=list(once["level"]), ylim=(0, 1.1 * values.max()))
            axis.margins(x=0.06)
        for axis in axes[0]:
            axis.set_xlabel(name)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}{unit}")
            finish_axes(axis)
        repeated = data.groupby(["group", "column", "row"]).size().max() > 1
        mark = "dot: a run; line: mean" if repeated else "one run per point, no variance estimate"
        mark += interval_caption(data, baseline_name(table, data))
        figure.supxlabel("\n".join(title_lines(mark, 1.15 * figure.get_figwidth())), fontsize=7, color="0.35")
        add_title(figure, title)
        return write_figure(figure, data.drop(columns="factors"), stem)


def without(factors: Factors, name: str) -> Factors:
    """The coordinates of a row without one factor."""
    return tuple(pair for pair in factors if pair[0] != name)


def _levels_panel(axis: Axes, part: pd.DataFrame, column: str) -> None:
    metric = str(part["metric"].iloc[0])
    levels = part.dropna(subset="level").sort_values("level")
    means = levels.groupby("level")[metric].mean()
    axis.plot(means.index, means, "-", color=COLOURS[0], zorder=1)
    compared, bars = error_bars(levels, means, "level")
    if compared:
        axis.errorbar(compared, means[compared], yerr=np.asarray(bars, dtype=float), **BARS)
    alpha = 0.7 if len(levels) > len(means) else 1
    axis.plot(levels["level"], levels[metric], "o", ms=4.5, color=COLOURS[0], alpha=alpha)
    others = part[part["level"].isna()].groupby("row", sort=False)[metric].mean()
    for colour, (row, mean) in zip(COLOURS[1:], others.items(), strict=False):
        axis.axhline(mean, color=colour, ls="--", lw=1.1)
        # The label goes where the line through the means is farthest away, to the other side of this line.
        place = (means - mean).abs().argmax() if len(means) else 0
        above = not len(means) or means.iloc[place] < mean
        axis.annotate(
            str(row),
            (means.index[place], mean) if len(means) else (0, mean),
            (0, 2 if above else -2),
            xycoords="data" if len(means) else ("axes fraction", "data"),
            ha="left" if place == 0 else "right" if place == len(means) - 1 else "center",
            va="bottom" if above else "top",
            textcoords="offset points",
            fontsize=7,
            color=colour,
        )
    axis.set(ylabel=f"{metric} on {column}, %", xticks=list(means.index))
    axis.margins(x=0.06, y=0.15)


# --- Sweeps --------------------------------------------------------------------------------------


def draw_sweep(outcome: Path, stem: Path) -> list[Path]:
    """The trials of a sweep against each setting that it varied, and the importance of each setting.

    Args:
        outcome: JSON file of `python -m ablations sweep`, with its CSV next to it.
        stem: path without suffix for the .png, .svg and .csv.
    """
    summary: dict[str, Any] = json.loads(outcome.read_text(encoding="utf-8"))
    trials = in_percent(pd.read_csv(outcome.with_suffix(".csv")))
    best = trials[trials["state"] == "complete"].nlargest(1, "mAP").iloc[0]
    importances: dict[str, float] = summary["importances"]
    panels = len(summary["vary"]) + bool(importances)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(0.9 + 2.6 * panels, 2.5), squeeze=False, layout="constrained")
        for axis, name in zip(axes[0], summary["vary"], strict=False):
            for state, colour, marker in (("complete", COLOURS[0], "o"), ("pruned", COLOURS[4], "v")):
                part = trials[trials["state"] == state]
                if len(part):
                    axis.plot(part[name], part["mAP"], marker, ms=5, color=colour, label=f"{state} trial")
            axis.plot(best[name], best["mAP"], "*", ms=12, color=COLOURS[1], label="best")
            axis.set(xlabel=name.replace("_", " "), ylabel="mAP on held-out identities, %")
            axis.margins(y=0.12)
            finish_axes(axis)
        add_legend(figure, dict(zip(*reversed(axes[0][0].get_legend_handles_labels()), strict=True)))
        if importances:
            names = [name.replace("_", " ") for name in importances]
            sns.barplot(x=list(importances.values()), y=names, color=COLOURS[0], ax=axes[0][-1])
            axes[0][-1].set(xlabel="share of explained variance (PED-ANOVA)", ylabel="")
        add_title(figure, f"Sweep on {summary['set']}, profile {summary['profile']}, {len(trials)} trials")
        return write_figure(figure, trials, stem)
